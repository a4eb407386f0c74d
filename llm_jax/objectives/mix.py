"""Any mix of objectives: each makes its own pass over the batch, and the loss is the sum of their means by weight.

    c.objective = dict(name='mix', parts=[dict(name='masked_lm', weight=1.0), dict(name='sentence_order', weight=0.1)])
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Sampler, Score, Vocabulary
from llm_jax.objectives.combined import Part, combine

KEY = "config.objective.parts"


@dataclasses.dataclass(frozen=True)
class Mix(Objective):
  """parts: (name, weight, objective); the metrics of each begin with its name, with a number where one comes twice."""

  parts: tuple[tuple[str, float, Objective], ...]
  reference_knob: str = "parts"

  @property
  def fields(self) -> tuple[str, ...]:  # type: ignore[override]
    return tuple(dict.fromkeys(f for _, _, part in self.parts for f in part.fields))

  @property
  def needs(self) -> tuple[str, ...]:  # type: ignore[override]
    return tuple(dict.fromkeys(n for _, _, part in self.parts for n in part.needs))

  @property
  def whole_batch(self) -> bool:  # type: ignore[override]
    return any(part.whole_batch for _, _, part in self.parts)

  def for_tokenizer(self, tokenizer: Vocabulary) -> "Mix":
    return Mix(tuple((name, weight, part.for_tokenizer(tokenizer)) for name, weight, part in self.parts))

  @property
  def reference(self) -> str | None:  # type: ignore[override]
    return next((part.reference for _, _, part in self.parts if part.reference is not None), None)

  def with_reference(self, apply: Callable) -> "Mix":
    return Mix(tuple((name, weight, part.with_reference(apply)) for name, weight, part in self.parts))

  @property
  def judges(self) -> tuple[str, ...]:  # type: ignore[override]
    return tuple(j for _, _, part in self.parts for j in part.judges)

  def with_judges(self, scores: Sequence[Score]) -> "Mix":
    left = iter(scores)
    return Mix(tuple((name, weight, part.with_judges([next(left) for _ in part.judges]))
                     for name, weight, part in self.parts))

  def with_sampler(self, sampler: Sampler) -> "Mix":
    return Mix(tuple((name, weight, part.with_sampler(sampler)) for name, weight, part in self.parts))

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    own = lambda i: None if key is None else jax.random.fold_in(key, i)
    return combine([Part(name, weight, part(apply, params, batch, own(i), knobs))
                    for i, (name, weight, part) in enumerate(self.parts)])


def share(*, weight: float = 1.0) -> float:
  """What every part of a mix has beside its own knobs.

  Args:
    weight: factor of the part's mean loss.
  """
  return weight


def build(*, parts: list) -> Mix:
  """Several objectives at once.

  Args:
    parts: list of objectives, each with its knobs and a `weight`.

  Raises:
    ConfigError: no part, a weight that is not positive, or a part over episodes.
  """
  if not parts:
    raise ConfigError(KEY, "an empty list", accepted="[dict(name='masked_lm', weight=1.0), ...]")
  found: list[tuple[str, float, Objective]] = []
  names: list[str] = []
  for spec, key in plugins.listed(parts, KEY):
    weight, made = plugins.weighed("objectives", spec, key)
    if weight <= 0:
      raise ConfigError(f"{key}.weight", f"got {weight:g}", accepted="a number above 0")
    part, name = made(), spec["name"]
    if any(f.startswith("support.") for f in part.fields):
      raise ConfigError(f"{key}.name", f"{name!r} reads whole episodes", accepted="objectives over rows")
    if getattr(part, "beside", None) is not None:
      raise ConfigError(f"{key}.name", f"{name!r} trains more than the model", accepted="other objectives")
    if part.remembers:
      raise ConfigError(f"{key}.updates", "what one part remembers, a mix forgets", accepted="1")
    names.append(name)
    found.append((f"{name}_{names.count(name)}" if names.count(name) > 1 else name, weight, part))
  if len(teachers := {part.reference for _, _, part in found} - {None}) > 1:
    raise ConfigError(KEY, f"several teachers: {', '.join(sorted(map(str, teachers)))}", accepted="one for all parts")
  return Mix(tuple(found))
