"""Phrases of a text: words that stand together more often than chance has it (Mikolov et al. 2013, section 4).

    score(a, b) = (count(a b) - discount) / (count(a) count(b)) * words

Pairs above a threshold are joined to one word and counted again: a second pass finds phrases of up to four words.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
Phrase = tuple[str, ...]


def learn(texts: Iterable[str], *, threshold: float, discount: int, passes: int = 2) -> list[Phrase]:
  """The phrases of some texts, of 2 to 2 ** passes words, in alphabetical order.

  Args:
    texts: a phrase does not run across two of them.
    threshold: least score.
    discount: occurrences that are taken off every pair's count, which keeps rare pairs out.
    passes: how often pairs are joined.
  """
  sentences: list[list[Phrase]] = [[(word,) for word in WORD.findall(text)] for text in texts]
  phrases: set[Phrase] = set()
  for i in range(passes):
    single: Counter[Phrase] = Counter(unit for s in sentences for unit in s)
    pairs: Counter[tuple[Phrase, Phrase]] = Counter(p for s in sentences for p in itertools.pairwise(s))
    total = sum(single.values())
    score = lambda a, b, count: (count - discount) / (single[a] * single[b]) * total  # noqa: B023
    joined = {(a, b) for (a, b), count in pairs.items() if _wordlike(a) and _wordlike(b)
              and score(a, b, count) > threshold}
    phrases |= {a + b for a, b in joined}
    sentences = [_join(s, joined) for s in sentences] if i + 1 < passes else []
  return sorted(phrases)


def _wordlike(unit: Phrase) -> bool:
  return all(word[0].isalpha() for word in unit)


def _join(sentence: Sequence[Phrase], joined: set[tuple[Phrase, Phrase]]) -> list[Phrase]:
  """The sentence with joined pairs as one, from the left."""
  found, i = [], 0
  while i < len(sentence):
    if i + 1 < len(sentence) and (sentence[i], sentence[i + 1]) in joined:
      found.append(sentence[i] + sentence[i + 1])
      i += 2
    else:
      found.append(sentence[i])
      i += 1
  return found


def index(phrases: Iterable[Phrase]) -> Mapping[str, list[Phrase]]:
  """{first word: the phrases that begin with it, the longest first}."""
  found: dict[str, list[Phrase]] = {}
  for phrase in phrases:
    if phrase:
      found.setdefault(phrase[0], []).append(phrase)
  for those in found.values():
    those.sort(key=lambda phrase: (-len(phrase), phrase))
  return found


def spans(text: str, phrases: Mapping[str, list[Phrase]]) -> list[tuple[int, int]]:
  """(start, end) in characters of every phrase in the text, the longest first from the left; none overlap."""
  found, words, i = [], list(WORD.finditer(text)), 0
  said = [w.group() for w in words]
  while i < len(words):
    match = next((p for p in phrases.get(said[i], ()) if tuple(said[i:i + len(p)]) == p), None)
    if match is not None:
      found.append((words[i].start(), words[i + len(match) - 1].end()))
    i += len(match) if match is not None else 1
  return found
