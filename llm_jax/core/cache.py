"""Where prepared data and compiled programs are kept between runs: LLM_JAX_CACHE, else the user's cache folder."""

import os
import pathlib
import tempfile


def folder(name: str) -> pathlib.Path:
  """The cache folder for `name`, made if need be: $LLM_JAX_CACHE, $XDG_CACHE_HOME/llm_jax, ~/.cache/llm_jax, or, where
  none of them can be written, one below the system's temporary folder."""
  home = os.environ.get("HOME")
  candidates = [os.environ.get("LLM_JAX_CACHE"),
                os.environ.get("XDG_CACHE_HOME") and os.path.join(os.environ["XDG_CACHE_HOME"], "llm_jax"),
                home and os.path.join(home, ".cache", "llm_jax"),
                os.path.join(tempfile.gettempdir(), f"llm_jax-{os.getuid() if hasattr(os, 'getuid') else 0}")]
  error: OSError | None = None
  for candidate in filter(None, candidates):
    path = pathlib.Path(candidate).absolute() / name
    try:
      path.mkdir(parents=True, exist_ok=True)
      if os.access(path, os.W_OK):
        return path
    except OSError as e:
      error = e
  raise error or OSError(f"no writable cache folder for {name}")
