"""Which words of a row of tokens name an entity: exact names of a knowledge graph, the longest that fits.

Works on the row's own text, so that it serves any source and any tokenizer: tokens are spelled out, words looked up,
and a mention belongs to the token where it starts (Zhang et al. 2019, section 3.1).
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from llm_jax.data.tokenizers import Tokenizer

WORD = re.compile(r"\w+|[^\w\s]")


class Linker:
  """Finds names in rows of tokens. names: {name: entity}; a name is a sequence of words and signs."""

  def __init__(self, names: Mapping[str, int], tokenizer: Tokenizer):
    reserved = set(tokenizer.reserved)
    self._spelled = ["\n" if i in reserved else tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
    self._by_first: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for name, entity in names.items():
      words = tuple(WORD.findall(name))
      if words:
        self._by_first.setdefault(words[0], []).append((words, entity))
    for meanings in self._by_first.values():
      meanings.sort(key=lambda item: (-len(item[0]), item))

  def mentions(self, tokens_L: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
    """(place of the first token, entity) of each mention in order. A word that touches an end of the row may be a part
    of a longer one and is passed over."""
    parts = [self._spelled[i] for i in np.asarray(tokens_L).tolist()]
    text = "".join(parts)
    found = [m for m in WORD.finditer(text) if m.start() > 0 and m.end() < len(text)]
    words = [m.group() for m in found]
    ends = np.cumsum([len(p) for p in parts])
    links, i = [], 0
    while i < len(words):
      taken = 1
      for name, entity in self._by_first.get(words[i], ()):
        if tuple(words[i:i + len(name)]) == name:
          links.append((int(np.searchsorted(ends, found[i].start(), side="right")), entity))
          taken = len(name)
          break
      i += taken
    return links
