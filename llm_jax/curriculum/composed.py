"""Several curricula at once: `config.curriculum = [dict(name='sequence_length'), dict(name='competence')]`.

Each decides its own fields of the plan (`sets`); two that decide the same field are refused, knobs by name. Not a
plug-in itself: a list in the config makes one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Curriculum, Plan


@dataclasses.dataclass(frozen=True)
class Composed(Curriculum):
  """The parts' plans laid over the constant plan of `batch` and `length`. State: one per part, in a list."""

  batch: int
  length: int
  parts: tuple[Curriculum, ...]

  @property
  def adaptive(self) -> bool:  # type: ignore[override]
    return any(p.adaptive for p in self.parts)

  @property
  def sets(self) -> tuple[str, ...]:  # type: ignore[override]
    return tuple(dict.fromkeys(s for p in self.parts for s in p.sets))

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return tuple(dict.fromkeys(f for p in self.parts for f in p.fields))

  @property
  def weighting(self) -> Any:  # type: ignore[override]
    """The one part's that has one."""
    return next((p.weighting for p in self.parts if p.weighting is not None), None)

  @property
  def reference(self) -> str | None:  # type: ignore[override]
    """The one part's that has one."""
    return next((p.reference for p in self.parts if p.reference is not None), None)

  def init(self) -> list[Any]:
    return [p.init() for p in self.parts]

  def plan(self, step: int, state: Sequence[Any]) -> Plan:
    merged = Plan(self.batch, self.length)
    knobs: dict[str, float] = {}
    for part, own in zip(self.parts, state, strict=True):
      plan = part.plan(step, own)
      merged = dataclasses.replace(merged, **{name: getattr(plan, name) for name in part.sets if name != "knobs"})
      knobs |= plan.knobs
    return dataclasses.replace(merged, knobs=knobs)

  def observe(self, state: Sequence[Any], step: int, metrics: Mapping[str, float]) -> list[Any]:
    return [p.observe(own, step, metrics) for p, own in zip(self.parts, state, strict=True)]

  def result(self, state: Sequence[Any]) -> Any:
    found = [p.result(own) for p, own in zip(self.parts, state, strict=True)]
    return next((f for f in found if f is not None), None)

  def changes(self) -> list[int]:
    return sorted({step for p in self.parts for step in p.changes()})

  def for_domains(self, domains: tuple[str, ...]) -> "Composed":
    return dataclasses.replace(self, parts=tuple(p.for_domains(domains) for p in self.parts))


def compose(parts: Sequence[Curriculum], batch: int, length: int) -> Curriculum:
  """The curriculum that all of them make together.

  Raises:
    ConfigError: none is given, or two decide the same thing.
  """
  if not parts:
    raise ConfigError("config.curriculum", "an empty list", accepted="dict(name=...) or a list of them")
  if len(parts) == 1:
    return parts[0]
  whole = Composed(batch, length, tuple(parts))
  owners: dict[str, int] = {}
  for i, part in enumerate(parts):
    knobs = [f"knob {k!r}" for k in part.plan(0, part.init()).knobs]
    weighs = ["the weighting"] if part.weighting is not None else []
    for name in [s for s in part.sets if s != "knobs"] + knobs + weighs:
      if name in owners:
        raise ConfigError(f"config.curriculum[{i}]", f"decides {name}, as config.curriculum[{owners[name]}] does",
                          accepted="one curriculum for each of length, batch, admit, mixture, knob, weighting")
      owners[name] = i
  return whole


def parts_of(curriculum: Curriculum) -> tuple[Curriculum, ...]:
  """The curricula that this one is made of: itself, or the parts of a list."""
  return curriculum.parts if isinstance(curriculum, Composed) else (curriculum,)


