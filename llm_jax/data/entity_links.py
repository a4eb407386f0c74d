"""Which words of a row of tokens name an entity: exact names of a knowledge graph, the longest that fits.

A mention belongs to the token where it starts (Zhang et al. 2019, section 3.1).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from llm_jax.data import collocations
from llm_jax.data.collocations import WORD
from llm_jax.data.marked_text import Spelling
from llm_jax.data.tokenizers import Tokenizer


class Linker:
  """Finds names in rows of tokens. names: {name: entity}; a name is a sequence of words and signs."""

  def __init__(self, names: Mapping[str, int], tokenizer: Tokenizer):
    self._spelling = Spelling(tokenizer)
    self._entities = {tuple(WORD.findall(name)): entity for name, entity in names.items()}
    self._names = collocations.index(self._entities)

  def mentions(self, tokens_L: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
    """(place of the first token, entity) of each mention in order. A name that touches an end of the row may be a part
    of a longer word and is passed over."""
    text, ends = self._spelling(tokens_L)
    return [(int(np.searchsorted(ends, start, side="right")), self._entities[tuple(WORD.findall(text[start:end]))])
            for start, end in collocations.spans(text, self._names) if start > 0 and end < len(text)]
