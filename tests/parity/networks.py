"""Recorded networks that transformers does not have, called by their recorded inputs' names, with outputs by theirs."""

import jax.numpy as jnp


def recurrent(model, params, inputs):
  """An LSTM or GRU, from a given state: h0 and c0, (layers, B, H) there."""
  rows_first = lambda a: jnp.moveaxis(a, 0, 1)
  state = {name: rows_first(inputs.pop(f"{name}0")) for name in ("h", "c") if f"{name}0" in inputs}
  output = model.apply(params, **inputs, cache=state or None)
  output.extra = {"rnn_output": output.hidden} | {f"{name}_last": rows_first(a) for name, a in output.cache.items()}
  return output


def characters(model, params, inputs):
  """A network over characters: char_ids (B, L), or (B, L, W) by words."""
  return model.apply(params, input_ids=inputs["char_ids"])
