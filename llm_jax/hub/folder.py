"""A Hugging Face folder as a model, its parameters and its tokenizer, and back.

What a model type's config.json and tensors mean is said by the models/ file that declares it (core/hugging_face.py,
core/tensor_table.py); this file finds that file, reads and writes. No code of a folder ever runs: `auto_map` and Python
files are passed over.
"""

import dataclasses
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import CheckpointError, ConfigError, nearest_name, unknown_name
from llm_jax.core.hugging_face import Family, family_of_config, read_config
from llm_jax.core.model import Model
from llm_jax.core.pair import halves
from llm_jax.core.types import Key, Params
from llm_jax.hub import safetensors_files, tensor_names, tokenizer_export
from llm_jax.hub.tokenizer import HubTokenizer, find_tokenizer

DTYPES = ("float32", "bfloat16", "float16")


def load(folder: str | os.PathLike, *, dtype: str = "float32", head: str | None = None, labels: int | None = None,
         key: Key | None = None, place: Callable[[str, np.ndarray], jax.Array] | None = None,
         **settings: Any) -> tuple[Model, Params, HubTokenizer | None]:
  """Model, parameters (float32) and tokenizer of a folder; the tokenizer is None where there is no tokenizer.json.

  Args:
    folder: config.json and model.safetensors, or shards with their index.
    dtype: compute type of the model.
    head: another head than config.json's: 'lm', 'sequence', 'token', 'question', 'none' ...; what the folder lacks of
      it is drawn from `key`, and what it has of other heads is left behind.
    labels: number of labels of that head.
    key: random key for a new head; jax.random.key(0) when not given.
    place: (name, array) -> jax.Array, to put each parameter where it belongs, e.g. with a sharding.
    settings: other fields of the architecture's config that change no parameter: remat, scan, attention.

  Raises:
    ConfigError: config.json says something that is not supported.
    CheckpointError: no safetensors, damaged files, or tensors that are not the architecture's; names them.
  """
  folder = pathlib.Path(folder)
  family, config = read_config(folder / "config.json")
  config = _changed(config, dict(dtype=dtype) | ({} if head is None else dict(head=head))
                    | ({} if labels is None else dict(labels=labels)) | settings)
  weights = safetensors_files.Weights(folder)
  tied = family.tied(config) if getattr(config, "tied", False) else {}
  config = _untied_if_file_says(config, family, weights)
  model = family.build(config)
  params = _read_params(model, family, weights, tied, _head_key(head, key))
  place = place or (lambda name, array: jnp.asarray(array))
  return model, {name: place(name, params.pop(name)) for name in sorted(params)}, find_tokenizer(folder)


def _head_key(head: str | None, key: Key | None) -> Key | None:
  return None if head is None else jax.random.key(0) if key is None else key


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
  fields = [f.name for f in dataclasses.fields(config)]
  for name in changes:
    if name not in fields:
      raise ConfigError(f"hub.load: {name}", f"not a field of {type(config).__name__}",
                        nearest=nearest_name(name, fields))
  return dataclasses.replace(config, **changes)


def _untied_if_file_says(config: Any, family: Family, weights: Mapping[str, np.ndarray]) -> Any:
  """A file may hold a tied tensor again, and it may differ: then it is the one to use, as transformers 5 does."""
  if not getattr(config, "tied", False):
    return config
  by_suffix = lambda name: [n for n in weights if n == name or name.endswith(f".{n}") or n.endswith(f".{name}")]
  for copy, original in family.tied(config).items():
    bare = next((original.removeprefix(p) for p in family.prefixes if original.startswith(p)), original)
    copies, originals = by_suffix(copy), by_suffix(bare)
    if copies and originals and not np.array_equal(weights[copies[0]], weights[originals[0]]):
      return family.untie(config)
  return config


def _read_params(model: Model, family: Family, weights: safetensors_files.Weights, tied: Mapping[str, str],
                 new_head: Key | None) -> dict[str, np.ndarray]:
  """tied: {copy: original} as config.json says it, whether or not the file holds different tensors."""
  config = model.config
  wanted = tensor_names.places(family.names(config), model.shapes)
  copies = {**family.repeated(config), **(tied if getattr(config, "tied", False) else {})}
  found, unexpected = tensor_names.match(weights, wanted, family, copies, family.prefix(config))
  for copy, original in copies.items():
    if copy in found and original not in found:  # only the copy is there: the tensor under its other name
      found[original] = found[copy]
  for copy, original in tied.items():
    if copy in wanted and copy not in found and original in found:  # another tensor of the head untied it
      found[copy] = found[original]
  missing = set(wanted) - set(found)
  params: dict[str, np.ndarray] = {}
  if new_head is not None:
    unexpected = [n for n in unexpected if not re.search(family.head_tensors, n)]
    fresh = {name for target in missing for name in wanted[target][0] if name.startswith(family.heads)}
    missing = {t for t in missing if not set(wanted[t][0]) <= fresh}
    drawn = model.init(new_head) if fresh else {}
    params = {name: np.asarray(drawn[name]) for name in fresh}
  tensor_names.complain(missing, unexpected, weights.folder)
  return params | tensor_names.to_params(weights, found, wanted, model.shapes)


def save(folder: str | os.PathLike, model: Model, params: Params, tokenizer: Any = None, *, dtype: str = "float32",
         max_shard_bytes: int = 5_000_000_000) -> None:
  """Writes config.json, safetensors (with an index when sharded) and the tokenizer's files, as transformers reads them;
  of a pair that was trained as one (ELECTRA), a folder of each half below `folder`.

  Args:
    folder: made if it is not there.
    model: of an architecture that Hugging Face has. params: exactly the model's.
    tokenizer: the one that `load` gave, one of data/tokenizers, or None.
    dtype: of the stored tensors: float32, bfloat16 or float16.
    max_shard_bytes: largest weight file.

  Raises:
    ConfigError: the architecture or one of its settings has no form there.
    CheckpointError: the folder holds a run, or weights under other names, or the tokenizer is damaged; nothing is
      written then. A model saved there before under the same names is replaced.
  """
  if dtype not in DTYPES:
    raise unknown_name("hub.save: dtype", dtype, DTYPES, what="dtype")
  if model.made_of is not None:
    merged = "" if model.made_of[0].merge is None else ", or the base model with method.merge(params)"
    raise ConfigError("hub.save: model", f"has an adapter ({model.made_of[0].name})",
                      accepted=f"hub.save_adapter for the adapter alone{merged}")
  model.bind(params)  # exactly the model's names
  parts = halves(model, params) or {"": (model, params)}
  files = {} if tokenizer is None else _files_of(tokenizer)
  for name in parts:
    _check_free(pathlib.Path(folder) / name)
  special = None if tokenizer is None else tokenizer.special
  for name, part in parts.items():
    _save(pathlib.Path(folder) / name, *part, files, special, dtype, max_shard_bytes)


def _files_of(tokenizer: Any) -> dict[str, bytes]:
  """{name: content} of a tokenizer's files; a damaged one raises."""
  tokenizer.encode("")
  with tempfile.TemporaryDirectory() as folder:
    tokenizer_export.export(tokenizer, pathlib.Path(folder))
    return {p.name: p.read_bytes() for p in sorted(pathlib.Path(folder).iterdir())}


def _check_free(folder: pathlib.Path) -> None:
  """Raises CheckpointError for a file, and for a folder that holds a run, whose config.json saving would replace."""
  if folder.exists() and not folder.is_dir():
    raise CheckpointError(f"{folder}: is a file; choose an empty folder")
  if (folder / "checkpoints").exists():
    raise CheckpointError(f"{folder}: already holds a run (checkpoints); choose an empty folder")


def _save(folder: pathlib.Path, model: Model, params: Params, files: Mapping[str, bytes],
          special: Mapping[str, int] | None, dtype: str, max_shard_bytes: int) -> None:
  """One model into a folder that is free for it; its config.json, without which it is none, comes last."""
  family = family_of_config(model.config)
  said = family.config_to_hf(model.config) | dict(torch_dtype=dtype)
  wanted = tensor_names.places(family.names(model.config), model.shapes)
  folder.mkdir(parents=True, exist_ok=True)
  stored = jnp.dtype(dtype)
  make = lambda name: tensor_names.to_tensor(name, params, wanted).astype(stored)
  prefix = family.prefix(model.config)
  repeated = {copy: name for copy, name in family.repeated(model.config).items() if name in wanted}
  written = {as_saved(name, prefix, family): source for name, source in ({n: n for n in wanted} | repeated).items()}
  sizes = {name: _count(wanted[ours], model.shapes) * stored.itemsize for name, ours in written.items()}
  safetensors_files.write(folder, sizes, lambda name: make(written[name]), max_shard_bytes)
  for name, content in files.items():
    (folder / name).write_bytes(content)
  if special is not None:
    said |= {key: i for key, i in special_ids(special, "decoder_start_token_id" in said).items()
             if said.get(key) is None}
  (folder / "config.json").write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", "utf-8")


def special_ids(special: Mapping[str, int], decodes: bool = False) -> dict[str, int]:
  """config.json's keys for the roles that it has; a document's end ends a text, and a decoder that reads an encoder
  begins with padding."""
  roles = dict(bos=special.get("bos"), eos=special.get("eos", special.get("eod")), pad=special.get("pad"),
               decoder_start=special.get("pad") if decodes else None)
  return {f"{role}_token_id": i for role, i in roles.items() if i is not None}


def as_saved(name: str, prefix: str, family: Family) -> str:
  """The name that a saved folder gives a tensor of the table: the prefix of its class, or none."""
  for p in family.prefixes:
    if name.startswith(p):
      return prefix + name.removeprefix(p)
  return name


def _count(place: tensor_names.Place, shapes: Mapping[str, Any]) -> int:
  ours, _, index = place
  return sum(int(np.prod(shapes[o].shape[len(index):])) for o in ours)
