"""Any legal pair of a model and an objective, in the model's debug size, on the embedded text.

    python -m llm_jax.train --config=configs/pair.py:t5+ul2 --workdir=/tmp/t5_ul2
    python -m llm_jax.train --config=configs/pair.py:gpt+fill_in_the_middle --workdir=/tmp/gpt_fim
    python -m llm_jax.train --config=configs/pair.py:bert+distillation --workdir=/tmp/student \
        --config.objective.teacher=/tmp/bert

`python -m llm_jax.pairs` prints which pairs there are; one whose objective reads more than plain text needs its data
too: `--config.data.name=...`.
"""

from ml_collections import ConfigDict

from llm_jax import pairs
from llm_jax.core.errors import ConfigError

DEFAULT = "gpt+prefix_lm"


def get_config(arg: str = DEFAULT) -> ConfigDict:
  """arg: MODEL+OBJECTIVE, both as the plug-ins are called; every size is the debug one."""
  model, _, objective = (DEFAULT if arg == "debug" else arg).partition("+")
  found = pairs.pair(model, objective)
  if found is None:
    raise ConfigError("--config", f"{objective!r} cannot train {model!r}", accepted="a pair of python -m llm_jax.pairs")
  c = ConfigDict()
  c.model, c.objective = found
  c.data = dict(name="stdlib", tokenizer=dict(name="bytes", sentinels=64))
  c.optimizer = dict(name="adamw", peak=1e-3, warmup=20, decay="linear", b2=0.98)
  c.train = dict(steps=300, batch_size=16, length=128)
  c.evaluation = dict(every=100, batches=4)
  c.checkpoint = dict(every=100)
  return c


def sweep(add):
  """How much of the prefix is seen from both sides."""
  for form in ("prefix", "causal"):
    add({"objective.form": form})
