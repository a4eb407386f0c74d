"""AdaLoRA's adapter folders: A, E and B of every module, and which of a module's triplets the folder holds.

A folder that was trained keeps those triplets alone that were left (`rank_pattern`); read here, the others are zeros.
In a fused module (GPT-2's c_attn) query, key and value have one A and one E. After our training the three differ, and
the module that is written has the triplets of all three, each with zeros for the outputs of the other two.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import CheckpointError
from llm_jax.peft import adalora
from llm_jax.peft.adapted import Arrays, Method
from llm_jax.peft.base_names import PREFIX, Base, Slot, Tensors, check_config, exactly
from llm_jax.peft.folder_tensors import by_module, exactly_train, put, saved_modules

PEFT_TYPES = ("ADALORA",)
METHODS = ("adalora",)
LEAVES = (".lora_A", ".lora_E", ".lora_B")
# {their key: (our knob, its type, what it is there when not said)}
BUDGET: dict[str, tuple[str, type, Any]] = {
    "init_r": ("rank", int, 12), "target_r": ("final_rank", int, 8), "lora_alpha": ("alpha", float, 8),
    "deltaT": ("every", int, 1), "beta1": ("sensitivity", float, 0.85), "beta2": ("uncertainty", float, 0.85),
    "orth_reg_weight": ("orthogonality", float, 0.5), "tinit": ("first", float, 0), "tfinal": ("last", float, 0)}


def read(config: Mapping[str, Any], tensors: Tensors, base: Base) -> tuple[Method, dict[str, jax.Array]]:
  """The method of a folder and our arrays.

  Raises:
    ConfigError: a setting that is not supported. CheckpointError: tensors that do not fit the base.
  """
  check_config(config, *BUDGET, "r", "total_step", "rank_pattern", "init_lora_weights")
  modules, others = by_module(tensors, LEAVES)
  base.check_every_layer(modules)
  slots = {module: base.slot(module) for module in modules}
  knobs = {ours: kind(config.get(theirs, otherwise)) for theirs, (ours, kind, otherwise) in BUDGET.items()}
  method = adalora.build(targets=exactly({stem for slot in slots.values() for stem in slot.stems}),
                         train=exactly_train(base, others), fused=_fused(list(slots.values())), **knobs)
  adapted, rank = method.adapt(base.model), int(knobs["rank"])
  arrays: dict[str, jax.Array] = {}
  for module, leaves in modules.items():
    slot, (a, e, b) = slots[module], (leaves[leaf].astype(np.float32) for leaf in LEAVES)
    held = _held(config.get("rank_pattern"), module, rank)
    if a.shape != (len(held), slot.rows) or e.shape != (len(held), 1) or b.shape != (sum(slot.columns), len(held)):
      raise CheckpointError(f"adapter of {module}: A {a.shape}, E {e.shape} and B {b.shape} do not fit a map of "
                            f"{slot.rows} inputs and {sum(slot.columns)} outputs with {len(held)} triplets")
    a, e, b = _spread(a.T, held, rank), _spread(e.T, held, rank), _spread(b, held, rank)
    for stem, part in zip(slot.stems, slot.cut(b.T)):
      put(arrays, adapted, f"{stem}.adalora_a", slot.index, a.reshape(*slot.ins, rank))
      put(arrays, adapted, f"{stem}.adalora_b", slot.index, part)
      put(arrays, adapted, f"{stem}.adalora_e", slot.index, e.reshape(rank))
  return method, arrays | base.replaced(others)


def _held(pattern: Mapping[str, Any] | None, module: str, rank: int) -> list[int]:
  """Numbers of the triplets whose tensors the folder has."""
  names = (f"{prefix}{module}.lora_E{ending}" for prefix in ("", PREFIX) for ending in ("", ".default"))
  flags = next((pattern[name] for name in names if name in pattern), None) if pattern else None
  return list(range(rank)) if flags is None else [i for i, there in enumerate(flags) if there]


def _spread(x: Any, held: list[int], rank: int) -> Any:
  """(..., triplets held) -> (..., rank), zeros for the others."""
  if len(held) == rank:
    return x
  places = np.full(rank, len(held))
  places[held] = np.arange(len(held))
  xp = np if isinstance(x, np.ndarray) else jnp
  return xp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)])[..., places]


def _fused(slots: list[Slot]) -> str | None:
  """The pattern of the endings by which maps of one module differ."""
  endings = {stem.rpartition(".")[2] for slot in slots if len(slot.stems) > 1 for stem in slot.stems}
  return rf"({'|'.join(map(re.escape, sorted(endings)))})$" if endings else None


def write(method: Method, base: Base, params: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """adapter_config.json's keys and the tensors of a model that `method` made of the base. The folder does not say when
  in a run of unknown length the budget moves, unless these are numbers of updates.

  Raises:
    ConfigError: a further parameter that is trained belongs to an adapted module.
  """
  found = {module: _triplets(slot, params) for module, slot in base.slots.items()}
  modules = {module: arrays for module, arrays in found.items() if arrays is not None}
  knobs, most = method.knobs, max(a.shape[0] for a, _, _ in modules.values())
  tensors: dict[str, np.ndarray] = {}
  for module, arrays in modules.items():
    more = most - arrays[0].shape[0]
    for leaf, array, axis in zip(LEAVES, arrays, (0, 0, 1)):
      tensors[f"{PREFIX}{module}{leaf}"] = np.pad(array, [(0, more if i == axis else 0) for i in (0, 1)])
  saved = saved_modules(method, base, params, set(modules))
  tensors |= {PREFIX + name: array for found in saved.values() for name, array in found.items()}
  said = {theirs: knobs[ours] for theirs, (ours, _, _) in BUDGET.items()}
  first, last = (int(knobs[name]) if knobs[name] >= 1 else 0 for name in ("first", "last"))
  alpha = knobs["alpha"] if most == knobs["rank"] else adalora.scale_of(knobs["rank"], knobs["alpha"]) * (most + 1e-5)
  said |= dict(init_r=most, lora_alpha=alpha, tinit=first, tfinal=last, total_step=first + last + 1)
  return said | dict(peft_type="ADALORA", target_modules=base.endings(modules), lora_dropout=0.0, bias="none",
                     rank_pattern=None, fan_in_fan_out=any(base.slots[m].conv1d for m in modules),
                     modules_to_save=list(saved) or None), tensors


def _triplets(slot: Slot, params: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
  """(A, E, B) of a module, (rank, in), (rank, 1), (out, rank); None where it has no adapter."""
  of = lambda stem, leaf: np.asarray(params[f"{stem}.adalora_{leaf}"][slot.index], np.float32)
  held = {i: [of(stem, leaf) for leaf in "aeb"] for i, stem in enumerate(slot.stems) if f"{stem}.adalora_e" in params}
  if not held:
    return None
  first = next(iter(held.values()))
  shared = all(np.array_equal(x, y) for part in held.values() for x, y in zip(part[:2], first[:2]))
  rank, parts = first[1].size, [first] if shared else list(held.values())
  a = np.concatenate([part[0].reshape(slot.rows, rank).T for part in parts])
  e = np.concatenate([part[1].reshape(rank, 1) for part in parts])
  b, edges = np.zeros((sum(slot.columns), len(parts) * rank), np.float32), np.cumsum((0, *slot.columns))
  for place, (i, part) in enumerate(held.items()):
    start = 0 if shared else place * rank
    b[edges[i]:edges[i + 1], start:start + rank] = part[2].reshape(rank, -1).T
  return a, e, b
