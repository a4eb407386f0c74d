"""Prefix tuning (Li and Liang 2021): every layer's attention sees P trained keys and values before those of the text.

They are given as they are or, as the paper trains them, by an MLP: tanh(E W_1 + b_1) W_2 + b_2, E (P, G * K).
A row of the prefix is (layers, key and value, heads, head width); keys are not rotated; the text's own positions follow
those of the prefix, as Hugging Face's peft has it. No start leaves the model as it was: attention is shared among more
keys. Every document of a packed row sees the prefix; a window of the layer counts it as text before.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import check_counts
from llm_jax.core.model import Model
from llm_jax.core.output import Output
from llm_jax.layers import cache as kv
from llm_jax.layers import decoding
from llm_jax.layers.attention import Attention
from llm_jax.peft.adapted import KEY, Method, frozen_but
from llm_jax.peft.virtual_tokens import Vectors, adapted, check_room

TRAINED = r"^prefix\."


class PrefixAttention(Attention):
  """Attention with keys and values (P, G, K) in front, which the network hands to its layers at each call."""

  prefix_key: Any
  prefix_value: Any

  def attend(self, q, k, v, visibility, key=None, bias_BHLM=None, heads_first=False) -> jax.Array:
    batch, count = k.shape[0], self.prefix_key.shape[0]
    ahead = lambda first, x: jnp.concatenate(
        [jnp.broadcast_to(first.astype(x.dtype), (batch, count, *x.shape[2:])), x], axis=1)
    segments = visibility.segments
    if segments is not None:
      segments = segments[0], jnp.pad(segments[1], ((0, 0), (count, 0)))
    read = None if visibility.prefix is None else visibility.prefix + count
    visibility = dataclasses.replace(visibility, segments=segments, prefix=read, shared=count,
                                     offset=visibility.offset + count)
    return super().attend(q, ahead(self.prefix_key, k), ahead(self.prefix_value, v), visibility, key, bias_BHLM,
                          heads_first)


class Prefixed(nnx.Module):
  """A decoder with a prefix; the other half of its class is the decoder's own."""

  def __call__(self: Any, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               position_ids: jax.Array | None = None, cache: kv.Cache | None = None, **others: Any) -> Output:
    """As the decoder's call.

    Raises:
      ConfigError: more tokens than the table of positions has.
    """
    attention, table_PW = self.blocks.attention, self.prefix()
    count, outputs = table_PW.shape[0], attention.key.outputs
    if position_ids is None:
      position_ids = decoding.default_positions(input_ids, attention_mask, cache)
    if cache is None:
      check_room(self, input_ids.shape[1], count)
    prefix = table_PW.reshape(count, self.config.depth, 2, *outputs).transpose(1, 2, 0, 3, 4)
    attention.prefix_key, attention.prefix_value = nnx.data(prefix[:, 0]), nnx.data(prefix[:, 1])
    return super().__call__(input_ids, attention_mask=attention_mask, position_ids=position_ids + count, cache=cache,
                            **others)

  def init_cache(self: Any, batch: int, length: int) -> kv.Cache:
    """A cache for `batch` rows of at most `length` tokens; the prefix needs no slots."""
    check_room(self, length, self.prefix.embedding.shape[0])
    decoder: Any = super()
    return decoder.init_cache(batch, length)


def build(*, tokens: int = 20, hidden: int | None = None, deviation: float = 0.02) -> Method:
  """Prefix tuning.

  Args:
    tokens: number of keys and values in front, P.
    hidden: width of the MLP that makes them; None: they are trained as they are.
    deviation: what is trained starts as N(0, deviation^2), the maps of an MLP apart.
  """
  check_counts(KEY, tokens=tokens, hidden=hidden)
  adapt = functools.partial(_adapt, tokens=tokens, hidden=hidden, deviation=deviation)
  return Method(adapt, frozen_but(TRAINED), merge=None,
                name="prefix_tuning", knobs=dict(tokens=tokens, hidden=hidden, deviation=deviation))


def _adapt(model: Model, *, tokens: int, hidden: int | None, deviation: float) -> Model:
  def add(rngs: nnx.Rngs, module: Any) -> None:
    inner = math.prod(module.blocks.attention.key.outputs)
    module.prefix = Vectors(rngs, tokens, module.config.depth * 2 * inner, deviation=deviation, inner=inner,
                            hidden=() if hidden is None else (hidden,), act="tanh")
  return adapted(model, Prefixed, PrefixAttention, tokens, add)
