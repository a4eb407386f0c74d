"""Rows of text as the objectives that corrupt them see them: which tokens are text, which ids are whose, whose dice.

A row is corrupted inside the step. In training the dice are the step's key and the row's place, so that a resume
repeats them; in evaluation, which has no key, they are the row's content, so that every pass corrupts it in the same
way.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Vocabulary

ROLE_KNOB = ("a tokenizer with that role: 'sentencepiece' has all; config.data.tokenizer.special lists those of "
             "'bytes' and 'characters', e.g. ('eod', 'pad', 'cls', 'sep', 'mask'); for 'hub' it is {role: token}")


def special_id(tokenizer: Vocabulary, role: str) -> int:
  """The id of a role.

  Raises:
    ConfigError: the tokenizer has no such token.
  """
  if role not in tokenizer.special:
    raise ConfigError("config.data.tokenizer", f"has no {role!r} token, which config.objective writes",
                      accepted=ROLE_KNOB)
  return tokenizer.special[role]


def reserved_ids(tokenizer: Vocabulary) -> tuple[int, ...]:
  """Ids that no text encodes to."""
  return tuple(sorted({*tokenizer.special.values(), *tokenizer.sentinels}))


def ordinary_ids(tokenizer: Vocabulary) -> np.ndarray:
  """(O,) int32: the ids that stand for text."""
  return np.setdiff1d(np.arange(tokenizer.vocab_size, dtype=np.int32), reserved_ids(tokenizer)).astype(np.int32)


def real_tokens(batch: Batch) -> jax.Array:
  """(B, L) bool: not padding."""
  return batch["segment_ids"] > 0 if "segment_ids" in batch else batch["weights"] > 0


def is_text(batch: Batch, tokenizer: Vocabulary) -> jax.Array:
  """(B, L) bool: text, neither padding nor a special id."""
  table = np.ones(tokenizer.vocab_size, bool)
  table[list(reserved_ids(tokenizer))] = False
  return real_tokens(batch) & jnp.asarray(table)[batch["tokens"]]


def word_starts(batch: Batch, tokenizer: Vocabulary) -> jax.Array:
  """(B, L) bool: a word starts at this token."""
  edges_BL2 = jnp.asarray(tokenizer.word_edges)[batch["tokens"]]
  return edges_BL2[..., 0] | jnp.pad(edges_BL2[:, :-1, 1], ((0, 0), (1, 0)), constant_values=True)


def documents(batch: Batch) -> dict[str, Any]:
  """The inputs that say where a row's documents lie, for `apply`."""
  return dict(position_ids=batch.get("positions"), segment_ids=batch.get("segment_ids"))


def two_keys(key: Key | None) -> tuple[Key | None, Key | None]:
  """One key for the corruption and one for the model's dropout; None stays None."""
  return (None, None) if key is None else tuple(jax.random.split(key))


def row_keys(key: Key | None, tokens_BL: jax.Array) -> Key:
  """(B,) keys: of the rows' places under `key`, or of their content."""
  if key is not None:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(tokens_BL.shape[0]))
  factors = np.random.default_rng(0).integers(1, 2**32, tokens_BL.shape[1], np.uint32) | np.uint32(1)
  content_B = (tokens_BL.astype(jnp.uint32) * factors).sum(1, dtype=jnp.uint32)
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), content_B)
