"""Does anything read the knobs that a curriculum paces? One that nothing reads is a mistake in its name, which would
train without an error and change nothing.

The data are asked for a row and the objective is traced on a batch of its shape, with knobs that write down who was
asked for.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from llm_jax.core.errors import ConfigError, nearest_name
from llm_jax.core.types import Learner
from llm_jax.curriculum.composed import parts_of
from llm_jax.curriculum.knobs import Knobs
from llm_jax.launch_checks import reads_episodes
from llm_jax.run import Run


class Noted(dict):
  """Knobs that write into `asked` which names are looked up; who goes through all of them reads all."""

  def __init__(self, knobs: Any) -> None:
    super().__init__(knobs)
    self.asked: set[str] = set()

  def __getitem__(self, name: str) -> Any:
    self.asked.add(name)
    return super().__getitem__(name)

  def get(self, name: str, default: Any = None) -> Any:
    self.asked.add(name)
    return super().get(name, default)

  def __contains__(self, name: Any) -> bool:
    self.asked.add(name)
    return super().__contains__(name)

  def __iter__(self) -> Iterator[str]:
    self.asked |= super().keys()
    return super().__iter__()

  def keys(self) -> Any:
    self.asked |= super().keys()
    return super().keys()

  def items(self) -> Any:
    self.asked |= super().keys()
    return super().items()


def check_knobs(run: Run, learner: Learner) -> None:
  """Raises ConfigError for a paced knob that neither the data nor the objective reads, with the nearest that is."""
  paced = {name for part in parts_of(run.curriculum) if isinstance(part, Knobs) for name in part.pacings}
  if not paced:
    return
  asked = asked_of(run, learner)
  for name in sorted(paced - asked):
    raise ConfigError(f"config.curriculum.knobs.{name}", "neither these data nor this objective read it",
                      accepted=", ".join(sorted(asked)) or "no knobs", nearest=nearest_name(name, sorted(asked)))


def asked_of(run: Run, learner: Learner) -> set[str]:
  """Names of the knobs that the run's data and its objective look up, given or not."""
  plan = run.curriculum.plan(0, run.curriculum.init())
  noted = Noted(plan.knobs)
  batch = run.abstract_batch(dataclasses.replace(plan, knobs=noted))
  in_task = learner.episodes and not reads_episodes(run.objective.fields)

  def losses(params: Any, batch: Any, key: Any) -> Any:
    rows = jax.tree.map(lambda a: a[0], batch["query"]) if in_task else batch
    return run.objective(run.model.apply, params, rows, key, noted).values
  jax.eval_shape(losses, run.model.shapes, batch, jax.random.key(0))
  return noted.asked
