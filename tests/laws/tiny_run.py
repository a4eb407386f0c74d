"""A whole run in miniature, with everything on that a resume could lose: dropout, accumulation, an average of the
weights, the guard's window, early stopping, evaluation, samples, and a checkpoint every few steps.
"""

import pathlib

TEXT = pathlib.Path(__file__).resolve().parents[2] / "llm_jax/data/fallback/king_james_bible.txt"


def get_config(arg: str = ""):
  """arg: 'refused' raises; anything else is ignored."""
  if arg == "refused":
    raise ValueError("no such size: refused")
  return {
      "model": dict(name="gpt", variant="debug", width=16, depth=2, heads=2, dropout=0.1),
      "data": dict(name="text_folder", path=str(TEXT), tokenizer=dict(name="characters"), domains="one"),
      "optimizer": dict(name="adamw", peak=3e-3, warmup=5, decay="linear", horizon=40),
      "train": dict(steps=40, batch_size=16, length=16, accumulate=2),
      "mesh": dict(data=-1),
      "evaluation": dict(every=6, batches=2),
      "checkpoint": dict(every=4),
      "log": dict(every=3, tensorboard=False, report=False),
      "sample": dict(every=10, prompts=["And "], tokens=6),
      "guard": dict(window=8),
      "ema": dict(decay=0.9),
      "early_stopping": dict(patience=1000),
  }
