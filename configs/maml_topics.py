"""Few-shot classification of short documents whose topics are new in every episode.

    python -m llm_jax.train --config=configs/maml_topics.py:maml --workdir=runs/topics_maml
    python -m llm_jax.train --config=configs/maml_topics.py:prototypical --workdir=runs/topics_proto
    python -m llm_jax.train --config=configs/maml_topics.py:debug --workdir=/tmp/debug
"""

from ml_collections import ConfigDict

ARGUMENTS = ("maml", "anil", "prototypical", "in_context", "debug", "centroid", "untrained")


def get_config(arg: str = "maml") -> ConfigDict:
  """arg: maml, anil, prototypical, in_context (a small GPT that reads the support set), or debug; baselines without
  training: centroid, and untrained (random weights that adapt as MAML's do)."""
  c = ConfigDict()
  c.data = dict(name="topics", ways=5, shots=1, query=15)
  c.model = dict(name="mlp", inputs=200, hidden=(64,), outputs=32, init="he")
  c.optimizer = dict(name="adam", peak=1e-3, decay="constant", clip=None)
  c.train = dict(steps=1_000, batch_size=8, length=1)
  c.evaluation = dict(every=500, batch_size=250)
  c.checkpoint = dict(every=500)
  c.log = dict(every=100)
  c.guard = dict(window=0)
  if arg in ("prototypical", "centroid"):
    c.objective = dict(name="prototypical", ways=5, raw=arg == "centroid")
    if arg == "centroid":
      untrained(c)
  elif arg == "in_context":
    c.data.form, c.data.eval_tasks = "in_context", 20
    c.model = dict(name="gpt", variant="debug", width=64, depth=2, heads=4)
    c.optimizer = dict(name="adamw", peak=1e-3, warmup=100, decay="cosine")
    c.train = dict(steps=2_000, batch_size=64, length=6 * 17 - 1)  # six documents of 16 words with their topics
    c.evaluation = dict(every=1_000, batch_size=100)
    c.checkpoint = dict(every=1_000)
  else:
    c.model = dict(name="mlp", inputs=200, hidden=(64, 32), outputs=5, init="he")
    c.objective = dict(name="labels")
    c.meta_learning = dict(name="maml", inner_steps=5, inner_lr=0.4, remat=False, mixed_mode=False)
    c.adaptation = dict(steps=(0, 1, 5, 10))
    if arg == "untrained":
      untrained(c)
  if arg == "anil":
    c.meta_learning = dict(name="anil", adapt="^head", inner_steps=5, inner_lr=0.4, remat=False, mixed_mode=False)
  if arg == "debug":
    c.train.steps, c.evaluation.every, c.checkpoint.every, c.log.every = 20, 10, 10, 10
    c.data.eval_tasks, c.evaluation.batch_size = 24, 24
  return c


def untrained(c):
  """One update that moves nothing."""
  c.train.steps, c.optimizer.peak = 1, 1e-9


def sweep(add):
  """One and five shots."""
  for shots in (1, 5):
    add({"data.shots": shots})
