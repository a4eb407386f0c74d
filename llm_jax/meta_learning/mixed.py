"""Meta steps mixed into ordinary training with a probability (as pico-maml does: Africa et al. 2025).

Every update is either a step of a meta-learner on the batch's episodes or a supervised step on its plain rows. The coin
is a function of the update's number alone, so that micro-batches, hosts and a resumed run throw the same. The data must
serve both: rows beside 'support' and 'query'.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Extra, GradFn, Key, Loss, LossFn, Params
from llm_jax.meta_learning.context import KEY, Context
from llm_jax.meta_learning.none import Supervised
from llm_jax.meta_learning.outer import EPISODE, episodes_of


@dataclasses.dataclass(frozen=True)
class Mixed:
  """The learner. meta: the other learner; probability: of its step."""

  meta: Any
  probability: float
  supervised: Supervised = Supervised()
  episodes: bool = True
  mixes: bool = True  # reads plain rows too

  @property
  def second_order(self) -> bool:
    return bool(self.meta.second_order)

  @property
  def extras(self) -> Mapping[str, Extra]:
    return dict(self.meta.extras)

  @property
  def inner_steps(self) -> int:
    return int(self.meta.inner_steps)

  def check_support(self, size: int) -> None:
    """As the meta-learner."""
    self.meta.check_support(size)

  def __call__(self, loss_fn: LossFn, step: Any) -> GradFn:
    """grad_fn(params, batch, key): the meta-learner's, or the supervised gradient."""
    meta, plain = self.meta(loss_fn, step), self.supervised(loss_fn, step)
    def grad_fn(params: Params, batch: Batch, key: Key) -> tuple[Loss, Params]:
      rows = {n: a for n, a in batch.items() if n not in EPISODE}
      return jax.lax.cond(is_meta(step, self.probability), lambda: meta(params, episodes_of(batch), key),
                          lambda: plain(params, rows, key))
    return grad_fn

  def adapt(self, *arguments: Any, **options: Any) -> Any:
    """As the meta-learner adapts."""
    return self.meta.adapt(*arguments, **options)


def is_meta(step: Any, probability: float) -> jax.Array:
  """Is this update a meta step? The same answer everywhere."""
  return jax.random.bernoulli(jax.random.fold_in(jax.random.key(0), step), probability)


def build(context: Context, *, probability: float = 0.5, meta: dict | None = None) -> Mixed:
  """Meta steps with a probability.

  Args:
    probability: of an update to be a meta step.
    meta: the meta-learner and its knobs, e.g. dict(name='fomaml', inner_lr=0.1); None is fomaml.
  """
  if not 0 <= probability <= 1:
    raise ConfigError(f"{KEY}.probability", f"got {probability}", accepted="a number from 0 to 1")
  learner = plugins.bind("meta_learning", meta or {"name": "fomaml"}, f"{KEY}.meta")(context)
  if not learner.episodes or not hasattr(learner, "adapt"):
    raise ConfigError(f"{KEY}.meta.name", f"got {learner!r}, which does not adapt", accepted="a learner such as 'maml'")
  return Mixed(learner, probability)
