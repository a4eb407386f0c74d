"""Files and folders that a command line names to be written, looked at before any work: hours of it should not end in a
path that cannot be made, nor in one that held something else.
"""

import contextlib
import pathlib
import tempfile

from llm_jax.core.errors import ConfigError


def check_file(path: pathlib.Path, key: str) -> None:
  """Tries whether the file can be written, and leaves all as it was.

  Raises:
    ConfigError: it cannot; says why.
  """
  with _tried(path, path.parent, key):
    new = not path.exists()
    with open(path, "ab"):
      pass
    if new:
      path.unlink()


def check_folder(path: pathlib.Path, key: str) -> None:
  """Tries whether files can be written into the folder, and leaves all as it was.

  Raises:
    ConfigError: they cannot; says why.
  """
  with _tried(path, path, key), tempfile.TemporaryFile(dir=path):
    pass


def check_empty(path: pathlib.Path, key: str) -> None:
  """Raises ConfigError if there is something at `path` already, other than an empty folder."""
  there = path.exists() or path.is_symlink()
  if there and not path.is_dir():
    raise ConfigError(key, f"{str(path)!r} is a file", accepted="a new folder")
  if there and (held := sorted(p.name for p in path.iterdir())):
    more = ", ..." if len(held) > 3 else ""
    raise ConfigError(key, f"{str(path)!r} is not empty: it holds {', '.join(held[:3])}{more}", accepted="a new folder")


@contextlib.contextmanager
def _tried(path: pathlib.Path, folder: pathlib.Path, key: str):
  """Makes the folders that are missing, for a while."""
  new: list[pathlib.Path] = []
  try:
    new += [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    yield
  except OSError as e:
    raise ConfigError(key, f"{str(path)!r} cannot be written: {e.strerror}",
                      accepted="a path on a file system with room, writable by this user") from None
  finally:
    for made in new:
      with contextlib.suppress(OSError):
        made.rmdir()
