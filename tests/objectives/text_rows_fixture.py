"""Rows of made-up text, and a stand-in for a network that shows what an objective gave it."""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core import plugins
from llm_jax.core.output import Output
from llm_jax.data import tokenizers

TEXT = "the law of the land is not the law of the sea, and what is said of one is not said of the other. "


def tokenizer(sentinels: int = 0) -> tokenizers.Tokenizer:
  """Bytes, with all special ids."""
  return plugins.bind(tokenizers.ROOM, dict(name="bytes", sentinels=sentinels), "config.data.tokenizer")(None).train(())


def batch(rows: int = 8, length: int = 64, *, seed: int = 0, documents: bool = True, padding: int = 0) -> dict:
  """Rows of two documents each, which end with eod, and then `padding` tokens of padding."""
  random, words = np.random.default_rng(seed), tokenizer()
  tokens = np.full((rows, length), words.special["pad"], np.int32)
  segments = np.zeros((rows, length), np.int32)
  real = length - padding
  for r in range(rows):
    cut = int(random.integers(real // 4, 3 * real // 4))
    for start, end, number in ((0, cut, 1), (cut, real, 2)):
      text = " ".join(random.choice(TEXT.split(), length)).encode()[:end - start - 1]
      tokens[r, start:end] = [*text, words.special["eod"]]
      segments[r, start:end] = number
  targets = np.pad(tokens[:, 1:], ((0, 0), (0, 1)))
  weights = np.pad((segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0), ((0, 0), (0, 1)))
  positions = np.concatenate([np.zeros((rows, 1), int), np.cumsum(segments[:, 1:] == segments[:, :-1], 1)], 1)
  positions -= np.maximum.accumulate(np.where(np.pad(np.diff(segments) != 0, ((0, 0), (1, 0))), positions, 0), 1)
  made = dict(tokens=tokens, targets=targets, weights=weights.astype(np.float32), segment_ids=segments,
              positions=positions.astype(np.int32))
  if not documents:
    del made["segment_ids"], made["positions"]
    made["weights"] = np.ones((rows, length), np.float32)
  return jax.tree.map(jnp.asarray, made)


class Shown:
  """An `apply` that keeps what it is given; scores are the table params['table'][input id], extras as told."""

  def __init__(self, **extra):
    self.calls, self.extra = [], extra

  def __call__(self, params, *, input_ids, key=None, **inputs):
    self.calls.append(dict(inputs, input_ids=input_ids, key=key))
    table = params["table"]
    hidden = jax.nn.one_hot(inputs.get("decoder_input_ids", input_ids), table.shape[0])
    return Output(hidden, lambda h: h @ table, extra=dict(self.extra))


def run(objective, params: dict, rows: dict, key=None, **extra) -> tuple:
  """(losses, what the network was given) of one compiled call; extra: the network's further outputs."""
  def step(params, rows, key):
    shown = Shown(**extra)
    losses = objective(shown, params, rows, key, {})
    assert len(shown.calls) == 1
    return losses, {name: a for name, a in shown.calls[0].items() if a is not None and name != "key"}
  return jax.jit(step)(params, rows, key)


def table(size: int = 300) -> dict:
  """Parameters for `Shown`."""
  return {"table": jax.random.normal(jax.random.key(1), (size, size))}


def sizes_in(function, *arguments) -> list[int]:
  """Elements of every array that a program computes, loops and calls within it included."""
  def sizes(jaxpr):
    for equation in jaxpr.eqns:
      yield from (v.aval.size for v in equation.outvars)
      for part in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
        inner = getattr(part, "jaxpr", part)
        if hasattr(inner, "eqns"):
          yield from sizes(inner)
  return list(sizes(jax.make_jaxpr(function)(*arguments).jaxpr))
