"""A prepared TFDS builder without TensorFlow: what TFDS 4.9 needs to be told so that it does not ask for it.

File format ArrayRecord (TFRecord needs TensorFlow); no probing of Google Storage; a stand-in for the six `tf.io.gfile`
functions that a few builders and TFDS's shuffler call, put in the place of their module's `tf` for the duration. A fake
`tensorflow` in sys.modules would not do: TFDS then believes that it is there.
"""

import contextlib
import glob
import importlib
import os
import re
import socket
import sys
import types
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from llm_jax.core.errors import ConfigError, DataError, nearest_name, shorten

FAMILIES = ("text", "question_answering", "summarization", "translate")  # families of old-style builders that hold text
UNREADABLE = (AssertionError, TypeError, ValueError)  # TFDS's for a config or version that is not there, or no name


def prepared_builder(name: str, data_dir: str, manual_dir: str | None) -> Any:
  """The builder of dataset `name`, prepared under `data_dir`.

  Raises:
    ConfigError: no such dataset, config or version; it needs TensorFlow or Beam; manual_dir lacks a file of it.
    DataError: it cannot be prepared: no download, a checksum that does not match.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.utils import gcs_utils

  gcs_utils._is_gcs_disabled = True
  builder = _builder(tfds, name, data_dir)
  if not builder.info.splits:
    if manual_dir is None:
      _check_network(name, builder)
    else:
      tfds.disable_progress_bar()  # nothing to wait for
    offline = contextlib.nullcontext() if manual_dir is None else no_downloads(builder, manual_dir)
    config = tfds.download.DownloadConfig(manual_dir=manual_dir) if manual_dir is not None else None
    try:
      with gfile_stand_in(builder), offline:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except ConfigError:
      raise
    except Exception as e:  # TFDS raises whatever its downloaders and builders raise
      raise _unprepared(name, builder, f"{type(e).__name__}: {shorten(' '.join(str(e).split()), 300)}") from e
  # A builder that was made from arguments does not pickle; one that was read from its folder does.
  return tfds.builder_from_directory(builder.data_dir)


@contextlib.contextmanager
def gfile_stand_in(builder: Any) -> Iterator[None]:
  """Replaces `tf` in the builder's module and in TFDS's shuffler by its gfile functions on local files."""
  gfile = types.SimpleNamespace(GFile=open, Open=open, isdir=os.path.isdir, exists=os.path.exists, listdir=os.listdir,
                                remove=os.remove, glob=glob.glob)
  stand_in = types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
  modules = [sys.modules[type(builder).__module__], importlib.import_module("tensorflow_datasets.core.shuffle")]
  before = [(m, m.__dict__["tf"]) for m in modules if "tf" in m.__dict__]
  for module, _ in before:
    module.__dict__["tf"] = stand_in
  try:
    yield
  finally:
    for module, tf in before:
      module.__dict__["tf"] = tf


@contextlib.contextmanager
def no_downloads(builder: Any, manual_dir: str) -> Iterator[None]:
  """Whatever TFDS would download is a ConfigError that names the file that `manual_dir` lacks."""
  downloader = importlib.import_module("tensorflow_datasets.core.download.downloader")._Downloader
  before = downloader.download

  def refuse(self: Any, url: str, *args: Any, **knobs: Any) -> None:
    info = (builder.url_infos or {}).get(url)
    file = f"{info.filename} (from {url})" if info and info.filename else f"the file of {url}"
    raise ConfigError("config.data.manual_dir", f"{manual_dir!r} has no {file}",
                      accepted=f"a folder with what {builder.name} downloads; or None, to download it")

  downloader.download = refuse
  try:
    yield
  finally:
    downloader.download = before


def _check_network(name: str, builder: Any) -> None:
  """Raises DataError at once if no host of the dataset's downloads has an address: TFDS would retry for minutes."""
  hosts = {urllib.parse.urlsplit(url).hostname for url in builder.url_infos or {}} - {None}
  def known(host: Any) -> bool:
    try:
      return bool(socket.getaddrinfo(host, 443))
    except OSError:
      return False
  if hosts and not urllib.request.getproxies() and not any(known(host) for host in sorted(hosts)):
    raise _unprepared(name, builder, f"no network: {', '.join(sorted(hosts))} cannot be found")


def _unprepared(name: str, builder: Any, why: str) -> DataError:
  files = sorted(info.filename for info in (builder.url_infos or {}).values() if info.filename)
  return DataError(f"TFDS cannot prepare {name}: {why}\n  without a network put its files into a folder and set "
                   f"config.data.manual_dir: {shorten(', '.join(files) or 'see the TFDS catalogue', 200)}")


def _builder(tfds: Any, name: str, data_dir: str) -> Any:
  try:
    return _made(tfds, name, data_dir)
  except ImportError as e:
    raise ConfigError("config.data.dataset", f"{name!r} cannot be read without more packages ({e})") from e
  except tfds.core.registered.DatasetNotFoundError as e:
    names = tfds.list_builders(with_community_datasets=False)
    raise ConfigError("config.data.dataset", f"TFDS has no dataset {name!r}", nearest=nearest_name(name, names),
                      accepted="a name from the TFDS catalogue") from e
  except UNREADABLE as e:
    raise _unmade(tfds, name, e) from e


def _made(tfds: Any, name: str, data_dir: str) -> Any:
  try:
    return tfds.builder(name, data_dir=data_dir, file_format="array_record")
  except tfds.core.registered.DatasetNotFoundError:
    # TFDS imports its families in order and stops at the first that needs TensorFlow: import those with text first.
    for family in FAMILIES:
      importlib.import_module(f"tensorflow_datasets.{family}")
  return tfds.builder(name, data_dir=data_dir, file_format="array_record")


def _unmade(tfds: Any, name: str, why: Exception) -> ConfigError:
  """What is wrong with a name of which TFDS knows the dataset, or which it cannot take apart."""
  dataset = re.split("[/:]", name)[0]
  said = str(why).split('}": ')[-1].splitlines() or [type(why).__name__]  # after what TFDS puts before it
  reason = said[0].split(". ")[0].rstrip(".")
  try:
    made = tfds.builder_cls(dataset)
  except UNREADABLE:  # no dataset's name
    return ConfigError("config.data.dataset", f"got {name!r}: {reason}",
                       accepted="dataset, dataset/config, dataset:version or dataset/config:version")
  configs = [f"{dataset}/{config.name}" for config in made.BUILDER_CONFIGS or ()]
  versions = [f"{dataset}:{version}" for version in (made.VERSION, *(made.SUPPORTED_VERSIONS or ())) if version]
  return ConfigError("config.data.dataset", f"got {name!r}: {reason}",
                     accepted=", ".join([dataset, *versions, *configs]),
                     nearest=nearest_name(name, configs if "/" in name else versions))
