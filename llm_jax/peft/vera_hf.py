"""VeRA's adapter folders: two vectors per module, and the random pair once, from which every module takes its part.

The d of a fused module (GPT-2's c_attn) is one for query, key and value. Ours may differ after training: then the pair
that is written has a block of rank for each of them, and is exactly the same function.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.peft import vera
from llm_jax.peft.adapted import Arrays, Method
from llm_jax.peft.base_names import PREFIX, Base, Slot, Tensors, check_config, exactly
from llm_jax.peft.folder_tensors import by_module, exactly_train, put, saved_modules

PEFT_TYPES = ("VERA",)
METHODS = ("vera",)
LEAVES = (".vera_lambda_d", ".vera_lambda_b")
PAIR = ("base_model.vera_A", "base_model.vera_B")


def read(config: Mapping[str, Any], tensors: Tensors, base: Base) -> tuple[Method, dict[str, jax.Array]]:
  """The method of a folder and our arrays.

  Raises:
    ConfigError: a setting that is not supported. CheckpointError: the pair is not in the folder, or does not fit.
  """
  check_config(config, "r", "d_initial", "projection_prng_key", "save_projection", "vera_dropout")
  if any(name not in tensors for name in PAIR):
    raise CheckpointError(f"the adapter holds no {PAIR[0]}: save it with save_projection=True, because the random "
                          "numbers of the pair are those of PyTorch's generator")
  a, b = (tensors[name].astype(np.float32) for name in PAIR)
  modules, others = by_module({n: t for n, t in tensors.items() if n not in PAIR}, LEAVES)
  base.check_every_layer(modules)
  stems = {stem for module in modules for stem in base.slot(module).stems}
  method = vera.build(rank=int(config["r"]), targets=exactly(stems), train=exactly_train(base, others),
                      first=float(config.get("d_initial", 0.1)), seed=int(config.get("projection_prng_key", 0)))
  adapted = method.adapt(base.model)
  arrays: dict[str, jax.Array] = {}
  for module, leaves in modules.items():
    slot, (d, out) = base.slot(module), (leaves[leaf].astype(np.float32) for leaf in LEAVES)
    total = sum(slot.columns)
    if d.shape != (a.shape[0],) or out.shape != (total,) or a.shape[1] < slot.rows or b.shape[0] < total:
      raise CheckpointError(f"adapter of {module}: d {d.shape}, b {out.shape} and the pair {a.shape}, {b.shape} do not "
                            f"fit a map of {slot.rows} inputs and {total} outputs")
    for stem, wide, scale in zip(slot.stems, slot.cut(b[:total].T), slot.cut(out)):
      put(arrays, adapted, f"{stem}.vera_in", slot.index, a[:, :slot.rows].T.reshape(*slot.ins, -1))
      put(arrays, adapted, f"{stem}.vera_out", slot.index, wide)
      put(arrays, adapted, f"{stem}.vera_d", slot.index, d)
      put(arrays, adapted, f"{stem}.vera_b", slot.index, scale)
  return method, arrays | base.replaced(others)


def write(method: Method, base: Base, params: Arrays) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """adapter_config.json's keys and the tensors of a model that `method` made of the base.

  Raises:
    ConfigError: the parts of the modules are not those of one pair.
  """
  held = {m: _held(slot, params) for m, slot in base.slots.items()}
  held = {m: parts for m, parts in held.items() if parts}
  shared = all(np.array_equal(parts[min(parts)][k], p[k]) for parts in held.values() for p in parts.values()
               for k in ("vera_d", "vera_in"))
  blocks = 1 if shared else max(len(base.slots[m].stems) for m in held)
  rank = method.knobs["rank"]
  rows, columns = max(base.slots[m].rows for m in held), max(sum(base.slots[m].columns) for m in held)
  a, b = np.full((rank * blocks, rows), np.nan, np.float32), np.full((columns, rank * blocks), np.nan, np.float32)
  tensors: dict[str, np.ndarray] = {}
  for module, parts in held.items():
    slot = base.slots[module]
    edges = np.cumsum((0, *slot.columns))
    d, out = np.zeros(rank * blocks, np.float32), np.zeros(edges[-1], np.float32)
    for i, part in parts.items():
      at = slice(0, rank) if shared else slice(i * rank, (i + 1) * rank)
      wide = np.zeros((rank * blocks, slot.columns[i]), np.float32)
      wide[at] = part["vera_out"].reshape(rank, -1)
      d[at], out[edges[i]:edges[i + 1]] = part["vera_d"], part["vera_b"].reshape(-1)
      _agree(a[at, :slot.rows], part["vera_in"].reshape(slot.rows, rank).T, module)
      _agree(b[edges[i]:edges[i + 1]], wide.T, module)
    tensors |= {f"{PREFIX}{module}{LEAVES[0]}": d, f"{PREFIX}{module}{LEAVES[1]}": out}
  tensors |= {PAIR[0]: np.nan_to_num(a), PAIR[1]: np.nan_to_num(b)}
  saved = saved_modules(method, base, params, set(held))
  tensors |= {PREFIX + name: array for found in saved.values() for name, array in found.items()}
  return dict(peft_type="VERA", r=rank * blocks, target_modules=base.endings(held), save_projection=True,
              d_initial=method.knobs["first"], projection_prng_key=method.knobs["seed"], vera_dropout=0.0, bias="none",
              fan_in_fan_out=any(base.slots[m].conv1d for m in held), modules_to_save=list(saved) or None), tensors


def _held(slot: Slot, params: Arrays) -> dict[int, dict[str, np.ndarray]]:
  """{number of our map in a module: its arrays}."""
  leaves = ("vera_in", "vera_out", "vera_d", "vera_b")
  return {i: {leaf: np.asarray(params[f"{stem}.{leaf}"][slot.index], np.float32) for leaf in leaves}
          for i, stem in enumerate(slot.stems) if f"{stem}.vera_d" in params}


def _agree(place: np.ndarray, part: np.ndarray, module: str) -> None:
  """Writes `part` where nothing is yet.

  Raises:
    ConfigError: something else is there.
  """
  if not np.all(np.isnan(place) | (place == part)):
    raise ConfigError("config.peft.targets", f"{module} and another module take different parts of the random pair, "
                      "which peft cannot say", accepted="targets of one kind, or the merged model in its own folder")
  place[...] = part
