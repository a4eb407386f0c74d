"""A keyed permutation of 0..size-1 that is computed, not stored: the order of an epoch in O(1) memory.

A balanced Feistel network permutes the next power of four; indices that land outside are sent through again until they
land inside (cycle walking), which keeps it a bijection and takes under four rounds on average. See Black and Rogaway,
"Ciphers with arbitrary finite domains" (CT-RSA 2002). Unlike a shuffle buffer it can start anywhere at no cost.
"""

import functools
import hashlib

import numpy as np

ROUNDS = 8
TABULATED = 1 << 18  # below this size an epoch's order is kept (2 MB): looking up beats computing for small batches


def permute(index: np.ndarray, size: int, key: str) -> np.ndarray:
  """The images of `index`, (n,) integers in [0, size), under the permutation that `key` names; (n,) int64."""
  if size <= 0:
    raise ValueError(f"cannot permute {size} items")
  if size <= TABULATED:
    return _whole(size, key)[index]
  return _compute(np.asarray(index).astype(np.uint64), size, key)


def in_laps(example: np.ndarray, size: int, key: str) -> tuple[np.ndarray, np.ndarray]:
  """(place, lap), (n,) int64 each, of examples counted from 0 on: every place in [0, size) comes once in a lap, in an
  order of that lap's own."""
  lap, place = np.divmod(example, size)
  for number in sorted(set(lap.tolist())):
    mine = lap == number
    place[mine] = permute(place[mine], size, f"{key}/{number}")
  return place, lap


def offset(size: int, key: str) -> int:
  """A number in [0, size) that `key` names."""
  return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") % size


@functools.lru_cache(maxsize=16)
def _whole(size: int, key: str) -> np.ndarray:
  return _compute(np.arange(size, dtype=np.uint64), size, key)


def _compute(index: np.ndarray, size: int, key: str) -> np.ndarray:
  half = max(1, ((size - 1).bit_length() + 1) // 2)
  keys = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=64).digest(), np.uint64)
  value = _feistel(index, half, keys)
  outside = value >= size
  while outside.any():
    value[outside] = _feistel(value[outside], half, keys)
    outside = value >= size
  return value.astype(np.int64)


def _feistel(value: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
  mask = np.uint64((1 << half) - 1)
  left, right = value >> np.uint64(half), value & mask
  for key in keys[:ROUNDS]:
    left, right = right, left ^ (_mix(right + key) & mask)
  return (left << np.uint64(half)) | right


def _mix(x: np.ndarray) -> np.ndarray:
  """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
