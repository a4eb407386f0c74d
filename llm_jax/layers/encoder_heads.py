"""Heads of bidirectional encoders: scores of masked tokens, of a pair of sentences, of labels, of replaced tokens.

Every head that scores a whole sequence reads its first token through a dense layer (`Pooler`); families differ in the
activation and in the names under which Hugging Face stores it.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.model import parameter
from llm_jax.core.output import Output
from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.feed_forward import activation
from llm_jax.layers.linear import Linear, linear
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.recompute import in_float32

# lm: masked tokens; pretraining: masked tokens and next sentence; choice: one score per choice; replaced: one score per
# token (ELECTRA's discriminator); none: the bare encoder.
EncoderHead = Literal["lm", "pretraining", "next_sentence", "sequence", "token", "question", "choice", "replaced",
                      "none"]
SCORES_TOKENS = ("lm", "pretraining")
SCORES_PAIRS = ("pretraining", "next_sentence")
READS_FIRST_TOKEN = ("pretraining", "next_sentence", "sequence", "choice")
# What an encoder with each head can be trained for, in the words of core/offers.py.
OFFERS: dict[EncoderHead, tuple[str, ...]] = {
    "lm": ("masked",), "pretraining": ("masked", "next_sentence"), "next_sentence": ("next_sentence",),
    "sequence": ("classes",), "token": ("token_classes",), "question": ("spans",), "choice": (), "replaced": (),
    "none": (),
}


class MaskedTokenHead(nnx.Module):
  """Dense, activation, LayerNorm, decoder with a bias per token (Devlin et al. 2019).

  The decoder is the transposed token table, which the caller hands over, or a matrix of its own where `tied` is False.
  """

  def __init__(self, rngs: nnx.Rngs, width: int, embed_width: int, vocab_size: int, *, act: str, epsilon: float,
               tied: bool):
    self.act = act
    self.dense = Linear(rngs, {"embed": width}, {"mlp": embed_width})
    self.norm = LayerNorm(rngs, embed_width, epsilon=epsilon)
    self.decoder = None if tied else Linear(rngs, {"table_embed": embed_width}, {"vocab": vocab_size}, bias=False)
    self.bias = parameter(rngs, (vocab_size,), ("vocab",), jax.nn.initializers.zeros)

  def __call__(self, hidden: jax.Array, table_VE: jax.Array) -> jax.Array:
    """hidden (..., D) -> (..., V)."""
    x = self.norm(in_float32(activation(self.act), self.dense(hidden)))
    kernel = table_VE.T if self.decoder is None else self.decoder.kernel[...]
    return linear(x, kernel, self.bias[...], ("table_embed", "vocab"))


class Pooler(nnx.Module):
  """act(dense(first token)): (B, L, D) -> (B, D). With a key, dropout of the input and of the result."""

  def __init__(self, rngs: nnx.Rngs, width: int, *, act: str = "tanh", dropout: float = 0.0,
               input_dropout: float = 0.0):
    self.act, self.dropout, self.input_dropout = act, dropout, input_dropout
    self.dense = Linear(rngs, {"embed": width}, {"mlp": width})

  def __call__(self, hidden_BLD: jax.Array, key: jax.Array | None = None) -> jax.Array:
    before, after = split(key, 2)
    first_BD = dropout(hidden_BLD[:, 0], self.input_dropout, before)
    return dropout(in_float32(activation(self.act), self.dense(first_BD)), self.dropout, after)


class ReplacedTokenHead(nnx.Module):
  """One score per token, positive where it was replaced: dense, activation, dense (Clark et al. 2020).

  With an epsilon it reads norm(token + first token) (the released code of DeBERTa 3).
  """

  def __init__(self, rngs: nnx.Rngs, width: int, *, act: str, epsilon: float | None = None):
    self.act = act
    self.norm = None if epsilon is None else LayerNorm(rngs, width, epsilon=epsilon)
    self.dense = Linear(rngs, {"embed": width}, {"mlp": width})
    self.score = Linear(rngs, {"embed": width}, {"labels": 1})

  def __call__(self, hidden_BLD: jax.Array) -> jax.Array:
    """(B, L, D) -> (B, L)."""
    read = hidden_BLD if self.norm is None else self.norm(hidden_BLD[:, :1] + hidden_BLD)
    return self.score(in_float32(activation(self.act), self.dense(read)))[..., 0]


def pools(head: EncoderHead, bare: bool) -> bool:
  """Whether this head reads the first token through a pooler; bare: the encoder without a head has one."""
  return bare if head == "none" else head in READS_FIRST_TOKEN


def labels(head: EncoderHead, count: int) -> int:
  """How many scores the classifier of this head gives; 0: it has none."""
  return {"sequence": count, "token": count, "question": 2, "choice": 1}.get(head, 0)


def span(output: Output) -> Output:
  """Scores (B, L, 2) as 'start_logits' and 'end_logits'."""
  start_BL, end_BL = jnp.moveaxis(jnp.asarray(output.scores), -1, 0)
  return dataclasses.replace(output, scores=None, extra=output.extra | {"start_logits": start_BL, "end_logits": end_BL})
