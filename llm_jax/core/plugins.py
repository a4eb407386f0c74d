"""Plug-ins are files: `config.objective.name='masked_lm'` is llm_jax/objectives/masked_lm.py, which exposes `build`.

No registry, no decorator: adding a file adds a plug-in and deleting it removes one. A name with a dot is an absolute
module path, so that a user's own package can hold plug-ins too (`name='my_lab.losses.focal'`).

`build(context..., *, knob=default, ...)`: positional parameters are handed over by llm_jax/experiment.py; every
keyword-only parameter is a knob of the config, documented in the docstring's `Args:`. Names, knobs and types are
checked against that signature before anything compiles.
"""

import functools
import importlib
import importlib.util
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import llm_jax
from llm_jax.core.errors import ConfigError, nearest_name, shorten, unknown_name

LARGEST = 2**63 - 1  # whole number
LARGEST_FLOAT = 3.4e38  # float32's
ROOT = pathlib.Path(llm_jax.__file__).parent


@dataclass(frozen=True)
class Knob:
  """One keyword-only parameter of a plug-in's `build`."""

  name: str
  default: Any
  annotation: Any
  meaning: str


def available(room: str) -> list[str]:
  """Names of the plug-ins of a room (`'models'`, `'objectives'`, ...): its files that define `build`."""
  found = []
  for path in sorted((ROOT / room).glob("*.py")):
    if not path.stem.startswith("_") and re.search(r"^def build\(", path.read_text("utf-8"), re.MULTILINE):
      found.append(path.stem)
  return found


def find(room: str, name: Any, key: str) -> types.ModuleType:
  """The module of plug-in `name` in `room`.

  Raises:
    ConfigError: no such file, or it does not define `build`; names the nearest plug-in.
  """
  if isinstance(name, str) and re.fullmatch(r"\w+(\.\w+)+", name) and importlib.util.find_spec(name.split(".")[0]):
    try:
      module = importlib.import_module(name)
    except ModuleNotFoundError as e:
      raise ConfigError(key, f"module {name!r} cannot be imported: {e}") from None
    if not hasattr(module, "build"):
      raise ConfigError(key, f"module {name!r} does not define build(...)")
    return module
  names = available(room)
  if not isinstance(name, str) or name not in names:
    raise unknown_name(key, name, names, what=f"{room} plug-in")
  return importlib.import_module(f"llm_jax.{room.replace('/', '.')}.{name}")


def knobs_of(build: Callable) -> dict[str, Knob]:
  """The knobs of a plug-in's `build`: its keyword-only parameters with their documented meaning."""
  meanings = documented_args(build)
  hints = typing.get_type_hints(build)
  return {
      p.name: Knob(p.name, p.default, hints.get(p.name, Any), meanings.get(p.name, ""))
      for p in inspect.signature(build).parameters.values()
      if p.kind is inspect.Parameter.KEYWORD_ONLY
  }


def documented_args(function: Callable) -> dict[str, str]:
  """{argument: meaning} read from the `Args:` section of a docstring."""
  doc = inspect.getdoc(function) or ""
  section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", doc, re.MULTILINE)
  meanings: dict[str, str] = {}
  current = None
  for line in section.group(1).splitlines() if section else []:
    start = re.match(r"  (\w+): (.*)", line)
    if start:
      current = start.group(1)
      meanings[current] = start.group(2).strip()
    elif current and line.strip():
      meanings[current] += " " + line.strip()
  return meanings


def check_knobs(build: Callable, spec: Mapping[str, Any], key: str) -> dict[str, Any]:
  """The knobs in `spec` (all but `name`), checked against the signature of `build`.

  Raises:
    ConfigError: an unknown knob (with the nearest), a missing required one, or a value of the wrong type.
  """
  knobs = knobs_of(build)
  given = {k: v for k, v in spec.items() if k != "name"}
  for k, v in given.items():
    if k not in knobs:
      raise ConfigError(f"{key}.{k}", f"unknown key (given {shorten(repr(v), 80)})", nearest=nearest_name(k, knobs),
                        accepted=", ".join(sorted(knobs)) or "no keys")
    given[k] = check_type(v, knobs[k].annotation, f"{key}.{k}")
  for k, knob in knobs.items():
    if knob.default is inspect.Parameter.empty and k not in given:
      raise ConfigError(f"{key}.{k}", "required but not given", accepted=knob.meaning)
  return given


def check_type(value: Any, annotation: Any, key: str) -> Any:
  """`value` if it fits `annotation` (an int fits float; 1e5 fits int when whole; a list fits tuple), with its elements.

  Raises:
    ConfigError: otherwise, naming the type that is accepted; a number that is not finite or that no array can hold.
  """
  union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
  options = typing.get_args(annotation) if union else (annotation,)
  for option in options:
    fits, converted = _fit(value, option)
    if fits:
      return _checked_elements(converted, option, key)
  raise ConfigError(key, f"got {shorten(repr(value), 120)} of type {type(value).__name__}",
                    accepted=type_name(annotation))


def _checked_elements(value: Any, option: Any, key: str) -> Any:
  arguments = typing.get_args(option)
  if isinstance(value, Mapping) and len(arguments) == 2:
    return {k: check_type(v, arguments[1], f"{key}.{k}") for k, v in value.items()}
  if isinstance(value, list | tuple) and arguments:  # list[X] or tuple[X, ...]
    return type(value)(check_type(v, arguments[0], f"{key}[{i}]") for i, v in enumerate(value))
  if isinstance(value, int) and abs(value) > LARGEST:
    raise ConfigError(key, f"got {shorten(str(value), 40)}", accepted="a whole number of less than 64 bits")
  if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
    raise ConfigError(key, f"got {value}", accepted="a finite number")
  return value


def _fit(value: Any, option: Any) -> tuple[bool, Any]:
  if option is Any or option is inspect.Parameter.empty:
    return True, value
  origin = typing.get_origin(option)
  if origin is typing.Literal:
    return value in typing.get_args(option), value
  kind = origin or option
  if kind is type(None):
    return value is None, value
  if kind is bool:
    return isinstance(value, bool), value
  if kind is int:
    whole = isinstance(value, float) and value.is_integer()
    return (isinstance(value, int) and not isinstance(value, bool)) or whole, int(value) if whole else value
  if kind is float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number, float(value) if number and abs(value) <= LARGEST_FLOAT else value
  if kind in (tuple, list):
    return isinstance(value, tuple | list), kind(value) if isinstance(value, tuple | list) else value
  if isinstance(kind, type) and issubclass(dict, kind):
    return isinstance(value, Mapping), value
  return isinstance(kind, type) and isinstance(value, kind), value


def type_name(annotation: Any) -> str:
  """How an annotation reads in an error message."""
  if typing.get_origin(annotation) is typing.Literal:
    return "one of " + ", ".join(map(repr, typing.get_args(annotation)))
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    return " or ".join(type_name(a) for a in typing.get_args(annotation))
  if annotation is type(None):
    return "None"
  return getattr(annotation, "__name__", str(annotation)) if not typing.get_origin(annotation) else str(annotation)


def bind(room: str, spec: Mapping[str, Any], key: str) -> Callable:
  """`build` of the plug-in that `spec['name']` names, with its checked knobs bound; call it with the context.

  Raises:
    ConfigError: before anything is built, see `find` and `check_knobs`.
  """
  if not isinstance(spec, Mapping) or "name" not in spec:
    raise ConfigError(f"{key}.name", "required but not given", accepted=", ".join(available(room)))
  module = find(room, spec["name"], f"{key}.name")
  return functools.partial(module.build, **check_knobs(module.build, spec, key))


def listed(section: Any, key: str) -> list[tuple[Any, str]]:
  """(section, its key) of one section, or of each in a list of them; a name alone is the section of its defaults."""
  many = isinstance(section, list | tuple)
  return [({"name": s} if isinstance(s, str) else s, f"{key}[{i}]" if many else key)
          for i, s in enumerate(section if many else [section])]


def weighed(room: str, spec: Mapping[str, Any], key: str) -> tuple[float, Callable]:
  """The `weight` that a part of a sum has beside its own knobs (default 1), and what `bind` makes of these.

  Raises:
    ConfigError: a weight that is no number; and as `bind`.
  """
  own = {k: v for k, v in spec.items() if k != "weight"}
  return check_type(spec.get("weight", 1.0), float, f"{key}.weight"), bind(room, own, key)
