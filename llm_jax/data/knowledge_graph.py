"""A knowledge graph: entities, relations, triples (head, relation, tail), and the names by which texts call entities.

Read from tab-separated files: one triple a line, and optionally one `entity <tab> name` a line for names; without the
second file an entity's own identifier is its name.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from llm_jax.core.errors import DataError
from llm_jax.data.fingerprint import digest


@dataclasses.dataclass(frozen=True)
class KnowledgeGraph:
  """entities, relations: identifiers, sorted; triples: (N, 3) int32 numbers of head, relation and tail, sorted; names:
  {name: number of the one entity that it means}; a name of several entities means none and is left out."""

  entities: tuple[str, ...]
  relations: tuple[str, ...]
  triples: np.ndarray
  names: Mapping[str, int]

  @property
  def fingerprint(self) -> str:
    """Changes with anything in the graph."""
    return digest("knowledge_graph", self.entities, self.relations, self.triples.tolist(), dict(self.names))

  @property
  def description(self) -> str:
    """One line for the log."""
    return (f"knowledge graph of {len(self.entities):,} entities, {len(self.relations)} relations, "
            f"{len(self.triples):,} triples, {len(self.names):,} names")


def make(triples: Iterable[tuple[str, str, str]], names: Iterable[tuple[str, str]] | None = None) -> KnowledgeGraph:
  """The graph of these triples; names: (entity, name) pairs, None: identifiers are names."""
  found = sorted(set(triples))
  entities = sorted({e for head, _, tail in found for e in (head, tail)})
  relations = sorted({relation for _, relation, _ in found})
  number, kind = {e: i for i, e in enumerate(entities)}, {r: i for i, r in enumerate(relations)}
  rows = np.array([(number[h], kind[r], number[t]) for h, r, t in found], np.int32).reshape(-1, 3)
  meant: dict[str, set[int]] = {}
  for entity, name in ((e, e) for e in entities) if names is None else names:
    if entity in number:
      meant.setdefault(name, set()).add(number[entity])
  clear = {name: next(iter(meaning)) for name, meaning in sorted(meant.items()) if len(meaning) == 1}
  return KnowledgeGraph(tuple(entities), tuple(relations), rows, clear)


def read(triples: pathlib.Path, names: pathlib.Path | None = None) -> KnowledgeGraph:
  """The graph of tab-separated files.

  Raises:
    DataError: a file that cannot be read, a line without the columns, no triple at all; names file and line.
  """
  graph = make(((row[0], row[1], row[2]) for row in _rows(triples, 3)),
               None if names is None else ((row[0], row[1]) for row in _rows(names, 2)))
  if not len(graph.triples):
    raise DataError(f"{triples}: no triples")
  return graph


def files(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Where `write` puts the triples and the names."""
  return folder / "triples.tsv", folder / "names.tsv"


def write(folder: pathlib.Path, graph: KnowledgeGraph) -> None:
  """The graph as two tab-separated files that `read` reads."""
  name = lambda row: (graph.entities[row[0]], graph.relations[row[1]], graph.entities[row[2]])
  rows = [["\t".join(name(row)) for row in graph.triples],
          [f"{graph.entities[entity]}\t{alias}" for alias, entity in graph.names.items()]]
  for path, lines in zip(files(folder), rows):
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _rows(path: pathlib.Path, columns: int) -> Iterator[list[str]]:
  try:
    lines = path.read_text("utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as e:
    raise DataError(f"{path}: cannot be read ({e})") from e
  for i, line in enumerate(lines, 1):
    parts = [part.strip() for part in line.split("\t")]
    if line.strip() and (len(parts) != columns or not all(parts)):
      raise DataError(f"{path}:{i}: {len(parts)} columns, not {columns} separated by tabs")
    if line.strip():
      yield parts
