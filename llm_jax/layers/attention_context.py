"""Attention where the mesh cuts the sequence: by a ring, by gathering keys and values, or by trading length for heads.

`config.mesh.context_attention` names the way. 'ring' never holds the whole sequence (attention_ring.py). 'gather' lets
each device collect all keys and values for its own queries: any bias, dropout and derivative, scores of (l, L). 'heads'
(Jacobs et al. 2023, DeepSpeed-Ulysses) gives each device whole sequences of a part of the heads, for which every kernel
of the attention door can be taken.
"""

import dataclasses
from collections.abc import Callable

import jax

from llm_jax.core.errors import ConfigError
from llm_jax.layers import attention_ring
from llm_jax.layers.attention_call import AttentionCall
from llm_jax.parallel import ring, rules
from llm_jax.parallel.rules import constrain

KEY = "config.mesh.context_attention"
Attend = Callable[[AttentionCall, str], jax.Array]  # the door for whole sequences: (call, implementation)


def cut(call: AttentionCall) -> bool:
  """Whether the mesh cuts the queries of this call into parts of the sequence."""
  return ring.axis_of_length(call.q.shape[1])[1] > 1


def attend(call: AttentionCall, implementation: str, whole: Attend) -> jax.Array:
  """-> (B, L, H, K). whole: the attention of sequences that are not cut.

  Raises:
    ConfigError: the way that was asked for cannot serve the call.
  """
  active = rules.active()
  assert active is not None  # `cut` was asked
  way, problem = active.context_attention, attention_ring.problem(call)
  if way == "heads":
    return _by_heads(call, implementation, whole, active)
  if implementation not in ("auto", "xla"):
    raise ConfigError("config.model.attention", f"{implementation!r} needs whole sequences, and config.mesh.context "
                      "cuts them", accepted="'auto' or 'xla', or config.mesh.context_attention='heads'")
  if way == "ring" and problem is not None:
    raise ConfigError(KEY, f"'ring' cannot serve this call: {problem}", accepted="'auto', 'gather' or 'heads'")
  if way == "gather" or problem is not None:
    gathered = [constrain(x, "batch", None, "kv_heads", "head") for x in (call.k, call.v)]
    return whole(dataclasses.replace(call, k=gathered[0], v=gathered[1]), "xla")
  return attention_ring.attend(call)


def _by_heads(call: AttentionCall, implementation: str, whole: Attend, active: rules.ShardingRules) -> jax.Array:
  split = rules.heads_for_length(active)
  heads, parts = call.q.shape[2], split.ways("heads")
  if heads % parts:
    raise ConfigError(KEY, f"'heads' splits {heads} heads into {parts} parts (context x tensor)",
                      accepted=f"a number of heads that {parts} divides, or 'ring' or 'gather'")
  with rules.use(split):
    q = constrain(call.q, "batch", "length", "heads", "head")
    k, v = (constrain(x, "batch", "length", "kv_heads", "head") for x in (call.k, call.v))
    out = constrain(whole(dataclasses.replace(call, q=q, k=k, v=v), implementation), "batch", "length", "heads", "head")
  return constrain(out, "batch", "length", "heads", "head")
