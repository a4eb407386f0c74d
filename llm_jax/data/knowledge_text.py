"""Text whose mentions of a knowledge graph's entities are marked (Zhang et al. 2019, ERNIE with knowledge).

Wraps another data plug-in: its rows get the entities that they name, those entities' TransE vectors, and for every
token the slot of the entity that it names. Some slots hold entities that the row does not name, for a model to choose
among.
Without files the graph is the standard library's own, which fits the embedded text.
"""

import dataclasses
import pathlib
import zlib

import numpy as np

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch
from llm_jax.data import knowledge_graph, stdlib_graph
from llm_jax.data import transe as trained
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.entity_links import Linker
from llm_jax.data.fingerprint import digest
from llm_jax.data.marked_text import marked, text_of

FIELDS = {
    "entity_ids": "(B, E) int32 number of the entity in each slot, -1 for an empty slot",
    "entity_mask": "(B, E) int32 1 for an entity, 0 for an empty slot",
    "entity_vectors": "(B, E, W) float32 TransE vector of the entity, 0 for an empty slot",
    "entity_labels": "(B, L) int32 slot of the entity that a mention starting at this token names, -1 for none",
}


@dataclasses.dataclass(frozen=True)
class Marker:
  """Adds the fields to a batch. linker: of names; vectors: (entities, W); slots: E; others: slots kept for entities
  that the row does not name."""

  linker: Linker
  vectors: np.ndarray
  slots: int
  others: int

  def __call__(self, batch: Batch) -> Batch:
    rows = [self._row(tokens) for tokens in batch["tokens"]]
    ids, labels = (np.stack(parts) for parts in zip(*rows))
    mask = ids >= 0
    vectors = np.where(mask[..., None], self.vectors[np.maximum(ids, 0)], 0.0).astype(np.float32)
    return batch | {"entity_ids": ids, "entity_mask": mask.astype(np.int32), "entity_vectors": vectors,
                    "entity_labels": labels}

  def _row(self, tokens_L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids (E,), labels (L,)): named entities in order of first mention, then others drawn by the row's content."""
    links = self.linker.mentions(tokens_L)
    named = list(dict.fromkeys(entity for _, entity in links))[:self.slots - self.others]
    slot = {entity: i for i, entity in enumerate(named)}
    ids, labels = np.full(self.slots, -1, np.int32), np.full(len(tokens_L), -1, np.int32)
    for place, entity in links:
      if entity in slot:
        labels[place] = slot[entity]
    random = np.random.default_rng(zlib.crc32(np.ascontiguousarray(tokens_L).tobytes()))
    drawn = dict.fromkeys(random.integers(0, len(self.vectors), 4 * self.slots).tolist())
    filled = (named + [e for e in drawn if e not in slot])[:len(named) + self.others]
    ids[:len(filled)] = filled
    return ids, labels


def build(context: DataContext, *, text: dict, triples: str | None = None, names: str | None = None, slots: int = 16,
          others: int = 8, transe: dict | None = None) -> Corpus:
  """Text with the entities that it names.

  Args:
    text: another data plug-in and its knobs, e.g. dict(name='stdlib').
    triples: tab-separated file of head, relation, tail; None: the graph of the standard library.
    names: tab-separated file of entity, name; None: entities are called by their identifiers.
    slots: entities of a row, at most.
    others: slots among them for entities that the row does not name.
    transe: knobs of data/transe.py's `settings` (width, epochs, batch, rate, margin); None: its defaults.
  """
  if not 0 <= others < slots:
    raise ConfigError("config.data.others", f"{others} of {slots} slots", accepted=f"0 .. {slots - 1}")
  corpus, tokenizer = text_of(context, text)
  if triples is None:
    graph = stdlib_graph.load(context.cache_dir)
  else:
    graph = knowledge_graph.read(pathlib.Path(triples), None if names is None else pathlib.Path(names))
  settings = trained.settings(**plugins.check_knobs(trained.settings, transe or {}, "config.data.transe"))
  vectors = trained.vectors_of(graph, settings, context.cache_dir)
  key = digest(graph.fingerprint, dataclasses.asdict(settings), slots, others)
  return marked(corpus, Marker(Linker(graph.names, tokenizer), vectors, slots, others), FIELDS, key, graph.description)
