"""Vectors in front of a text's own: what prompt tuning and P-tuning put before the tokens of a decoder.

A network with virtual tokens is the network as it is, reading P more tokens whose ids are negative: -1 is the first of
them. The token table, which has no such rows, takes their vectors from its `prompt`. They are at positions 0 .. P-1 and
the text's own positions follow; every document of a packed row sees them; the output leaves them out again. Cached
decoding reads them once, when the cache is made.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model, parameter
from llm_jax.core.output import Output
from llm_jax.layers import cache as kv
from llm_jax.layers import decoding
from llm_jax.layers.attention import Attention
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.feed_forward import activation
from llm_jax.layers.linear import Linear, normal
from llm_jax.models.decoder import Decoder
from llm_jax.models.gpt import GPT
from llm_jax.peft.adapted import KEY, become, with_calls


def _within_fan_in(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
  """Uniform within in ** -0.5."""
  return jax.random.uniform(key, tuple(shape), dtype, -shape[0] ** -0.5, shape[0] ** -0.5)


class Vectors(nnx.Module):
  """() -> (P, W): trained as they are, or, with `hidden` widths, as an MLP makes them of P vectors of width `inner`.

  deviation: of the vectors' normal start.
  """

  def __init__(self, rngs: nnx.Rngs, count: int, width: int, *, deviation: float, inner: int = 0,
               hidden: Sequence[int] = (), act: str = "relu"):
    self.act = act
    self.embedding = parameter(rngs, (count, inner if hidden else width), (None, None), normal(deviation))
    sizes = [inner, *hidden, width]
    start: Any = _within_fan_in
    make = lambda i, o: Linear(rngs, {"table_embed": i}, {"norm": o}, init=start)
    self.maps: Any = nnx.List([make(*pair) for pair in itertools.pairwise(sizes)]) if hidden else None

  def __call__(self) -> jax.Array:
    x = self.embedding[...]
    for i, layer in enumerate(self.maps or ()):
      x = layer(activation(self.act)(x) if i else x)
    return x


class VirtualEmbedding(Embedding):
  """A token table whose negative ids are the virtual tokens."""

  prompt: Vectors

  def __call__(self, ids: jax.Array) -> jax.Array:
    x_BLD = super().__call__(jnp.maximum(ids, 0))
    prompt_PD = self.prompt().astype(x_BLD.dtype)
    return jnp.where((ids < 0)[..., None], jnp.take(prompt_PD, -ids - 1, axis=0, mode="clip"), x_BLD)


class SharedFirst(Attention):
  """Attention whose first `shared` keys are seen by every document of a packed row; a call's network says how many."""

  shared = 0

  def attend(self, q, k, v, visibility, key=None, bias_BHLM=None, heads_first=False) -> jax.Array:
    visibility = dataclasses.replace(visibility, shared=self.shared)
    return super().attend(q, k, v, visibility, key, bias_BHLM, heads_first)


class Prompted(nnx.Module):
  """A decoder that reads its virtual tokens before input_ids; the other half of its class is the decoder's own."""

  def __call__(self: Any, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               position_ids: jax.Array | None = None, segment_ids: jax.Array | None = None,
               cache: kv.Cache | None = None, virtual_tokens: bool = False, **others: Any) -> Output:
    """As the decoder's call, with the same shapes; virtual_tokens: the output has them too, in front.

    Raises:
      ConfigError: more tokens than the table of positions has, or an input that says nothing of virtual tokens.
    """
    call = functools.partial(super().__call__, **others)
    if cache is not None:  # they are in it
      return call(input_ids, attention_mask=attention_mask, position_ids=position_ids, cache=cache)
    for name in ("prefix_length", "token_type_ids"):
      if others.get(name) is not None:
        raise ConfigError(f"{KEY}.name", f"virtual tokens have no {name}", accepted="calls without it")
    count = _count(self)
    ids = self._ids(input_ids.shape[0])
    ahead = lambda first, given: None if given is None else jnp.concatenate(
        [jnp.broadcast_to(first, ids.shape).astype(jnp.int32), jnp.asarray(given, jnp.int32)], axis=1)
    positions = decoding.default_positions(input_ids, None, None) if position_ids is None else position_ids
    check_room(self, input_ids.shape[1], count)
    self.blocks.attention.shared = 0 if segment_ids is None else count
    output = call(ahead(ids, input_ids), attention_mask=ahead(1, attention_mask), segment_ids=ahead(1, segment_ids),
                  position_ids=ahead(jnp.arange(count), positions + count))
    if not virtual_tokens:
      states = output.hidden_states
      output.hidden = output.hidden[:, count:]
      output.hidden_states = None if states is None else tuple(x[:, count:] for x in states)
    return output

  def _ids(self: Any, batch: int) -> jax.Array:
    return jnp.broadcast_to(-1 - jnp.arange(_count(self)), (batch, _count(self)))

  def init_cache(self: Any, batch: int, length: int) -> kv.Cache:
    """A cache for `batch` rows of at most `length` tokens, which has read the virtual ones."""
    check_room(self, length, _count(self))
    decoder: Any = super()
    return decoder.__call__(self._ids(batch), cache=decoder.init_cache(batch, length + _count(self))).cache


def _count(network: Any) -> int:
  return network.tokens.prompt.embedding.shape[0]


def check_room(network: Any, length: int, count: int) -> None:
  """Raises ConfigError where `length` tokens and `count` virtual ones are more than a table of positions has rows."""
  if isinstance(network, GPT) and network.config.positions < length + count:
    raise ConfigError("config.model.positions", f"{network.config.positions} for {count} virtual tokens and {length} "
                      "of text", accepted=f"at least {length + count}")


def adapted(model: Model, calls: type, attention: type, count: int, add: Any) -> Model:
  """`model` with other calls and another attention; add(rngs, network) gives the network its arrays.

  Raises:
    ConfigError: the model is no decoder, or is too short for `count` virtual tokens.
  """
  network = jax.eval_shape(lambda key: model.make(nnx.Rngs(key)), jax.random.key(0))
  if not isinstance(network, GPT | Decoder) or network.config.head == "double":
    raise ConfigError(f"{KEY}.name", f"virtual tokens need a decoder, the model is a {type(network).__name__}",
                      accepted="the models 'gpt' and 'decoder', or a method without virtual tokens")
  if network.config.positions <= count:
    raise ConfigError(f"{KEY}.tokens", f"{count} of {network.config.positions} positions",
                      accepted=f"fewer than {network.config.positions}")

  def make(rngs: nnx.Rngs) -> Any:
    module: Any = model.make(rngs)
    become(module.blocks.attention, attention)
    add(rngs, module)
    kind: Any = type(module)
    return become(module, with_calls(calls, kind))
  config = dataclasses.replace(network.config, positions=network.config.positions - count)  # for text
  return Model.from_module(make, config, offers=model.offers - {"prefix"})


def prompted(model: Model, make: Any, count: int) -> Model:
  """`model` behind the vectors of `make(rngs, width)`.

  Raises:
    ConfigError: see `adapted`; or the model's head does not score next tokens.
  """
  if "causal" not in model.offers:
    raise ConfigError(f"{KEY}.name", "a prompt in front of the text needs a model that scores next tokens",
                      accepted="a decoder with its usual head; 'prefix_tuning' for other heads of decoders")
  def add(rngs: nnx.Rngs, module: Any) -> None:
    become(module.tokens, VirtualEmbedding).prompt = make(rngs, module.config.width)
  return adapted(model, Prompted, SharedFirst, count, add)
