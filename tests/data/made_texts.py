"""Texts for the tests of the data room: short, different, the same every time."""

import numpy as np

WORDS = ["the", "a", "model", "reads", "text", "and", "writes", "more", "until", "loss", "falls", "to", "zero"]


def make_texts(count: int, seed: int = 0) -> list[str]:
  """Different texts of 3 to 60 words, the same for the same seed."""
  generator = np.random.default_rng(seed)
  return [f"{i} " + " ".join(generator.choice(WORDS, generator.integers(3, 60))) + "\n" for i in range(count)]
