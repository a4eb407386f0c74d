"""Which documents train and which validate.

`documents` decides by a hash of the document's group (its text, unless the source groups documents that share text), so
that the decision does not depend on order, seed or neighbours and copies fall on the same side. `tail` takes the last
part of each domain's text, cutting through a document: the protocol of nanoGPT, and the way for few long documents.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

from llm_jax.data.documents import Document, Split
from llm_jax.data.fingerprint import bytes_digest

SplitMode = Literal["auto", "documents", "tail"]
ENOUGH = 20  # 'auto' splits by documents where that many are expected in validation


def split_documents(read: Callable[[], Iterator[Document]], mode: SplitMode,
                    fraction: float) -> Iterator[tuple[Split, Document]]:
  """(split, document) in the source's order; a split that the source fixed is kept.

  mode: 'documents', 'tail', or 'auto': for each domain 'documents' if about 20 or more would validate, else 'tail'.
  """
  counts: collections.Counter[str] = collections.Counter()
  characters: collections.Counter[str] = collections.Counter()
  if mode != "documents":
    for document in read():
      if document.split is None:
        counts[document.domain] += 1
        characters[document.domain] += len(document.text)
  seen: collections.Counter[str] = collections.Counter()
  for document in read():
    domain = document.domain
    if document.split is not None:
      yield document.split, document
    elif mode == "documents" or (mode == "auto" and counts[domain] * fraction >= ENOUGH):
      yield by_hash(document, fraction), document
    else:
      cut = int(characters[domain] * (1 - fraction)) - seen[domain]
      seen[domain] += len(document.text)
      yield from _cut(document, cut)


def by_hash(document: Document, fraction: float) -> Split:
  """The split that a document's group falls in."""
  place = int(bytes_digest((document.group or document.text).encode())[:13], 16) / 16**13
  return "validation" if place < fraction else "train"


def _cut(document: Document, cut: int) -> Iterator[tuple[Split, Document]]:
  """The document up to character `cut` for training, the rest for validation."""
  if cut > 0:
    yield "train", dataclasses.replace(document, text=document.text[:cut])
  if cut < len(document.text):
    yield "validation", dataclasses.replace(document, text=document.text[max(cut, 0):])
