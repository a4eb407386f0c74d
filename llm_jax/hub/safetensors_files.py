"""Weight files of a Hugging Face folder: safetensors only, whole or sharded, read lazily and written in shards.

Pickles (`.bin`, `.pt`, ...) can run code when they are read, so they are refused with how to convert them. An index may
name files of its own folder only.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llm_jax.core.errors import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
REFUSED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".npz", ".joblib", ".gguf", ".onnx")
READABLE = {"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "I8", "I16"}
HOW_TO_CONVERT = ("where torch and transformers are installed and the folder is trusted: "
                  "AutoModel.from_pretrained(folder).save_pretrained(new_folder)")


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The JSON object of a file.

  Raises:
    CheckpointError: missing, not JSON, or not an object; names the file.
  """
  try:
    value = json.loads(path.read_text("utf-8"))
  except FileNotFoundError:
    raise CheckpointError(f"{path}: no such file") from None
  except (OSError, ValueError) as e:
    raise CheckpointError(f"{path}: not readable as JSON ({e})") from None
  if not isinstance(value, dict):
    raise CheckpointError(f"{path}: holds a {type(value).__name__}, not an object")
  return value


class Weights(Mapping):
  """{tensor name: array}, read one at a time. float16 and bfloat16 come as they lie in the file."""

  def __init__(self, folder: pathlib.Path):
    """Opens every file and checks its header.

    Raises:
      CheckpointError: no safetensors, a pickle, a damaged or missing file, an index that points out of the folder.
    """
    self.folder = folder
    self._where: dict[str, Any] = {}
    self._paths: dict[str, pathlib.Path] = {}
    for path, wanted in _files(folder).items():
      handle = _open(path)
      held = set(handle.keys())
      if wanted is not None and wanted - held:
        raise CheckpointError(f"{path}: lacks {min(wanted - held)}, which {INDEX} places there")
      for name in held if wanted is None else wanted:
        self._where[name], self._paths[name] = handle, path

  def __getitem__(self, name: str) -> np.ndarray:
    path = self._paths[name]
    dtype = self._where[name].get_slice(name).get_dtype()
    if dtype not in READABLE:
      raise CheckpointError(f"{path}: {name} has dtype {dtype}, which is not supported; "
                            "save the checkpoint in float32, float16 or bfloat16")
    try:
      return self._where[name].get_tensor(name)
    except (SafetensorError, OSError) as e:
      raise CheckpointError(f"{path}: {name} is not readable ({e})") from None

  def __iter__(self):
    return iter(self._where)

  def __len__(self) -> int:
    return len(self._where)


def _files(folder: pathlib.Path) -> dict[pathlib.Path, set[str] | None]:
  """{file: the tensors it is wanted for, None = all}."""
  if (folder / INDEX).is_file():
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
      raise CheckpointError(f"{folder / INDEX}: weight_map is not an object of file names")
    files: dict[pathlib.Path, set[str]] = {}
    for name, file in weight_map.items():
      if pathlib.PurePath(file).name != file or "\\" in file or not file.endswith(".safetensors"):
        raise CheckpointError(f"{folder / INDEX}: places {name} in {file!r}; only .safetensors files "
                              "of the same folder are read")
      files.setdefault(folder / file, set()).add(name)
    return dict(files)
  if (folder / WHOLE).is_file():
    return {folder / WHOLE: None}
  raise CheckpointError(_nothing_to_read(folder))


def _nothing_to_read(folder: pathlib.Path) -> str:
  if not folder.is_dir():
    return f"{folder}: no such folder"
  found = sorted(p.name for p in folder.iterdir() if p.suffix in REFUSED)
  if found:
    return (f"{folder}: holds {', '.join(found[:4])} but no {WHOLE}; only safetensors are read, because such files "
            f"can run code or cannot be checked\n  to convert, {HOW_TO_CONVERT}")
  return f"{folder}: holds neither {WHOLE} nor {INDEX}"


def _open(path: pathlib.Path) -> Any:
  if not path.is_file():
    raise CheckpointError(f"{path}: missing, though {INDEX} names it")
  try:
    return safe_open(path, framework="numpy")
  except (SafetensorError, OSError) as e:
    raise CheckpointError(f"{path}: damaged or truncated safetensors file ({e})") from None


def write(folder: pathlib.Path, sizes: Mapping[str, int], make: Callable[[str], np.ndarray],
          max_shard_bytes: int) -> None:
  """Writes tensors into one file, or into shards with an index, holding one shard in memory at a time.

  Args:
    folder: exists. sizes: {name: bytes}, in the order of the files. make: name -> array.
    max_shard_bytes: a shard holds at most this, or a single larger tensor.

  Raises:
    CheckpointError: the folder holds weights under other names, which a reader could mix up with these; a file could
      not be written.
  """
  shards: list[list[str]] = [[]]
  filled = 0
  for name, size in sizes.items():
    if shards[-1] and filled + size > max_shard_bytes:
      shards.append([])
      filled = 0
    shards[-1].append(name)
    filled += size
  count = len(shards)
  files = [WHOLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
  written = {*files, *([INDEX] if count > 1 else [])}
  stale = sorted(p.name for p in folder.iterdir() if p.name.startswith("model") and p.name not in written
                 and p.name.endswith((".safetensors", ".index.json")))
  if stale:
    raise CheckpointError(f"{folder}: already holds {', '.join(stale[:4])}; choose an empty folder")
  for file, shard in zip(files, shards):
    _write_whole(folder / file, {name: np.ascontiguousarray(make(name)) for name in shard})
  if count > 1:
    index = {"metadata": {"total_size": sum(sizes.values())},
             "weight_map": {name: file for file, shard in zip(files, shards) for name in shard}}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _write_whole(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
  part = path.with_name(f"{path.name}.part")
  try:
    save_file(tensors, part, metadata={"format": "pt"})
    part.replace(path)
  except (OSError, SafetensorError) as e:
    part.unlink(missing_ok=True)
    raise CheckpointError(f"{path}: could not be written ({e})") from None
