"""What lies in a workdir before a run begins there: its state and config, or something that a run would spoil."""

import pathlib
from typing import Any

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.training import run_directory


def saved_status(workdir: pathlib.Path) -> dict[str, Any]:
  """status.json of a workdir; {} if there is none.

  Raises:
    DataError: it is damaged.
  """
  found = run_directory.read_document(workdir, run_directory.STATUS)
  if not isinstance(found, dict | None):
    raise DataError(f"{workdir / run_directory.STATUS}: holds a {type(found).__name__}, not the state of a run")
  return found or {}


def saved_config(workdir: pathlib.Path, key: str = "--workdir") -> dict[str, Any] | None:
  """The resolved config that a run saved in its workdir; None if there is none. key: the flag that named the workdir.

  Raises:
    ConfigError: the file is that of a Hugging Face folder. DataError: it is damaged.
  """
  if not (workdir / run_directory.CONFIG).is_file():
    return None
  found = run_directory.read_document(workdir, run_directory.CONFIG)
  if not isinstance(found, dict):
    raise DataError(f"{workdir / run_directory.CONFIG}: holds a {type(found).__name__}, not the config of a run")
  if isinstance(found.get("model"), dict):
    return found
  if "model_type" in found or "architectures" in found:
    raise ConfigError(key, f"{str(workdir)!r} is a Hugging Face folder, not the workdir of a run",
                      accepted="a folder in which a run has saved its config.json and checkpoints/")
  raise DataError(f"{workdir / run_directory.CONFIG}: not the config of a run, which has a section 'model'")


def check_workdir(workdir: pathlib.Path, key: str = "--workdir") -> None:
  """Whether a run may be written there: what else the folder holds, it would spoil.

  Raises:
    ConfigError: a file, or a folder that holds a model and no run. DataError: a config.json that is not of a run, or a
      folder in the place of a file.
  """
  accepted = "a new folder, or the workdir of a run, which is resumed"
  if (workdir.exists() or workdir.is_symlink()) and not workdir.is_dir():
    raise ConfigError(key, f"{str(workdir)!r} is a file", accepted=accepted)
  for name in run_directory.FILES:
    if (workdir / name).is_dir():
      raise DataError(f"{workdir / name}: a folder, where a run has a file")
  if (workdir / "checkpoints").is_dir():
    return
  weights = sorted(p.name for p in workdir.glob("*.safetensors"))
  if weights:
    raise ConfigError(key, f"{str(workdir)!r} holds a model ({weights[0]}) and no run", accepted=accepted)
  saved_config(workdir, key)
