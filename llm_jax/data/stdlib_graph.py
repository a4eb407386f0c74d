"""A knowledge graph of the Python standard library, read from its sources: it fits the text that every machine has.

Entities are packages, modules, public classes and public functions. Triples: a class or function is defined in a
module, a class inherits from a class, a module imports a module and is part of a package. Nothing is imported or run.
"""

import ast
import pathlib
import warnings
from collections.abc import Collection, Iterator, Mapping

from llm_jax.core.errors import ConfigError
from llm_jax.data import knowledge_graph, sealed_folder, stdlib
from llm_jax.data.fingerprint import digest
from llm_jax.data.knowledge_graph import KnowledgeGraph

SHORTEST_NAME = 3  # characters; shorter names are everything's


def load(cache_dir: pathlib.Path) -> KnowledgeGraph:
  """The graph of this Python's library, made once and kept under the cache folder by fingerprint.

  Raises:
    ConfigError: the library has no sources to read.
  """
  library = stdlib.library()
  if library is None:
    raise ConfigError("config.data.triples", "none given, and this Python has no sources to make a graph of",
                      accepted="a file of triples")

  def build(folder: pathlib.Path) -> None:
    knowledge_graph.write(folder, graph_of(library.texts))
  folder = cache_dir / f"stdlib_graph-{digest('stdlib_graph', 1, library.fingerprint)[:16]}"
  return knowledge_graph.read(*knowledge_graph.files(sealed_folder.open_or_build(folder, build)))


def graph_of(sources: Mapping[str, str]) -> KnowledgeGraph:
  """The graph of {path below the library's folder: source}.

  Entities carry their dotted name; a class or function also its last part, where no other has the same.
  """
  modules = {module_name(path): text for path, text in sources.items()}
  packages = {module_name(path) for path in sources if path.endswith("/__init__.py")}
  trees = {name: tree for name, text in modules.items() if (tree := _parse(text)) is not None}
  defined = {f"{name}.{node.name}" for name, tree in trees.items() for node in _definitions(tree)}
  triples = [t for name, tree in trees.items() for t in _triples(
      name, tree, trees.keys(), dict(_imports(name, name in packages, tree)), defined)]
  pairs = [(e, alias) for e in sorted({e for h, _, t in triples for e in (h, t)}) for alias in _names(e, e in defined)]
  return knowledge_graph.make(triples, pairs)


def module_name(path: str) -> str:
  """'json/decoder.py' -> 'json.decoder', 'json/__init__.py' -> 'json'."""
  return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _names(entity: str, short: bool) -> Iterator[str]:
  for name in (entity, *([entity.rpartition(".")[2]] if short else [])):
    if len(name) >= SHORTEST_NAME:
      yield name


def _parse(text: str) -> ast.Module | None:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # old escapes in the sources read
      return ast.parse(text)
  except (SyntaxError, ValueError):
    return None


def _definitions(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
  for node in tree.body:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
      yield node


def _triples(module: str, tree: ast.Module, modules: Collection[str], seen: Mapping[str, str],
             defined: Collection[str]) -> Iterator[tuple[str, str, str]]:
  """What one module says; seen: {local name: dotted name} of its imports."""
  package = module.rpartition(".")[0]
  if package in modules:
    yield module, "part_of", package
  for target in sorted({t for t in seen.values() if t in modules} | {
      t.rpartition(".")[0] for t in seen.values() if t.rpartition(".")[0] in modules}):
    if target != module:
      yield module, "imports", target
  for node in _definitions(tree):
    entity = f"{module}.{node.name}"
    yield entity, "defined_in", module
    for base in getattr(node, "bases", ()):
      first, dot, rest = ast.unparse(base).partition(".")
      full = seen.get(first, f"{module}.{first}") + dot + rest
      if full in defined:
        yield entity, "inherits", full


def _imports(module: str, is_package: bool, tree: ast.Module) -> Iterator[tuple[str, str]]:
  """(local name, dotted name) of the module's own imports, relative ones resolved."""
  here = module.split(".") if is_package else module.split(".")[:-1]
  for node in tree.body:
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield (alias.asname or alias.name), alias.name
    elif isinstance(node, ast.ImportFrom):
      above = here[:len(here) + 1 - node.level] if node.level else []
      source = ".".join([*above, *([node.module] if node.module else [])])
      for alias in node.names:
        yield (alias.asname or alias.name), f"{source}.{alias.name}"
