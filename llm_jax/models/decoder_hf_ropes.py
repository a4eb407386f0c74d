"""How a decoder's rotary positions read in Hugging Face's words, both ways: `rope_parameters` of transformers 5, or
`rope_theta` with `rope_scaling` (and `rope_local_base_freq` in Gemma 3) of transformers 4.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from llm_jax.core import hugging_face as hf
from llm_jax.core.errors import ConfigError, unknown_name
from llm_jax.layers.positions import SCALINGS, Rope
from llm_jax.models.decoder_config import DecoderConfig

# What each scaling reads beside theta.
OPTIONS = dict(
    linear=("factor",), dynamic=("factor",),
    llama3=("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    yarn=("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
          "mscale_all_dim", "truncate"))


def read(family: str, config: hf.ConfigReader) -> dict[str, Rope]:
  """The rope of global layers, and in Gemma 3 that of local ones."""
  config.used |= {"rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq",
                  "original_max_position_embeddings"}
  said = dict(config.hf.get("rope_parameters") or {})
  scaling = dict(config.hf.get("rope_scaling") or {})
  top = config.hf.get("original_max_position_embeddings")
  if family == "gemma3_text":
    full = {"rope_theta": config.hf.get("rope_theta") or 1_000_000.0} | (said.get("full_attention") or {}) | scaling
    local = {"rope_theta": config.hf.get("rope_local_base_freq") or 10_000.0} | (said.get("sliding_attention") or {})
    return dict(rope=_rope(full, top), local_rope=_rope(local, top))
  return dict(rope=_rope({"rope_theta": config.hf.get("rope_theta") or config.defaults.get("rope_theta", 10_000.0)}
                         | (scaling or said), top))


def _rope(said: Mapping[str, Any], trained: int | None) -> Rope:
  said = {k: v for k, v in said.items() if v is not None}
  kind = said.get("rope_type", said.get("type", "default"))
  if kind not in SCALINGS:
    raise unknown_name("config.json: rope_type", kind, list(SCALINGS), what="rope scaling")
  if said.get("partial_rotary_factor", 1.0) != 1.0:
    raise ConfigError("config.json: partial_rotary_factor", f"{said['partial_rotary_factor']} is not supported",
                      accepted="1.0")
  known = {"rope_theta", "rope_type", "type", "partial_rotary_factor", "finetuned", *itertools.chain(*OPTIONS.values())}
  unknown = sorted(set(said) - known)
  if unknown:
    raise unknown_name("config.json: rope_parameters", unknown[0], sorted(known), what="key")
  options = {k: said[k] for k in OPTIONS.get(kind, ()) if k in said}
  if trained is not None and kind in ("llama3", "yarn"):
    options["original_max_position_embeddings"] = trained
  return Rope(float(said["rope_theta"]), kind, tuple(sorted(options.items())))


def say(config: DecoderConfig) -> dict[str, Any]:
  """The keys of both generations."""
  said = lambda rope: dict(rope_type=rope.kind, rope_theta=rope.theta, **dict(rope.options))
  scaling = {k: v for k, v in said(config.rope).items() if k != "rope_theta"}
  older = dict(rope_theta=config.rope.theta, rope_scaling=None if config.rope.kind == "default" else scaling)
  if config.family != "gemma3_text":
    return older | dict(rope_parameters=said(config.rope))
  local = config.local_rope or config.rope
  return older | dict(rope_local_base_freq=local.theta,
                      rope_parameters=dict(full_attention=said(config.rope), sliding_attention=said(local)))
