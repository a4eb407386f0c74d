"""A 5-parity of 100 signs: sparse rows first, mixed throughout, or last; the same rows in all, only in another order.

    python -m llm_jax.train --config=configs/curriculum_parity.py:curriculum --workdir=runs/parity
    python -m llm_jax.train --config=configs/curriculum_parity.py:structure --workdir=runs/parity_structure
    python -m llm_jax.score --config=configs/curriculum_parity.py:structure --scorer=structure --out=runs/parity_scores
    python -m experiments.run parity

Setting of Abbe, Cornacchia, Lotfi 2023: 30 % of the rows are sparse (p = 0.05), one hidden layer, plain SGD.
`structure` admits a finite pool of rows by how many of their signs are -1, in place of stages by domain.
"""

from ml_collections import ConfigDict

ORDERS = {
    "curriculum": dict(name="mixture", stages=[(0, {"sparse": 1}), (0.3, {"dense": 1})]),
    "random": dict(name="none"),
    "anti": dict(name="mixture", stages=[(0, {"dense": 1}), (0.7, {"sparse": 1})]),
}
ARGUMENTS = ("curriculum", "random", "anti", "structure", "debug")


def get_config(arg: str = "curriculum") -> ConfigDict:
  """arg: curriculum, random (same rows, no order), anti, structure (a ranked pool), or debug."""
  c = ConfigDict()
  c.model = dict(name="mlp", inputs=100, hidden=(512,), init="uniform")
  c.data = dict(name="parity", dimensions=100, k=5, p=0.05, mixture={"sparse": 0.3, "dense": 0.7})
  c.objective = dict(name="margin", loss="squared")
  c.curriculum = ORDERS.get(arg, ORDERS["curriculum"])
  c.optimizer = dict(name="sgd", momentum=0.0, peak=0.01, decay="constant", clip=None)
  c.train = dict(steps=40_000, batch_size=64, length=1)
  c.evaluation = dict(every=500, batch_size=1024)
  c.checkpoint = dict(every=20_000)
  c.log = dict(every=500)
  c.guard = dict(window=0)
  if arg == "structure":
    c.data.pool = 200_000
    c.curriculum = dict(name="competence", scorer="structure", pacing="linear", c0=0.02, until=0.7)
  if arg == "debug":
    c.train.steps, c.evaluation.every, c.checkpoint.every, c.log.every = 40, 20, 20, 10
    c.data.eval_rows = 1024
  return c


def sweep(add):
  """How many rows are sparse, and how sparse they are."""
  for share in (0.1, 0.3, 0.5):
    for p in (0.02, 0.05, 0.1):
      add({"data.mixture": {"sparse": share, "dense": 1 - share}, "data.p": p})
