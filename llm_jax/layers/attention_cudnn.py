"""Attention by cuDNN's fused kernel on NVIDIA GPUs, through jax.nn.dot_product_attention."""

import jax
import jax.numpy as jnp

from llm_jax.layers.attention_call import AttentionCall
from llm_jax.layers.doors import platform


def problem(call: AttentionCall) -> str | None:
  """Why cuDNN cannot serve this call; None if it can."""
  if platform() != "gpu" or "rocm" in jax.devices()[0].client.platform_version.lower():
    return "it needs an NVIDIA GPU"
  if (reason := call.beyond_kernels()) is not None:
    return f"it has no {reason}"
  if call.q.dtype not in (jnp.bfloat16, jnp.float16):
    return f"it computes in bfloat16 or float16, not {call.q.dtype}"
  if call.soft_cap is not None:
    return "it has no soft cap"
  if call.q.shape[-1] > 128 or call.q.shape[-1] % 8:
    return f"head width {call.q.shape[-1]} is not a multiple of 8 up to 128"
  if call.visibility.window is not None and not call.visibility.causal:
    return "it has windows for causal attention only"
  return None


def attend(call: AttentionCall) -> jax.Array:
  """-> (B, L, H, K). Segments are handed over as a (B, 1, L, L) mask; everything else the kernel skips by itself."""
  see, mask = call.visibility, None
  if see.segments is not None:
    mask = (see.segments[0][:, :, None] == see.segments[1][:, None, :])[:, None]
  window = None if see.window is None else (see.window - 1, 0)
  return jax.nn.dot_product_attention(call.q, call.k, call.v, mask=mask, scale=call.scale,
                                      is_causal=see.causal, local_window_size=window, implementation="cudnn")
