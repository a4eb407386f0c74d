"""A small GPT on the text that every machine has: Python's own documentation and sources.

    python -m llm_jax.train --config=configs/quickstart.py --workdir=runs/quickstart
    python -m llm_jax.generate --workdir=runs/quickstart --prompt="The "
    python -m llm_jax.train --config=configs/quickstart.py:debug --workdir=/tmp/debug
"""

from ml_collections import ConfigDict

ARGUMENTS = ("debug",)


def get_config(arg: str = "") -> ConfigDict:
  """arg: 'debug' runs in seconds."""
  c = ConfigDict()
  c.model = dict(name="gpt", variant="124m", width=192, depth=4, heads=6, scan=False)
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=2048),
                mixture={"prose": 3.0, "code": 1.0})
  c.optimizer = dict(name="adamw", peak=3e-3, warmup=100, decay="cosine", b2=0.99, weight_decay=0.1)
  c.train = dict(steps=800, batch_size=16, length=128)
  c.evaluation = dict(every=325, batches=30)
  c.checkpoint = dict(every=650)
  c.sample = dict(every=650, prompts=["The ", "def "], tokens=100)
  if arg == "debug":
    c.model = dict(name="gpt", variant="debug")
    c.data.tokenizer = dict(name="bytes")
    c.optimizer.warmup = 5
    c.train = dict(steps=20, batch_size=8, length=64)
    c.evaluation = dict(every=10, batches=2)
    c.checkpoint = dict(every=10)
    c.sample = dict(every=20, prompts=["The "], tokens=20)
  return c


def sweep(add):
  """Learning rate and depth."""
  for peak in (1e-3, 3e-3, 1e-2):
    for depth in (2, 4):
      add({"optimizer.peak": peak, "model.depth": depth})
