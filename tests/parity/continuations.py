"""Recorded greedy continuations against what the model writes with its own cache, and with nothing else of ours."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def generation(case: Any, model, params) -> Iterator[str]:
  """Greedy tokens with the cache: all recorded prompts in one batch, the shorter ones padded on the left."""
  if "generate.encoder.ids" in case.expected:
    yield from encoder_decoder_generation(case, model, params)
  named = sorted(k for k in case.expected if k.startswith("generate.") and k.endswith(".prompt"))
  stems = [k.removesuffix(".prompt") for k in named]
  if not stems:
    return
  recorded = [[case.expected[f"{stem}.{part}"] for part in ("prompt", "mask", "ids")] for stem in stems]
  width = max(prompt.shape[1] for prompt, _, _ in recorded)
  left = lambda rows: np.pad(rows, ((0, 0), (width - rows.shape[1], 0))).astype(np.int32)
  new = [ids.shape[1] - prompt.shape[1] for prompt, _, ids in recorded]
  tokens = greedy(model, params, np.concatenate([left(prompt) for prompt, _, _ in recorded]),
                  np.concatenate([left(mask) for _, mask, _ in recorded]), max(new))
  for stem, (prompt, _, ids), count in zip(stems, recorded, new):
    got, tokens = tokens[:len(ids), :count], tokens[len(ids):]
    if not np.array_equal(got, ids[:, prompt.shape[1]:]):
      yield f"{stem}: {int((got != ids[:, prompt.shape[1]:]).sum())} of {got.size} tokens differ"


def encoder_decoder_generation(case: Any, model, params) -> Iterator[str]:
  """Greedy tokens of a decoder whose encoder has read the inputs once; rows count up to their end of text."""
  want = case.expected["generate.encoder.ids"]
  mask = case.inputs.get("attention_mask")
  def continued(ids, mask):
    cache = model.apply(params, ids, mask, length=want.shape[1], method="encode")
    def following(carry, _):
      token, cache = carry
      output = model.apply(params, decoder_input_ids=token, cache=cache)
      best = output.logits[:, -1].argmax(-1)[:, None].astype(jnp.int32)
      return (best, output.cache), best
    return jax.lax.scan(following, (jnp.asarray(want[:, :1], jnp.int32), cache), None, length=want.shape[1] - 1)[1]
  got = np.asarray(jax.jit(continued)(case.inputs["input_ids"], mask))[:, :, 0].T
  ends = want[:, 1:] == case.config.get("eos_token_id")
  wrong = (got != want[:, 1:]) & (np.cumsum(ends, 1) - ends == 0)
  if wrong.any():
    yield f"generate.encoder: {int(wrong.sum())} of {wrong.size} tokens differ"


def greedy(model, params, prompt: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
  """`count` greedy tokens (B, count) by the model's own cache, without anything else of the project."""
  def step(ids, mask, cache):
    output = model.apply(params, ids, attention_mask=mask, cache=cache)
    return output.logits[:, -1].argmax(-1)[:, None].astype(jnp.int32), output.cache

  def continued(prompt, mask):
    empty = model.apply(params, prompt.shape[0], prompt.shape[1] + count, method="init_cache")
    token, cache = step(prompt, mask, empty)
    def following(carry, _):
      token, cache = carry
      return step(token, jnp.ones_like(token), cache), token
    return jax.lax.scan(following, (token, cache), None, length=count)[1]
  return np.asarray(jax.jit(continued)(prompt, mask))[:, :, 0].T
