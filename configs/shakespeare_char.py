"""Tiny Shakespeare, by characters: nanoGPT's two settings, on its own split (the last tenth is held out).

    python -m llm_jax.train --config=configs/shakespeare_char.py --workdir=runs/shakespeare \
        --config.data.manual_dir=FOLDER_WITH_input.txt
    python -m llm_jax.train --config=configs/shakespeare_char.py:gpu --workdir=runs/shakespeare_gpu ...

Published validation losses: 1.88 (cpu: 4 layers of width 128, 2,000 steps of 12 x 64), 1.4697 (gpu: 6 layers of width
384, 5,000 steps of 64 x 256, dropout 0.2). https://github.com/karpathy/nanoGPT

Measured here on a CPU, over the whole held-out tenth instead of random batches: 1.8046 with the peak of 2e-3 below;
1.8988 with nanoGPT's own 1e-3.
"""

from ml_collections import ConfigDict

ARGUMENTS = ("cpu", "gpu", "debug")


def get_config(arg: str = "cpu") -> ConfigDict:
  """arg: 'cpu', 'gpu', or 'debug'."""
  c = ConfigDict()
  c.model = dict(name="gpt", variant="124m", depth=4, heads=4, width=128, positions=64, scan=False)
  c.data = dict(name="tfds", dataset="tiny_shakespeare", validation_split="validation+test",
                tokenizer=dict(name="characters"), document_boundaries=False, bos=False, eod=False)
  c.optimizer = dict(name="adamw", peak=2e-3, warmup=100, decay="cosine", end=0.1, b2=0.99, weight_decay=0.1, clip=1.0)
  c.train = dict(steps=2_000, batch_size=12, length=64, seed=1337)
  c.evaluation = dict(every=250, batch_size=64)
  c.checkpoint = dict(every=500)
  c.log = dict(every=50)
  c.sample = dict(every=1_000, prompts=["\n"], tokens=200)
  if arg == "gpu":
    c.optimizer.peak = 1e-3
    c.model = dict(name="gpt", variant="124m", depth=6, heads=6, width=384, positions=256, dropout=0.2,
                   dtype="bfloat16")
    c.train = dict(steps=5_000, batch_size=64, length=256, seed=1337)
  elif arg == "debug":
    c.train = dict(steps=20, batch_size=4, length=32)
    c.optimizer.warmup = 5
    c.evaluation = dict(every=10, batches=2)
    c.sample = dict(every=0)
  return c


def sweep(add):
  """Peak learning rate."""
  for peak in (5e-4, 1e-3, 2e-3, 4e-3):
    add({"optimizer.peak": peak})
