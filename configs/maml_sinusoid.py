"""Learning to fit sine waves from ten points: MAML and its relatives (Finn et al. 2017; Nichol et al. 2018).

    python -m llm_jax.train --config=configs/maml_sinusoid.py:maml --workdir=runs/maml
    python -m llm_jax.train --config=configs/maml_sinusoid.py:reptile --workdir=runs/reptile
    python -m llm_jax.train --config=configs/maml_sinusoid.py:debug --workdir=/tmp/debug
"""

import math

from ml_collections import ConfigDict

LEARNERS = {
    "maml": dict(name="maml", inner_steps=1, inner_lr=0.01, remat=False, mixed_mode=False),
    "fomaml": dict(name="fomaml", inner_steps=1, inner_lr=0.01),
    "anil": dict(name="anil", adapt="^head", inner_steps=1, inner_lr=0.01, remat=False, mixed_mode=False),
    "meta_sgd": dict(name="meta_sgd", inner_steps=1, inner_lr=0.01, remat=False, mixed_mode=False),
    "joint": dict(name="none"),
}
ARGUMENTS = ("maml", "fomaml", "anil", "meta_sgd", "joint", "reptile", "debug")


def get_config(arg: str = "maml") -> ConfigDict:
  """arg: maml, fomaml, anil, meta_sgd, joint, reptile, or debug."""
  c = ConfigDict()
  c.model = dict(name="mlp", hidden=(40, 40))
  c.data = dict(name="sinusoids", support=10, query=10)
  c.objective = dict(name="regression")
  c.meta_learning = LEARNERS.get(arg, LEARNERS["maml"])
  c.optimizer = dict(name="adam", peak=1e-3, decay="constant", clip=None)
  c.train = dict(steps=15_000, batch_size=25, length=1)
  c.evaluation = dict(every=5_000, batch_size=500)
  c.adaptation = dict(steps=(0, 1, 5, 10))
  c.checkpoint = dict(every=5_000)
  c.log = dict(every=500)
  c.guard = dict(window=0)
  if arg == "joint":
    c.data.form, c.train.batch_size, c.adaptation.lr = "examples", 250, 0.01
  if arg == "reptile":
    c.model = dict(name="mlp", hidden=(64, 64), act="tanh", init="uniform")
    c.data = dict(name="sinusoids", points="grid", support=50, query=50, max_phase=2 * math.pi, eval_support=10,
                  eval_query=50)
    c.meta_learning = dict(name="reptile", inner_steps=5, inner_lr=0.02, inner_batch_size=10)
    c.optimizer = dict(name="sgd", momentum=0.0, peak=0.1, decay="linear", end=0.0, clip=None)
    c.train = dict(steps=30_000, batch_size=1, length=1)
    c.adaptation = dict(steps=(0, 1, 5, 10, 32))
  if arg == "debug":
    c.train.steps, c.evaluation.every, c.checkpoint.every, c.log.every = 20, 10, 10, 10
    c.data.eval_tasks, c.evaluation.batch_size = 25, 25
  return c


def sweep(add):
  """The inner rate and the number of inner steps."""
  for inner_lr in (0.003, 0.01, 0.03):
    for inner_steps in (1, 5):
      add({"meta_learning.inner_lr": inner_lr, "meta_learning.inner_steps": inner_steps})
