"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2021): a narrow network inside every layer, alone trained.

    A(y) = act(y W_down + b_down) W_up + b_up,   W_down (D, size),   W_up (size, D) = 0,   b_up = 0

'houlsby' has two in each layer: what attention and what the feed-forward part say, y, becomes y + A(y) before the
residual is added. 'pfeiffer' has one, after the feed-forward part: where a norm follows the residual (BERT) the layer's
output is norm(s + A(norm(s))), s the residual with y; where norms come before (GPT-2, Llama, T5) it is y + A(y).

W_up starts at zero, so the model is the same function until it is trained. An adapter is not linear: no weights of the
base compute the same, and the adapted model stays what it is.
"""

import functools
import re
from typing import Any, Literal

import jax
from flax import nnx

from llm_jax.core.errors import ConfigError, check_counts
from llm_jax.core.model import Model, stack
from llm_jax.core.names import select
from llm_jax.layers.experts import Experts
from llm_jax.layers.feed_forward import FeedForward, activation
from llm_jax.layers.linear import Linear
from llm_jax.layers.norm import LayerNorm
from llm_jax.peft.adapted import KEY, Method, become, check_train, frozen_but

TRAINED = r"\.adapter\.(down|up)\."
AFTER_ATTENTION = re.compile(r"attention\.out$")


class Bottleneck(nnx.Module):
  """A (..., D) -> (..., D)."""

  def __init__(self, rngs: nnx.Rngs, width: int, size: int, act: str):
    self.act = act
    self.down = Linear(rngs, {"embed": width}, {"norm": size})
    self.up = Linear(rngs, {"norm": size}, {"embed": width}, init=jax.nn.initializers.zeros)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.up(activation(self.act)(self.down(x)))


class AdaptedLinear(Linear):
  """y + A(y), y what the map says."""

  adapter: Bottleneck

  def __call__(self, x: jax.Array, factor: float | None = None) -> jax.Array:
    y = super().__call__(x, factor)
    return y + self.adapter(y)


class AdaptedNorm(LayerNorm):
  """norm(s + A(norm(s))): the norm after a residual, with an adapter that reads it."""

  adapter: Bottleneck

  def __call__(self, x: jax.Array) -> jax.Array:
    norm = super().__call__
    return norm(x + self.adapter(norm(x)))


def build(*, kind: Literal["houlsby", "pfeiffer"] = "pfeiffer", size: int = 64, act: str = "relu",
          targets: str = ".", train: str | None = None) -> Method:
  """Bottleneck adapters.

  Args:
    kind: 'houlsby' after attention and after the feed-forward part, 'pfeiffer' after the feed-forward part alone.
    size: width of the bottleneck.
    act: its activation, by Hugging Face's names.
    targets: regular expression over the places that can have one, e.g. 'encoder' for T5's encoder alone.
    train: regular expression of further parameters to train, e.g. 'norm' as Houlsby et al. do, or a head.
  """
  check_counts(KEY, size=size)
  activation(act, f"{KEY}.act")
  adapt = functools.partial(_adapt, where=kind, size=size, act=act, targets=targets, train=train)
  knobs = dict(kind=kind, size=size, act=act, targets=targets, train=train)
  return Method(adapt, frozen_but(TRAINED, train), merge=None, name="bottleneck", knobs=knobs)


def _adapt(model: Model, *, where: str, size: int, act: str, targets: str, train: str | None) -> Model:
  """`model` with its adapters.

  Raises:
    ConfigError: the model has no place for them, or a pattern takes nothing.
  """
  check_train(model, train)
  def make(rngs: nnx.Rngs) -> Any:
    module: Any = model.make(rngs)
    found = places(module, where)
    for name in sorted(select(found, targets, f"{KEY}.targets")):
      node = found[name]
      kind, array = (AdaptedLinear, node.kernel) if isinstance(node, Linear) else (AdaptedNorm, node.scale)
      layers = array.shape[: len(array.shape) - len(array.get_metadata()["axes"])]
      make_one = functools.partial(Bottleneck, width=array.shape[-1], size=size, act=act)
      become(node, kind).adapter = stack(make_one, layers[0], rngs) if layers else make_one(rngs)
    return module
  return Model.from_module(make, model.config, offers=model.offers)


def places(module: Any, kind: str) -> dict[str, Any]:
  """{name: the linear map or norm that takes an adapter}.

  Raises:
    ConfigError: there is none, or the feed-forward part is of experts.
  """
  found = {}
  for path, node in nnx.iter_graph(module):
    name = ".".join(map(str, path))
    if isinstance(node, Experts):
      raise ConfigError(f"{KEY}.name", "'bottleneck' has no place for an adapter after experts",
                        accepted="a model without experts, or another method")
    if kind == "houlsby" and isinstance(node, Linear) and AFTER_ATTENTION.search(name):
      found[name] = node
    if isinstance(getattr(node, "feed_forward", None), FeedForward):
      behind = kind == "pfeiffer" and getattr(node, "norms", "post") == "post"
      part = "feed_forward_norm" if behind else "feed_forward.down"
      found[f"{name}.{part}"] = node.feed_forward_norm if behind else node.feed_forward.down
  if not found:
    raise ConfigError(f"{KEY}.name", "'bottleneck' finds no attention or feed-forward part in this model",
                      accepted="a transformer")
  return found
