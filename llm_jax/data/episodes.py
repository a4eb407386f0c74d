"""Episodes: many small tasks, each with examples to adapt on (support) and other examples to be judged by (query).

A batch of step s is a pure function of (seed, s, plan): {'support': {field: (T, S, ...)}, 'query': {field: (T, Q,
...)}} with T = plan.batch tasks. Data plug-ins for families of tasks give a `sampler`; this file makes sources of it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus, HeldOutTasks
from llm_jax.data.fingerprint import digest

Form = Literal["episodes", "examples"]
Sampler = Callable[[np.random.Generator, Plan], Batch]  # a whole global batch of plan.batch tasks


def generator(*key: Any) -> np.random.Generator:
  """Random numbers named by some values; other values give independent ones."""
  name = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
  return np.random.Generator(np.random.Philox(key=np.frombuffer(name, np.uint64)))


def paced(plan: Plan, knob: str, most: int, least: int = 0) -> int:
  """A knob of the plan that says how much of an episode or a row counts (n_way, k_shot, n_dims); `most`, what its
  arrays hold, if the plan says nothing. Shapes stay: what is beyond has weight 0, or is 0.

  Raises:
    ConfigError: a value that the arrays do not hold.
  """
  value = plan.knobs.get(knob, most)
  if not least <= value <= most:
    raise ConfigError(f"config.curriculum.knobs.{knob}", f"got {value:g}, and the data hold {most}",
                      accepted=f"{least} to {most}")
  return int(value)


def checked(**least: tuple[int, int]) -> None:
  """Raises ConfigError for a config.data knob (value, least) that is too small."""
  for name, (value, lowest) in least.items():
    if value < lowest:
      raise ConfigError(f"config.data.{name}", f"got {value}", accepted=f"a whole number from {lowest}")


def rows_of(batch: Batch, rows: slice | None) -> Batch:
  """The same rows of every array, at any depth."""
  if rows is None:
    return batch
  return {n: rows_of(a, rows) if isinstance(a, dict) else a[rows] for n, a in batch.items()}


def joined(batches: Sequence[Batch]) -> Batch:
  """One batch of the rows of several."""
  first = batches[0]
  return {n: joined([b[n] for b in batches]) if isinstance(a, Mapping) else np.concatenate([b[n] for b in batches])
          for n, a in first.items()}


@dataclasses.dataclass(frozen=True)
class EpisodeSource:
  """A DataSource of new tasks for ever: those of step s are drawn with the key (seed, 'train', s). padded: rows may be
  shorter than their arrays, and 'segment_ids' say where. classes: labels of an episode, if examples have labels."""

  sampler: Sampler
  seed: int
  fields: Mapping[str, str]
  fingerprint: str
  boundaries: bool = False
  padded: bool = False
  classes: int = 0

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`: tasks, or examples where the sampler makes those."""
    return rows_of(self.sampler(generator(self.seed, "train", step), plan), rows)


@dataclasses.dataclass(frozen=True)
class EpisodeEvaluation:
  """An evaluation set of `tasks` tasks that training never draws; the same ones for every run and batch size.

  The last batch is filled up with tasks whose query has weight 0. knobs: of the plan, e.g. k_shot=1; seed: other tasks.
  """

  sampler: Sampler
  tasks: int
  fields: Mapping[str, str]
  fingerprint: str
  knobs: Mapping[str, float] = dataclasses.field(default_factory=dict)
  seed: int = 0
  bytes_per_token: float | None = None  # nothing here is text

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass."""
    return -(-self.tasks // batch)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of batch `step` of the pass."""
    chosen = range(step * plan.batch, (step + 1) * plan.batch)[rows or slice(None)]
    one = dataclasses.replace(plan, batch=1, knobs={**plan.knobs, **self.knobs})
    name = ("evaluation",) if self.seed == 0 else ("evaluation", "seed", self.seed)
    batch = joined([self.sampler(generator(*name, i), one) for i in chosen])
    for field in {"weights", "segment_ids"} & batch["query"].keys():
      batch["query"][field][[i >= self.tasks for i in chosen]] = 0
    return batch


def episode_fields(fields: Mapping[str, str]) -> dict[str, str]:
  """The fields of a task's examples as those of episodes: 'support.inputs', 'query.inputs', ..."""
  return {f"{part}.{name}": meaning for part in ("support", "query") for name, meaning in fields.items()}


def corpus(name: str, sampler: Sampler, evaluation: Sampler, *, fields: Mapping[str, str], seed: int, tasks: int,
           knobs: Mapping[str, Any], form: Form = "episodes", shots: int = 0, classes: int = 0) -> Corpus:
  """The corpus of a family of tasks: episodes, or single examples, to train on, and `tasks` held-out episodes.

  fields: of an example. knobs: what the samplers depend on, for the fingerprint. shots: what k_shot is at most in a
  held-out episode. classes: labels of an episode.
  """
  fingerprint = digest(name, form, dict(knobs))
  description = f"{name}: " + ", ".join(f"{k}={v}" for k, v in knobs.items())
  in_episodes = episode_fields(fields)
  train = EpisodeSource(sampler, seed, in_episodes if form == "episodes" else fields, fingerprint,
                        classes=classes)
  held_out = EpisodeEvaluation(evaluation, tasks, in_episodes, fingerprint)
  return Corpus(None, train, {"validation": held_out}, fingerprint, description, None,
                few_shot=HeldOutTasks(shots, held_out))
