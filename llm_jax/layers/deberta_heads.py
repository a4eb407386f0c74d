"""Heads of DeBERTa: masked words, replaced tokens, and labels of a sequence, a token, a span, one choice among several.

All but the masked language model's read dropout keys; it keeps none, so that `unembed` is a function of hidden states.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.model import parameter
from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.feed_forward import activation
from llm_jax.layers.linear import Linear, linear
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.recompute import in_float32

Head = Literal["lm", "sequence", "token", "question", "choice", "replaced", "none"]

# What a model with each head can be trained for, in the words of core/offers.py.
OFFERS: dict[str, tuple[str, ...]] = {"lm": ("masked",), "sequence": ("classes",), "token": ("token_classes",),
                                      "question": ("spans",), "choice": (), "replaced": (), "none": ()}


class MaskedLMHead(nnx.Module):
  """Dense, activation, norm, then scores against the token table, or a kernel of its own: (..., D) -> (..., V)."""

  def __init__(self, rngs: nnx.Rngs, width: int, table_width: int, vocab_size: int, *, act: str, epsilon: float,
               tied: bool = True):
    self.act = act
    self.dense = Linear(rngs, {"embed": width}, {"width": table_width})
    self.norm = LayerNorm(rngs, table_width, epsilon=epsilon)
    self.decoder = None if tied else Linear(rngs, {"embed": table_width}, {"vocab": vocab_size}, bias=False)
    self.bias = parameter(rngs, (vocab_size,), ("vocab",), jax.nn.initializers.zeros)

  def __call__(self, hidden: jax.Array, table_VD: jax.Array) -> jax.Array:
    x = self.norm(in_float32(activation(self.act), self.dense(hidden)))
    return linear(x, table_VD.T if self.decoder is None else self.decoder.kernel[...], self.bias[...])


class PooledHead(nnx.Module):
  """Scores (B, C) of the first token: dropout, dense, activation, dropout, linear."""

  def __init__(self, rngs: nnx.Rngs, width: int, labels: int, *, act: str, pooler_dropout: float, dropout: float):
    self.act, self.rates = act, (pooler_dropout, dropout)
    self.pooler = Linear(rngs, {"embed": width}, {"width": width})
    self.score = Linear(rngs, {"embed": width}, {"labels": labels})

  def __call__(self, hidden_BLD: jax.Array, key: jax.Array | None = None) -> jax.Array:
    keys = split(key, 2)
    pooled = self.pooler(dropout(hidden_BLD[:, 0], self.rates[0], keys[0]))
    return self.score(dropout(in_float32(activation(self.act), pooled), self.rates[1], keys[1]))


class TokenHead(nnx.Module):
  """Scores (B, L, C) of every token: dropout, linear."""

  def __init__(self, rngs: nnx.Rngs, width: int, labels: int, *, dropout: float):
    self.dropout = dropout
    self.score = Linear(rngs, {"embed": width}, {"labels": labels})

  def __call__(self, hidden_BLD: jax.Array, key: jax.Array | None = None) -> jax.Array:
    return self.score(dropout(hidden_BLD, self.dropout, key))


class ReplacedHead(nnx.Module):
  """Was each token replaced? Logits (B, L) of its state beside the first one's (the released code of version 3)."""

  def __init__(self, rngs: nnx.Rngs, width: int, *, act: str, epsilon: float):
    self.act = act
    self.norm = LayerNorm(rngs, width, epsilon=epsilon)
    self.dense = Linear(rngs, {"embed": width}, {"width": width})
    self.score = Linear(rngs, {"embed": width}, {"labels": 1})

  def __call__(self, hidden_BLD: jax.Array, key: jax.Array | None = None) -> jax.Array:
    x = self.dense(self.norm(hidden_BLD[:, :1] + hidden_BLD))
    return self.score(in_float32(activation(self.act), x))[..., 0]


def scored(head: Head, classifier: Any, hidden_BLD: jax.Array, key: jax.Array | None) -> dict[str, Any]:
  """The fields of Output that a head for labels fills: `scores`, or 'start_logits' and 'end_logits' in `extra`."""
  if classifier is None:
    return {}
  scores = classifier(hidden_BLD, key)
  if head == "question":
    start_BL, end_BL = jnp.moveaxis(scores, -1, 0)
    return {"extra": {"start_logits": start_BL, "end_logits": end_BL}}
  return {"scores": scores}
