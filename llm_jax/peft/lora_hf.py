"""LoRA's and DoRA's adapter folders, as Hugging Face's `peft` writes and reads them: ranks, scales, saved modules.

One A of a fused module (GPT-2's c_attn) is ours of query, key and value alike, its B theirs side by side. After our
training the three differ, and one adapter of three times the rank, whose B is block-diagonal, is exactly them.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.peft import dora, lora
from llm_jax.peft.adapted import Arrays, Method
from llm_jax.peft.base_names import FILE, PREFIX, Base, Slot, Tensors, check_config, exactly
from llm_jax.peft.folder_tensors import by_module, exactly_train, put, saved_modules

PEFT_TYPES = ("LORA",)
METHODS = ("lora", "dora")
LEAVES = (".lora_A.weight", ".lora_B.weight")
MAGNITUDE = ".lora_magnitude_vector"


def read(config: Mapping[str, Any], tensors: Tensors, base: Base) -> tuple[Method, dict[str, jax.Array]]:
  """The method of a folder and our arrays.

  Raises:
    ConfigError: a setting that is not supported. CheckpointError: tensors that do not fit the base.
  """
  check_config(config, "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
               "init_lora_weights")
  if config.get("init_lora_weights", True) not in (True, False, "gaussian", "orthogonal", "eva"):
    raise ConfigError(f"{FILE}: init_lora_weights", f"{config['init_lora_weights']!r} changes the base's weights",
                      accepted="an adapter converted to plain LoRA by peft")
  decomposed = bool(config.get("use_dora"))
  modules, others = by_module(tensors, (*LEAVES, MAGNITUDE) if decomposed else LEAVES)
  rank, alpha = int(config["r"]), float(config["lora_alpha"])
  ranks: dict[str, int] = {}
  alphas: dict[str, float] = {}
  arrays: dict[str, jax.Array] = {}
  for module, leaves in modules.items():
    slot, (a, b) = base.slot(module), [leaves[leaf] for leaf in LEAVES]
    check_shapes(module, slot, a, b)
    for stem in slot.stems:
      ranks[lora.layer_name(stem, slot.index)] = a.shape[0]
      alphas[lora.layer_name(stem, slot.index)] = float(_pattern(config.get("alpha_pattern"), module, alpha))
  stems = {stem for module in modules for stem in base.slot(module).stems}
  build = dora.build if decomposed else lora.build
  method = build(rank=rank, alpha=alpha, targets=exactly(stems), stabilised=bool(config.get("use_rslora")),
                 train=exactly_train(base, others), **patterns(base, stems, ranks, alphas, rank, alpha))
  adapted = method.adapt(base.model)
  for module, leaves in modules.items():
    slot = base.slot(module)
    a, b = (leaves[leaf].astype(np.float32) for leaf in LEAVES)
    for stem, part in zip(slot.stems, slot.cut(b.T)):
      put(arrays, adapted, f"{stem}.lora_a", (*slot.index, ..., slice(0, a.shape[0])), a.T.reshape(*slot.ins, -1))
      put(arrays, adapted, f"{stem}.lora_b", (*slot.index, slice(0, a.shape[0])), part)
    if decomposed:
      magnitude = leaves[MAGNITUDE].astype(np.float32).reshape(-1)
      for stem, part in zip(slot.stems, slot.cut(magnitude)):
        put(arrays, adapted, f"{stem}.dora_magnitude", slot.index, part)
  return method, _scales(adapted, method) | arrays | base.replaced(others)


def check_shapes(module: str, slot: Slot, a: Any, b: Any) -> None:
  """Raises:
    CheckpointError: A and B are not (rank, in) and (out, rank) of the module.
  """
  if a.ndim != 2 or a.shape[1] != slot.rows or b.shape != (sum(slot.columns), a.shape[0]):
    raise CheckpointError(f"adapter of {module}: A {a.shape} and B {b.shape} do not fit a map of {slot.rows} inputs "
                          f"and {sum(slot.columns)} outputs")


def patterns(base: Base, stems: set[str], ranks: dict, alphas: dict, rank: int, alpha: float) -> dict[str, dict | None]:
  """The knobs for what differs from rank and alpha; a layer without an adapter has rank 0."""
  every = [lora.layer_name(s, i) for s in sorted(stems) for i in np.ndindex(*base.lead(s))]
  return dict(ranks={exactly([n]): ranks.get(n, 0) for n in every if ranks.get(n, 0) != rank} or None,
              alphas={exactly([n]): alphas[n] for n in every if alphas.get(n, alpha) != alpha} or None)


def _pattern(given: Mapping[str, Any] | None, module: str, otherwise: float) -> float:
  """The value of the first pattern that takes the end of a module's name, as peft reads them."""
  return next((v for p, v in (given or {}).items() if re.match(rf"(.*\.)?({p})$", module)), otherwise)


def _scales(adapted: Any, method: Method) -> dict[str, Any]:
  sizes = lora.sizes_of(method)
  return {n: sizes.of(n.removesuffix(".lora_scale"), s.shape)[1]
          for n, s in adapted.shapes.items() if n.endswith(".lora_scale")}


def write(method: Method, base: Base, params: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """adapter_config.json's keys and the tensors of a model that `method` made of the base.

  Raises:
    ConfigError: a further parameter that is trained belongs to an adapted module.
  """
  knobs, sizes = method.knobs, lora.sizes_of(method)
  tensors: dict[str, np.ndarray] = {}
  ranks, alphas = {}, {}
  for module, slot in base.slots.items():
    found = _product(slot, params, sizes)
    if found is None:
      continue
    a, b, alpha = found
    tensors |= {f"{PREFIX}{module}{LEAVES[0]}": a, f"{PREFIX}{module}{LEAVES[1]}": b}
    ranks[module], alphas[module] = a.shape[0], alpha
    if method.name == "dora":
      tensors[f"{PREFIX}{module}{MAGNITUDE}"] = _magnitude(slot, params)
  saved = saved_modules(method, base, params, set(ranks))
  tensors |= {PREFIX + name: array for found in saved.values() for name, array in found.items()}
  differing = lambda values, common: {re.escape(m): v for m, v in values.items() if v != common}
  return dict(
      peft_type="LORA", r=knobs["rank"], lora_alpha=knobs["alpha"], use_rslora=knobs["stabilised"],
      use_dora=method.name == "dora", lora_dropout=0.0, bias="none",
      rank_pattern=differing(ranks, knobs["rank"]), alpha_pattern=differing(alphas, knobs["alpha"]),
      fan_in_fan_out=any(base.slots[m].conv1d for m in ranks), target_modules=base.endings(ranks),
      modules_to_save=list(saved) or None), tensors


def _product(slot: Slot, params: Arrays, sizes: lora.Sizes) -> tuple[np.ndarray, np.ndarray, float] | None:
  """(A, B, alpha) of a module, None where it has no adapter."""
  parts = []
  for i, stem in enumerate(slot.stems):
    if f"{stem}.lora_a" in params:
      a, b = (np.asarray(params[f"{stem}.lora_{x}"][slot.index], np.float32) for x in "ab")
      lead = params[f"{stem}.lora_a"].shape[: params[f"{stem}.lora_a"].ndim - a.ndim]
      ranks, scales = sizes.of(stem, lead)
      r = int(ranks[slot.index])
      if r:
        parts.append((i, a.reshape(slot.rows, -1)[:, :r].T, b.reshape(b.shape[0], -1)[:r].T, float(scales[slot.index])))
  if not parts:
    return None
  shared = all(np.array_equal(parts[0][1], a) for _, a, _, _ in parts)
  rank = parts[0][1].shape[0] if shared else sum(a.shape[0] for _, a, _, _ in parts)
  joined = np.zeros((sum(slot.columns), rank), np.float32)
  edges, column = np.cumsum((0, *slot.columns)), 0
  scale = parts[0][3]
  for i, a, b, own in parts:
    joined[edges[i]:edges[i + 1], column:column + a.shape[0]] = b if own == scale else b * (own / scale)
    column += 0 if shared else a.shape[0]
  alpha = scale * (rank ** 0.5 if sizes.stabilised else rank)
  a = parts[0][1] if shared else np.concatenate([a for _, a, _, _ in parts])
  return a, joined, _plain(alpha)


def _magnitude(slot: Slot, params: Arrays) -> np.ndarray:
  """Of each output; that of a map without an adapter is the norm of its kernel."""
  parts = []
  for stem in slot.stems:
    held = params.get(f"{stem}.dora_magnitude")
    kernel = params[f"{stem}.kernel"]
    part = dora.norms(kernel[slot.index], 0, len(slot.ins)) if held is None else held[slot.index]
    parts.append(np.asarray(part, np.float32).reshape(-1))
  return np.concatenate(parts)


def _plain(alpha: float) -> float:
  """Alpha as it was written: a number of few digits, not its float32 neighbour."""
  return float(f"{alpha:.6g}")
