"""Attention by the Pallas splash kernel on TPUs: blocks that no query sees are neither loaded nor computed.

The kernel takes one example (H, L, K) with unscaled scores, so it is mapped over the batch and the queries are scaled
first. Under a mesh each device runs it on its own rows and heads.
"""

import jax
import jax.numpy as jnp

from llm_jax.layers.attention_call import AttentionCall
from llm_jax.layers.doors import platform
from llm_jax.parallel.shard import per_shard, ways

LANES = 128  # of a TPU's vector unit: block sizes are multiples of it
LARGEST_BLOCK = 512


def problem(call: AttentionCall) -> str | None:
  """Why splash attention cannot serve this call; None if it can."""
  if platform() != "tpu":
    return "it needs a TPU"
  if (reason := call.beyond_kernels()) is not None:
    return f"it has no {reason}"
  if call.q.shape[1] % LANES:
    return f"length {call.q.shape[1]} is not a multiple of {LANES}"
  if call.q.shape[-1] % 64 or call.v.shape[-1] % 64:
    return f"head width {call.q.shape[-1]} is not a multiple of 64"
  if ways("length", call.q.shape[1]) > 1:
    return "the mesh splits the length"
  return None


def attend(call: AttentionCall, interpret: bool = False) -> jax.Array:
  """-> (B, L, H, K). interpret: run the kernel's program without a TPU, for tests."""
  return attend_heads_first(call, interpret).transpose(0, 2, 1, 3)


def attend_heads_first(call: AttentionCall, interpret: bool = False) -> jax.Array:
  """-> (B, H, L, K), the array that the kernel also keeps for its backward pass."""
  q, k, v = call.q, call.k, call.v
  H, G = q.shape[2], k.shape[2]
  key_axis = "kv_heads"
  if ways("heads", H) != ways("kv_heads", G):  # too few key heads to split as the queries are: give each its own copy
    k, v, key_axis = jnp.repeat(k, H // G, 2), jnp.repeat(v, H // G, 2), "heads"
  q = q if call.scale == 1.0 else (q.astype(jnp.float32) * call.scale).astype(q.dtype)
  heads_first = lambda x: x.transpose(0, 2, 1, 3)
  arrays = [heads_first(q), heads_first(k), heads_first(v), *(call.visibility.segments or ())]
  key_axes = ("batch", key_axis, None, None)
  axes = [("batch", "heads", None, None), key_axes, key_axes, ("batch", None), ("batch", None)][: len(arrays)]
  run = lambda *local: _kernel(call, local, interpret)
  return per_shard(run, axes, ("batch", "heads", None, None))(*arrays).astype(call.q.dtype)


def _kernel(call: AttentionCall, arrays: tuple[jax.Array, ...], interpret: bool) -> jax.Array:
  """This device's q (B, H, L, K), k, v (B, G, L, K) and, if packed, two segment ids (B, L) -> (B, H, L, K)."""
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash  # needs no TPU
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
  q, k, v, *segments = arrays
  heads, length = q.shape[1], q.shape[2]
  see, square = call.visibility, (q.shape[2], q.shape[2])
  mask: masks.Mask
  if see.window is not None:
    mask = masks.LocalMask(square, (see.window - 1, 0 if see.causal else see.window - 1), 0)
  else:
    mask = masks.CausalMask(square) if see.causal else masks.FullMask(square)
  kernel = splash.make_splash_mha(
      masks.MultiHeadMask([mask] * heads), block_sizes=_block_sizes(splash, length, q.shape[3]),
      attn_logits_soft_cap=call.soft_cap, head_shards=1, q_seq_shards=1, interpret=interpret)
  if not segments:
    return jax.vmap(kernel)(q, k, v)
  return jax.vmap(kernel)(q, k, v, splash.SegmentIds(*segments))


def _block_sizes(splash, length: int, width: int):
  """The largest block up to LARGEST_BLOCK that divides the length. Narrow heads lie with the length along the lanes,
  or half of every register would be padding."""
  block = next(b for b in range(min(LARGEST_BLOCK, length), 0, -LANES) if length % b == 0)
  layout = splash.QKVLayout.SEQ_MINOR if width < LANES else splash.QKVLayout.HEAD_DIM_MINOR
  return splash.BlockSizes(block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block,
                           block_kv_dq=block, q_layout=layout, k_layout=layout, v_layout=layout)
