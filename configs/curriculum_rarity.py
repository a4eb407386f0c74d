"""Rare words last: competence by unigram rarity over text (Platanios et al. 2019), with its two controls.

    python -m llm_jax.train --config=configs/curriculum_rarity.py:easy_first --workdir=runs/rarity
    python -m llm_jax.score --config=configs/curriculum_rarity.py --scorer=rarity --out=runs/rarity_scores
    python -m experiments.run rarity

`random` admits as many rows at every step, but any: what remains of an effect under it is not due to difficulty.
"""

from ml_collections import ConfigDict

from configs import curriculum_length

ORDERS = ("easy_first", "random", "hard_first")
ARGUMENTS = ("easy_first", "random", "hard_first", "none", "debug")


def get_config(arg: str = "easy_first") -> ConfigDict:
  """arg: easy_first, random (random pacing), hard_first (anti-curriculum), none, or debug."""
  c = curriculum_length.get_config("debug" if arg == "debug" else "full")
  if arg != "none":
    c.curriculum = dict(name="competence", scorer="rarity", c0=0.01, pacing="sqrt", until=0.3,
                        order=arg if arg in ORDERS else "easy_first")
  return c


def sweep(add):
  """Scorers and pacings."""
  for scorer in ("rarity", "compression", "byte_entropy"):
    for pacing in ("linear", "sqrt", "exponential"):
      add({"curriculum.scorer": scorer, "curriculum.pacing": pacing})
