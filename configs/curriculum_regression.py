"""In-context linear regression: a transformer learns least squares from prompts, with and without a curriculum over
dimensions and points (Garg et al. 2022).

    python -m llm_jax.train --config=configs/curriculum_regression.py:curriculum --workdir=runs/regression
    python -m llm_jax.train --config=configs/curriculum_regression.py:paper --workdir=runs/garg      # a GPU
    python -m experiments.run in_context_regression
"""

from ml_collections import ConfigDict


def grow(dims, points, until, short):
  """Dimensions and points grow linearly; rows have two lengths, `short` until the points need more."""
  switch = until * (short - points[0]) / (points[1] - points[0])
  return [dict(name="sequence_length", start=short, keep="batch", buckets=[short, points[1]],
               pacing=[(0, short), (switch, points[1])]),
          dict(name="knobs", until=until, knobs={"n_dims": dict(start=dims[0], end=dims[1], whole=True),
                                                 "n_points": dict(start=points[0], end=points[1], whole=True)})]
ARGUMENTS = ("curriculum", "none", "paper", "paper_none", "debug")


def get_config(arg: str = "curriculum") -> ConfigDict:
  """arg: curriculum, none, paper (d = 20, the published sizes and steps), paper_none, or debug."""
  c = ConfigDict()
  paper = arg.startswith("paper")
  d, points = (20, 41) if paper else (8, 17)
  c.model = dict(name="regression_transformer", inputs=d, variant="standard" if paper else "tiny")
  c.data = dict(name="linear_functions", dimensions=d)
  c.objective = dict(name="in_context_regression", scale=float(d))
  c.optimizer = dict(name="adam", peak=1e-4 if paper else 1e-3, decay="constant", clip=None)
  c.train = dict(steps=500_000 if paper else 6_000, batch_size=64 if paper else 32, length=points)
  c.evaluation = dict(every=10_000 if paper else 250, batch_size=640)
  c.checkpoint = dict(every=50_000 if paper else 3_000)
  c.log = dict(every=1_000 if paper else 250)
  if arg.endswith("none"):
    c.curriculum = dict(name="none")
  elif paper:
    c.curriculum = [dict(name="sequence_length", start=11, keep="batch", buckets=[11, 21, 31, 41], until=1.0,
                         pacing=dict(name="increments", interval=2_000, increment=2.0)),
                    dict(name="knobs", until=1.0, knobs={
                        "n_dims": dict(start=5, end=20, pacing=dict(name="increments", interval=2_000, increment=1.0)),
                        "n_points": dict(start=11, end=41, pacing=dict(name="increments", interval=2_000,
                                                                       increment=2.0))})]
  else:
    c.curriculum = grow((2, d), (5, points), 0.3, 9)
  if arg == "debug":
    c.train.steps, c.evaluation.every, c.checkpoint.every, c.log.every = 20, 10, 10, 5
    c.data.eval_rows, c.evaluation.batch_size = 64, 64
  return c


def sweep(add):
  """The learning rate: tuning it does not remove the plateau."""
  for peak in (3e-4, 1e-3, 3e-3):
    add({"optimizer.peak": peak})
