"""Prompts of unequal length as arrays of a few sizes, so that few programs are compiled.

Rows are padded on the left, so that all end in the same slot. Long prompts go through the model in chunks: the sizes
of a chunk are the powers of two up to `CHUNK`, whatever the prompt.
"""

from collections.abc import Sequence

import numpy as np

from llm_jax.core.errors import ConfigError

CHUNK = 256  # tokens of a prompt that go through the model at once
SHORTEST_CHUNK = 16
SHORTEST_CACHE = 64

Prompts = Sequence[Sequence[int]] | tuple[np.ndarray, np.ndarray]


def rows(prompts: Prompts, vocab_size: int | None = None) -> list[list[int]]:
  """One list of ids per prompt, from lists or from (input_ids (B, L), attention_mask (B, L)).

  Raises:
    ConfigError: no prompts, an empty prompt, an id outside the vocabulary.
  """
  if isinstance(prompts, tuple) and len(prompts) == 2 and getattr(prompts[0], "ndim", 0) == 2:
    ids, mask = (np.asarray(a) for a in prompts)
    prompts = [row[keep.astype(bool)].tolist() for row, keep in zip(ids, mask)]
  result = [[int(i) for i in row] for row in prompts]
  if not result:
    raise ConfigError("prompt", "no prompt given")
  for number, row in enumerate(result):
    where = "prompt" if len(result) == 1 else f"prompt {number}"
    if not row:
      raise ConfigError(where, "is empty", accepted="at least one token, e.g. the tokenizer's bos or eod")
    bad = next((i for i in row if i < 0 or (vocab_size is not None and i >= vocab_size)), None)
    if bad is not None:
      raise ConfigError(where, f"token id {bad} is not in the vocabulary", accepted=f"0 .. {(vocab_size or 0) - 1}")
  return result


def power_of_two(count: int, least: int) -> int:
  """The smallest power of two that is at least `count` and `least`."""
  return 1 << (max(count, least) - 1).bit_length()


def padded_length(longest: int) -> int:
  """Slots that prompts of at most `longest` tokens take: one chunk, or several whole ones."""
  if longest <= CHUNK:
    return power_of_two(longest, SHORTEST_CHUNK)
  return -(-longest // CHUNK) * CHUNK


def whole(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
  """(ids (B, M), mask (B, M)) for an encoder, int32, padded on the right to one of a few lengths."""
  length = power_of_two(max(map(len, prompts)), SHORTEST_CHUNK)
  ids, mask = np.zeros((2, len(prompts), length), np.int32)
  for i, row in enumerate(prompts):
    ids[i, :len(row)], mask[i, :len(row)] = row, 1
  return ids, mask


def chunks(prompts: Sequence[Sequence[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
  """[(ids (B, L), mask (B, L))] in order, int32, left padding."""
  length = padded_length(max(map(len, prompts)))
  ids, mask = np.zeros((2, len(prompts), length), np.int32)
  for i, row in enumerate(prompts):
    ids[i, length - len(row):], mask[i, length - len(row):] = row, 1
  size = min(length, CHUNK)
  return [(ids[:, i:i + size], mask[:, i:i + size]) for i in range(0, length, size)]
