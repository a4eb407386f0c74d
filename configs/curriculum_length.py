"""A byte-level GPT on one text, short rows first, at equal tokens: does sequence-length warmup pay?

    python -m llm_jax.train --config=configs/curriculum_length.py:warmup --workdir=runs/length
    python -m llm_jax.plan --schedule --config=configs/curriculum_length.py:warmup --out=schedule.svg
    python -m experiments.run length_warmup

Every step serves 2,048 tokens: 128 rows of 16 at first, 16 rows of 128 at the end.
"""

import pathlib

from ml_collections import ConfigDict

TEXT = str(pathlib.Path(__file__).parents[1] / "llm_jax/data/fallback/king_james_bible.txt")
LENGTH = dict(name="sequence_length", start=16, until=0.3)
ARMS = {
    "warmup": LENGTH,
    "full": dict(name="none"),
    "anti": {**LENGTH, "pacing": [(0, 128), (0.7, 64), (0.8, 32), (0.9, 16)]},
    "truncate": {**LENGTH, "mode": "truncate"},
}
ARGUMENTS = ("warmup", "full", "anti", "truncate", "debug")


def get_config(arg: str = "warmup") -> ConfigDict:
  """arg: warmup, full (no curriculum), anti (long rows first, short ones last), truncate, or debug."""
  c = ConfigDict()
  c.model = dict(name="gpt", variant="debug", width=64, depth=2, heads=2)
  c.data = dict(name="text_folder", path=TEXT, domains="one", tokenizer=dict(name="bytes"), split="tail",
                validation_fraction=0.1, document_boundaries=False)
  c.curriculum = ARMS.get(arg, LENGTH)
  c.optimizer = dict(name="adam", peak=5e-3, warmup=0.03, decay="cosine", clip=1.0)
  c.train = dict(steps=732, batch_size=16, length=128)  # 1.5 million tokens
  c.evaluation = dict(every=61, batches=64)
  c.checkpoint = dict(every=366)
  c.log = dict(every=20)
  if arg == "debug":
    c.train.steps, c.evaluation.every, c.evaluation.batches, c.checkpoint.every = 20, 10, 2, 10
    c.log.every, c.optimizer.warmup = 5, 5
  return c


def sweep(add):
  """The learning rate: a curriculum's gain often shrinks when it is tuned."""
  for peak in (2e-3, 5e-3, 1e-2):
    add({"optimizer.peak": peak})
