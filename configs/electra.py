"""ELECTRA: a generator fills in masked tokens, the discriminator tells which were replaced.

    python -m llm_jax.train --config=configs/electra.py:debug --workdir=/tmp/electra
    python -m llm_jax.train --config=configs/electra.py:small --workdir=runs/electra --config.mesh.fsdp=-1 \
        --config.data.name=text_folder --config.data.path=/data/openwebtext
    python -m llm_jax.convert --from=runs/electra --to=exported     # exported/generator and exported/discriminator

The recipes are those of Clark et al. 2020, table 6. The default text is the embedded one, so that every size can be
tried; it is far too small for a real run.
"""

from ml_collections import ConfigDict

# Peak learning rate, steps, batch, length, share of tokens masked.
RECIPES = {"small": (5e-4, 1_000_000, 128, 128, 0.15), "base": (2e-4, 766_000, 256, 512, 0.15),
           "large": (2e-4, 400_000, 2_048, 512, 0.25), "debug": (3e-3, 600, 16, 128, 0.15)}


def get_config(arg: str = "small") -> ConfigDict:
  """arg: small, base or large; 'debug' trains on a laptop in two minutes."""
  c = ConfigDict()
  peak, steps, batch, length, ratio = RECIPES[arg]
  c.model = dict(name="electra", variant=arg, dtype="bfloat16", dropout=0.1, remat="split")
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000))
  c.objective = dict(name="replaced_token", ratio=ratio)
  c.optimizer = dict(name="adamw", peak=peak, warmup=10_000, decay="linear", b2=0.999, eps=1e-6, weight_decay=0.01)
  c.train = dict(steps=steps, batch_size=batch, length=length)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=1_000, batches=50)
  c.checkpoint = dict(every=1_000)
  if arg == "debug":
    c.model = dict(name="electra", variant="debug", scan=False)
    c.data.tokenizer = dict(name="bytes")
    c.optimizer.warmup, c.optimizer.b2 = 50, 0.98
    c.evaluation = dict(every=200, batches=8)
    c.checkpoint = dict(every=200)
  return c


def sweep(add):
  """The generator's size, and embeddings that it has for itself (Clark et al. 2020, figure 3 and section 3.2)."""
  for generator in (0.25, 0.5, 1.0):
    for shared in (True, False):
      add({"model.generator": generator, "model.shared": shared})
