"""XLNet sizes, from scratch.

    python -m llm_jax.train --config=configs/xlnet.py:debug --workdir=/tmp/xlnet
    python -m llm_jax.train --config=configs/xlnet.py:debug-mems --workdir=/tmp/xlnet_mems
    python -m llm_jax.train --config=configs/xlnet.py:large --workdir=runs/xlnet \
        --config.data.name=text_folder --config.data.path=/data/books --config.mesh.fsdp=-1

Tokens in a random order of factorisation, of which the last sixth is predicted. The recipe is the paper's for its large
size (Yang et al. 2019, appendix): 500,000 updates of 8,192 rows of 512 tokens by Adam at 4e-4 with a linear decay,
dropout 0.1; the base size takes it too. '-mems' behind a size reads each text on from step to step, with what the
layers read in the row before in sight (section 2.5). The default text is the embedded one, so that every size can be
tried; it is far too small for a real run.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "base") -> ConfigDict:
  """arg: a size of llm_jax/models/xlnet.py, with '-mems' behind it for segment recurrence; 'debug' runs on a laptop."""
  c = ConfigDict()
  variant = arg.removesuffix("-mems")
  c.model = dict(name="xlnet", variant=variant, dtype="bfloat16", dropout=0.1, remat="dots")
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000))
  c.objective = dict(name="permutation_lm")
  c.optimizer = dict(name="adamw", peak=4e-4, warmup=40_000, decay="linear", eps=1e-6, weight_decay=0.01)
  c.train = dict(steps=500_000, batch_size=8_192, length=512)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=1_000, batches=50)
  c.checkpoint = dict(every=1_000)
  if variant == "debug":
    c.model = dict(name="xlnet", variant="debug", scan=False)
    c.data = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.optimizer = dict(name="adamw", peak=3e-3, warmup=50, decay="linear", b2=0.98, eps=1e-6, weight_decay=0.01)
    c.train = dict(steps=400, batch_size=16, length=128)
    c.evaluation = dict(every=200, batches=8)
    c.checkpoint = dict(every=200)
  if arg.endswith("-mems"):
    c.model.mem_len = c.train.length
    c.data.update(packing="stream", mixture="proportional")
  return c


def sweep(add):
  """Learning rate, and the share that is predicted."""
  for last in (3.0, 6.0):
    for peak in (1e-3, 3e-3):
      add({"optimizer.peak": peak, "objective.last": last})
