"""A GPT-2 that repeats itself less: cross-entropy with token-level unlikelihood (Welleck et al. 2020).

    python -m llm_jax.train --config=configs/unlikelihood.py:debug --workdir=/tmp/unlikelihood
    python -m llm_jax.train --config=configs/unlikelihood.py:355m --workdir=runs/unlikelihood \
        --init_from=/models/gpt2-medium --config.data.name=text_folder --config.data.path=/data/wikitext

It goes on from a trained model for a few thousand steps; `train/repeats` is the share of places where the most probable
token is one that the text has used. The default text is the embedded one, so that every size can be tried.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "355m") -> ConfigDict:
  """arg: 'debug', or a size of llm_jax/models/gpt.py."""
  c = ConfigDict()
  c.model = dict(name="gpt", variant=arg, dtype="bfloat16", remat="split")
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000))
  c.objective = dict(name="unlikelihood")
  c.optimizer = dict(name="adamw", peak=1e-5, warmup=100, decay="linear", b2=0.95, weight_decay=0.1)
  c.train = dict(steps=3_000, batch_size=32, length=512)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=500, batches=50)
  c.checkpoint = dict(every=500)
  if arg == "debug":
    c.model = dict(name="gpt", variant="debug")
    c.data = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.optimizer.peak, c.optimizer.warmup = 3e-3, 20
    c.train = dict(steps=200, batch_size=8, length=128)
    c.evaluation = dict(every=100, batches=4)
    c.checkpoint = dict(every=100)
  return c


def sweep(add):
  """How much the unlikelihood counts; 0 is plain cross-entropy."""
  for alpha in (0.0, 0.5, 1.0, 2.0):
    add({"objective.alpha": alpha})
