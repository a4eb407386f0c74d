"""Scaled dot-product attention through one door.

Which key a query may see is said by `Visibility`, never by a ready-made (L, M) mask, so that a kernel that skips blocks
can be chosen behind the door: 'xla' (any device, any derivative), 'cudnn' (GPU), 'splash' (TPU), 'blocked' (CPU), or
'auto'. All agree with 'xla' (tests/layers/test_dot_product.py). Where the mesh cuts the sequence, attention_context.py
comes in between.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.core.derivatives import plain
from llm_jax.core.errors import ConfigError
from llm_jax.layers import attention_blocked, attention_context, attention_cudnn, attention_splash
from llm_jax.layers.attention_call import NEGATIVE, AttentionCall, Visibility
from llm_jax.layers.doors import cpu_forms, platform

__all__ = ["Implementation", "Visibility", "attend"]

Implementation = Literal["auto", "xla", "blocked", "cudnn", "splash"]
KERNELS = {"blocked": attention_blocked, "cudnn": attention_cudnn, "splash": attention_splash}


def attend(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, visibility: Visibility, *,
           scale: float | None = None, soft_cap: float | None = None, bias_BHLM: jax.Array | None = None,
           dropout_rate: float = 0.0, key: jax.Array | None = None,
           implementation: Implementation = "auto", heads_first: bool = False) -> jax.Array:
  """softmax(cap(q k^T * scale) + bias, over visible keys) v -> (B, L, H, K), softmax in float32.

  Args:
    q_BLHK: queries. k_BMGK, v_BMGK: keys and values with G heads; H / G query heads share one (GQA).
    visibility: which keys each query sees.
    scale: factor of the scores; None is K ** -0.5.
    soft_cap: c * tanh(scores / c) before the mask (Gemma 2).
    bias_BHLM: added to the scores, broadcastable.
    dropout_rate: of the attention weights, when `key` is given.
    key: random key for dropout.
    implementation: 'auto' takes the fastest that can serve the call on this device.
    heads_first: the result as (B, H, L, K), which is what some kernels write and keep for their backward pass.

  Raises:
    ConfigError: the implementation that was asked for cannot serve this call.
  """
  scale = q_BLHK.shape[-1] ** -0.5 if scale is None else scale
  dropout_rate = dropout_rate if key is not None else 0.0
  call = AttentionCall(q_BLHK, k_BMGK, v_BMGK, visibility, scale, soft_cap, bias_BHLM, dropout_rate, key)
  if attention_context.cut(call):
    out_BLHK = attention_context.attend(call, implementation, _whole)
  elif heads_first and _named(call, implementation) == "splash":
    return attention_splash.attend_heads_first(call)
  else:
    out_BLHK = _whole(call, implementation)
  return out_BLHK.transpose(0, 2, 1, 3) if heads_first else out_BLHK


def _whole(call: AttentionCall, implementation: str) -> jax.Array:
  """The attention of sequences that no mesh cuts."""
  name = _named(call, implementation)
  return _xla(call) if name == "xla" else KERNELS[name].attend(call)


def _named(call: AttentionCall, implementation: str) -> str:
  return _choose(call) if implementation == "auto" else _check(call, implementation)


def _choose(call: AttentionCall) -> str:
  if plain():
    return "xla"
  if cpu_forms() and attention_blocked.problem(call) is None and attention_blocked.pays(call):
    return "blocked"
  kernel = {"gpu": "cudnn", "tpu": "splash"}.get(platform())
  return kernel if kernel is not None and KERNELS[kernel].problem(call) is None else "xla"


def _check(call: AttentionCall, name: str) -> str:
  """`name` if it can serve the call."""
  if name == "xla":
    return name
  problem = "it has first derivatives only" if plain() else KERNELS[name].problem(call)
  if problem is not None:
    raise ConfigError("config.model.attention", f"{name!r} cannot serve this call: {problem}",
                      accepted="'auto', which takes what can, or 'xla'")
  return name


def _xla(call: AttentionCall) -> jax.Array:
  B, L, H, K = call.q.shape
  M, G = call.k.shape[1:3]
  q_BLGRK = call.q.reshape(B, L, G, H // G, K)
  scores = jnp.einsum("blgrk,bmgk->bgrlm", q_BLGRK, call.k, preferred_element_type=jnp.float32) * call.scale
  scores = scores.reshape(B, H, L, M)
  if call.soft_cap is not None:
    scores = call.soft_cap * jnp.tanh(scores / call.soft_cap)
  if call.bias is not None:
    scores = scores + call.bias.astype(jnp.float32)
  mask = call.visibility.mask(L, M)
  if mask is not None:
    scores = jnp.where(mask, scores, NEGATIVE)
  weights = jax.nn.softmax(scores, axis=-1)
  if call.key is not None and call.dropout_rate > 0.0:
    keep = jax.random.bernoulli(call.key, 1.0 - call.dropout_rate, weights.shape)
    weights = jnp.where(keep, weights / (1.0 - call.dropout_rate), 0.0)
  weights = weights.astype(call.v.dtype).reshape(B, G, H // G, L, M)
  return jnp.einsum("bgrlm,bmgk->blgrk", weights, call.v).reshape(B, L, H, call.v.shape[-1])
