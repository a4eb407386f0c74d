"""The memory of earlier segments as a cache of a fixed size (Dai et al. 2019, section 3.2): the inputs of every layer
at the last M tokens, and which of those belong to the text that goes on."""

import jax
import jax.numpy as jnp

Memory = dict[str, jax.Array]  # 'mems' (B, N, M, D); 'seen' (B, M) int32, 1 where a token of the text that goes on is


def empty(batch: int, depth: int, kept: int, width: int, dtype: jnp.dtype) -> Memory:
  """A memory of nothing."""
  return {"mems": jnp.zeros((batch, depth, kept, width), dtype), "seen": jnp.zeros((batch, kept), jnp.int32)}


def goes_on(memory: Memory, ids_BL: jax.Array, segments_BL: jax.Array | None) -> jax.Array:
  """(B, L, M) bool, which remembered tokens each token sees: those of a row's first document see them all."""
  first_BL = jnp.ones_like(ids_BL) if segments_BL is None else segments_BL == segments_BL[:, :1]
  return (first_BL[:, :, None] > 0) & (memory["seen"][:, None, :] > 0)


def after(memory: Memory, inputs_NBLD: jax.Array, padding_BL: jax.Array | None,
          segments_BL: jax.Array | None) -> Memory:
  """The memory after a row, of which the last document goes on; no gradient flows through it.

  inputs_NBLD: what every layer read; padding_BL: 1 where there is no token; segments_BL: documents, 0 is padding.
  """
  seen_BM, mems_BNLD = memory["seen"], jnp.moveaxis(inputs_NBLD, 0, 1).astype(memory["mems"].dtype)
  real_BL = jnp.ones(inputs_NBLD.shape[1:3], bool) if padding_BL is None else padding_BL == 0
  if segments_BL is not None:
    real_BL &= (segments_BL == segments_BL[:, -1:]) & (segments_BL > 0)
    seen_BM = seen_BM * (segments_BL[:, :1] == segments_BL[:, -1:])
  kept = seen_BM.shape[1]
  return jax.lax.stop_gradient({
      "mems": jnp.concatenate([memory["mems"], mems_BNLD], 2)[:, :, -kept:],
      "seen": jnp.concatenate([seen_BM, real_BL.astype(seen_BM.dtype)], 1)[:, -kept:]})
