"""Difficulty by readability: the negative of Flesch's reading ease (Flesch 1948), so that larger is harder.

206.835 - 1.015 words/sentences - 84.6 syllables/words. Syllables are runs of vowels, a silent final e left out: an
approximation for English.
"""

import re

import numpy as np

from llm_jax.data.scorers import Score, ScoringContext, texts

WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")
SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
VOWELS = re.compile(r"[aeiouy]+")


def syllables(word: str) -> int:
  """Syllables of an English word, at least 1."""
  word = word.lower()
  count = len(VOWELS.findall(word))
  if word.endswith("e") and not word.endswith(("le", "ee")) and count > 1:
    count -= 1
  return max(count, 1)


def reading_ease(text: str) -> float:
  """Flesch's reading ease; about 100 is easy, 0 hard. A text without words has 206.835."""
  words = WORD.findall(text)
  if not words:
    return 206.835
  sentences = max(len(SENTENCE_END.findall(text)), 1)
  return 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)


def build(context: ScoringContext) -> Score:
  """Minus the reading ease of a row's text."""
  tokenizer = context.text()
  return lambda rows: np.array([-reading_ease(t) for t in texts(tokenizer, rows)])
