"""Configs: a Python file with `get_config(arg)`, overrides from the command line, and the resolved form.

The schema says for every section which plug-in room (or function) its keys belong to; the keys, their types, defaults
and meanings are read from the signatures there, so each knob is written down once. Everything is checked here, before
jax compiles or data is read. A config file is Python and is executed: never take one from a downloaded model; a run is
resumed from the JSON that it saved.
"""

import ast
import copy
import dataclasses
import importlib.util
import inspect
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, nearest_name, shorten, unknown_name

Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Section:
  """One key of the config: a plug-in room (`room`), a function whose knobs it holds (`function`), or a plain value.

  shared: functions whose knobs the section accepts beside the plug-in's own. nested: sections inside this one.
  optional: may be None (off). many: may be a list of such specs.
  """

  meaning: str
  room: str | None = None
  function: Callable | None = None
  shared: tuple[Callable, ...] = ()
  nested: Mapping[str, "Section"] | None = None
  default: Any = None
  optional: bool = False
  many: bool = False
  synonyms: Mapping[str, str] = dataclasses.field(default_factory=dict)  # what others call a knob -> our name

  @property
  def functions(self) -> tuple[Callable, ...]:
    """Those whose knobs the section accepts, whatever plug-in it names."""
    return (*((self.function,) if self.function else ()), *self.shared)

  def knobs(self, spec: Mapping[str, Any], key: str) -> dict[str, plugins.Knob]:
    """Every knob that this section accepts, given the plug-in that `spec` names."""
    knobs: dict[str, plugins.Knob] = {}
    if self.room is not None:
      if "name" not in spec:
        raise ConfigError(f"{key}.name", "required but not given", accepted=", ".join(plugins.available(self.room)))
      knobs |= plugins.knobs_of(plugins.find(self.room, spec["name"], f"{key}.name").build)
    for function in self.functions:
      knobs = plugins.knobs_of(function) | knobs
    return knobs


Schema = Mapping[str, Section]


def load_file(flag: str, key: str = "--config") -> Config:
  """The config of `FILE[:arg]`, as plain nested dicts: `get_config(arg)`, or `get_config()` without an argument. A file
  may list the arguments that it takes as `ARGUMENTS`.

  Raises:
    ConfigError: no such file, no get_config, an argument that it refuses, or an error inside the file (with its line).
  """
  name, _, argument = flag.partition(":")
  path = pathlib.Path(name)
  if path.is_file() and path.suffix != ".py":
    raise ConfigError(key, f"{name!r} is no Python file", accepted="FILE.py or FILE.py:argument; without --config, a "
                      "--workdir that holds a run gives the config that it saved")
  if not path.is_file():
    near = nearest_name(name, [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else [])
    raise ConfigError(key, f"no such file {name!r} (looked in {pathlib.Path.cwd()})", nearest=near,
                      accepted="FILE.py or FILE.py:argument")
  spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
      raise ConfigError(key, f"{name} does not define get_config(arg)")
    if argument and argument not in getattr(module, "ARGUMENTS", (argument,)):
      raise unknown_name(key, argument, module.ARGUMENTS, what=f"argument of {name}")
    config = module.get_config(argument) if argument else module.get_config()
    if not hasattr(config, "items"):
      raise ConfigError(key, f"get_config of {name} returned {shorten(repr(config), 120)}",
                        accepted="a ConfigDict or a dict")
    return plain(config)
  except ConfigError:
    raise
  except RecursionError:
    raise ConfigError(key, f"the config of {name} holds itself", accepted="dicts and lists that end") from None
  except (Exception, SystemExit) as e:
    line = _line_in(e, path)
    said = shorten(" ".join(str(e).split()))
    raise ConfigError(key, f"{name}:{line}: {type(e).__name__}: {said}",
                      accepted="ARGUMENTS, a list of texts, and get_config(argument)" if line == "?" else "") from None


def _line_in(error: BaseException, path: pathlib.Path) -> int | str:
  line: int | str = getattr(error, "lineno", None) or "?"
  trace = error.__traceback__
  while trace is not None:
    if pathlib.Path(trace.tb_frame.f_code.co_filename) == path:
      line = trace.tb_lineno
    trace = trace.tb_next
  return line


def plain(config: Any) -> Any:
  """ConfigDicts, tuples, numpy arrays and scalars as plain dicts, lists and numbers (what JSON can hold)."""
  if hasattr(config, "to_dict"):
    config = config.to_dict()
  if isinstance(config, Mapping):
    return {str(k): plain(v) for k, v in config.items()}
  if isinstance(config, list | tuple):
    return [plain(v) for v in config]
  return config.tolist() if hasattr(config, "tolist") else config


def parse_value(text: str) -> Any:
  """A Python literal, or the text itself (`cosine`, `/data/books`); true, false and none in any case."""
  words = {"true": True, "false": False, "none": None, "null": None}
  if text.lower() in words:
    return words[text.lower()]
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def override_all(config: Config, overrides: Iterable[tuple[str, str]], schema: Schema) -> None:
  """`override` for every (path, text): which plug-in a section holds first, whatever the order on the command line,
  since that clears the knobs of another."""
  def place(pair: tuple[str, str]) -> float:
    section, _, knob = pair[0].rpartition(".")
    return section.count(".") if knob == "name" or not section else math.inf
  for path, text in sorted(overrides, key=place):
    override(config, path, text, schema)


def override(config: Config, path: str, text: str, schema: Schema) -> None:
  """Sets `--config.<path>=<text>` in place.

  Raises:
    ConfigError: the path does not exist in the schema; names the nearest key.
  """
  key, value = f"config.{path}", parse_value(text)
  parts = path.split(".")
  if parts[0] not in schema:
    raise ConfigError(key, f"unknown key (given {text!r})", nearest=_nearest_path(parts, schema),
                      accepted=", ".join(schema))
  node: Any = config
  for i, part in enumerate(parts[:-1]):
    if isinstance(node, list):
      node = _element(node, part, key)
      continue
    if node.get(part) is None:
      node[part] = _unsaid(schema[part]) if i == 0 else {}
    if i == 0 and isinstance(node[part], str) and schema[part].room is not None:
      node[part] = {"name": node[part]}
    node = node[part]
    if not isinstance(node, dict | list):
      raise ConfigError(key, f"config.{'.'.join(parts[: i + 1])} is {node!r}, not a section")
  if isinstance(node, list):
    _element(node, parts[-1], key)  # is there
    node[int(parts[-1])] = value
    return
  if parts[-1] == "name" and node.get("name") != value:
    node.clear()  # another plug-in: the old one's knobs do not belong to it
  node[parts[-1]] = value


def _unsaid(section: Section) -> Config:
  """The section that a config does not mention, for a knob of it: the plug-in that it has then, unless that is none."""
  unsaid = section.default
  return copy.deepcopy(unsaid) if isinstance(unsaid, dict) and unsaid.get("name") != "none" else {}


def _element(items: list, index: str, key: str) -> Any:
  if not index.isdigit() or int(index) >= len(items):
    raise ConfigError(key, f"no element {index!r}", accepted=f"0 to {len(items) - 1}")
  return items[int(index)]


def _nearest_path(parts: list[str], schema: Schema) -> str | None:
  """The section that has a knob of this name, whatever its plug-in, or calls it otherwise (lr -> optimizer.peak); else
  the top-level key nearest to the first part."""
  for name, section in schema.items():
    known = {k: k for f in section.functions for k in plugins.knobs_of(f)} | dict(section.synonyms)
    if len(parts) == 1 and parts[0] in known:
      return f"config.{name}.{known[parts[0]]}"
  near = nearest_name(parts[0], schema)
  return None if near is None else ".".join(["config", near, *parts[1:]])


def resolve(config: Mapping[str, Any], schema: Schema) -> Config:
  """The config with every knob of every section written out, checked for names and types.

  Raises:
    ConfigError: see plugins.check_knobs.
  """
  for name, value in config.items():
    if name not in schema:
      raise ConfigError(f"config.{name}", f"unknown key (given {shorten(repr(value), 80)})",
                        nearest=nearest_name(name, schema), accepted=", ".join(schema))
  return {name: _resolve_section(section, config.get(name, copy.deepcopy(section.default)), f"config.{name}")
          for name, section in schema.items()}


def _resolve_section(section: Section, value: Any, key: str) -> Any:
  if value is None and section.optional:
    return None
  if isinstance(value, list) and section.many:
    return [_resolve_section(section, v, f"{key}[{i}]") for i, v in enumerate(value)]
  if section.room is not None and isinstance(value, str):
    value = {"name": value}  # a plug-in with its defaults
  if not isinstance(value, Mapping):
    shape = "a dict(name=...)" if section.room else "a dict"
    raise ConfigError(key, f"got {value!r}", accepted=f"{shape}: {section.meaning}")
  knobs = section.knobs(value, key)
  given = {k: v for k, v in value.items() if k != "name" or section.room is None}
  resolved: Config = {"name": value["name"]} if section.room else {}
  for k, v in given.items():
    if k not in knobs:
      near = _near_knob(k, knobs, key, section.synonyms)
      raise ConfigError(f"{key}.{k}", f"unknown key (given {shorten(repr(v), 80)})", nearest=near,
                        accepted=", ".join(sorted(knobs)) or "no keys")
  for k, knob in knobs.items():
    nested = (section.nested or {}).get(k)
    if k in given or (nested is not None and knob.default is not inspect.Parameter.empty):
      v = given.get(k, knob.default)
      resolved[k] = _resolve_section(nested, v, f"{key}.{k}") if nested is not None and v is not None else plain(
          plugins.check_type(v, knob.annotation, f"{key}.{k}"))
    elif knob.default is inspect.Parameter.empty:
      raise ConfigError(f"{key}.{k}", "required but not given", accepted=knob.meaning)
    else:
      resolved[k] = plain(knob.default)
  return resolved


def _near_knob(name: str, knobs: Mapping[str, Any], key: str, synonyms: Mapping[str, str]) -> str | None:
  near = synonyms.get(name)
  near = near if near in knobs else nearest_name(name, knobs)
  return None if near is None else f"{key}.{near}"


def describe(config: Mapping[str, Any], schema: Schema) -> str:
  """Every knob of every section, with type, default and meaning, for `--describe_config`."""
  lines = []
  for name, section in schema.items():
    spec = config.get(name) or section.default or {}
    spec = spec[0] if isinstance(spec, list) else spec
    lines += ["", f"config.{name}: {section.meaning}"]
    lines += _describe_section(section, spec, f"config.{name}", "  ")
  return "\n".join(lines).strip()


def _describe_section(section: Section, spec: Mapping[str, Any], key: str, indent: str) -> list[str]:
  lines = []
  if section.room:
    lines.append(f"{indent}name = {spec.get('name')!r} (one of {', '.join(plugins.available(section.room))})")
    if "name" not in spec:
      return lines
  for knob in section.knobs(spec, key).values():
    default = "required" if knob.default is inspect.Parameter.empty else repr(knob.default)
    value = f" = {shorten(repr(plain(spec[knob.name])), 120)}" if knob.name in spec else ""
    lines.append(f"{indent}{knob.name}{value}: {plugins.type_name(knob.annotation)}, default "
                 f"{shorten(default, 120)}. {knob.meaning}")
    nested = (section.nested or {}).get(knob.name)
    inner = spec.get(knob.name, knob.default if knob.default is not inspect.Parameter.empty else None)
    if nested is not None and isinstance(inner, Mapping):
      lines += _describe_section(nested, inner, f"{key}.{knob.name}", indent + "  ")
  return lines
