"""Few-shot classification of short synthetic documents: N topics that no other episode has, K documents of each.

A topic is a distribution over words, softmax(temperature * W z) with z ~ N(0, I) drawn anew and W (vocabulary, factors)
fixed, entries N(0, 1 / factors); a document is a bag of `words` words of its topic. Nothing can be remembered from one
episode to the next but how words go together (W). Chance is 1 / ways; the true topics classify about 95 %.

In context the same documents are rows of tokens: word ids, the topic's number as one more id behind each document, and
a query at the end (data/few_shot.py).
"""

from functools import partial
from typing import Any

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import EpisodeSource, checked, corpus, generator, paced
from llm_jax.data.few_shot import Family, Form, Task, sources
from llm_jax.data.fingerprint import digest

FIELDS = {"inputs": "(.., V) float32: share of each word, times 16", "labels": "(..,) int32: topic, 0 to ways - 1",
          "weights": "(..,) float32: 1 if it counts"}


def build(context: DataContext, *, ways: int = 5, shots: int = 1, query: int = 15, vocabulary: int = 200,
          words: int = 16, factors: int = 8, temperature: float = 1.0, permute_query: bool = False,
          eval_tasks: int = 1000, form: Form = "episodes") -> Corpus:
  """Few-shot topics.

  Args:
    ways: topics in an episode.
    shots: support documents of each.
    query: query documents of each.
    vocabulary: words that there are.
    words: words in a document.
    factors: width of what a topic is made from.
    temperature: how far topics differ.
    permute_query: shuffles the labels of held-out queries: accuracy must then be chance, or labels leak.
    eval_tasks: held-out episodes.
    form: 'episodes' of word counts, or 'in_context': rows of tokens that hold a whole support set and one query.

  Raises:
    ConfigError: a number too small, or permuted queries in context.
  """
  checked(ways=(ways, 1), shots=(shots, 1), query=(query, 1))
  loadings = generator("topics", vocabulary, factors).normal(size=(vocabulary, factors)) / factors**0.5
  if form == "in_context":
    return _prompts(context, loadings, ways, shots, query, words, temperature, permute_query, eval_tasks)
  sampler = partial(episodes, loadings=loadings, ways=ways, shots=shots, query=query, words=words,
                    temperature=temperature)
  knobs = dict(ways=ways, shots=shots, query=query, vocabulary=vocabulary, words=words, factors=factors,
               temperature=temperature, permute_query=permute_query)
  return corpus("topics", sampler, partial(sampler, permute=permute_query), fields=FIELDS, seed=context.seed,
                tasks=eval_tasks, knobs=knobs, shots=shots, classes=ways)


def episodes(random: np.random.Generator, plan: Plan, *, loadings: np.ndarray, ways: int, shots: int, query: int,
             words: int, temperature: float, permute: bool = False) -> Batch:
  """plan.batch episodes; documents of a topic are drawn independently, support and query in mixed order. The plan's
  n_way and k_shot say how many topics and support documents count."""
  n_way, k_shot = paced(plan, "n_way", ways, 2), paced(plan, "k_shot", shots)
  T, V = plan.batch, len(loadings)
  topics_TNV = draw_topics(random, (T, ways), loadings, temperature)
  def part(each: int, most: int, shuffle_labels: bool) -> Batch:
    labels = random.permuted(np.tile(np.repeat(np.arange(ways), each), (T, 1)), axis=1)
    counts = random.multinomial(words, np.take_along_axis(topics_TNV, labels[..., None], axis=1))
    member_TSN = labels[..., None] == np.arange(ways)
    place = (member_TSN.cumsum(1) * member_TSN).sum(-1)  # from 1, among its topic's
    weights = ((labels < n_way) & (place <= most)).astype(np.float32)
    labels = random.permuted(labels, axis=1) if shuffle_labels else labels
    return {"inputs": (counts * (16.0 / words)).astype(np.float32).reshape(T, ways * each, V),
            "labels": labels.astype(np.int32), "weights": weights}
  return {"support": part(shots, k_shot, False), "query": part(query, query, permute)}


def draw_topics(random: np.random.Generator, shape: tuple[int, ...], loadings: np.ndarray,
                temperature: float) -> np.ndarray:
  """(*shape, V) distributions over words."""
  scores = temperature * random.normal(size=(*shape, loadings.shape[1])) @ loadings.T
  topics = np.exp(scores - scores.max(-1, keepdims=True))
  return topics / topics.sum(-1, keepdims=True)


def make_task(random: np.random.Generator, size: int, *, loadings: np.ndarray, ways: int, shots: int, query: int,
              words: int, temperature: float) -> Task:
  """An episode as tokens: documents of at most size - 1 words, and V + c for topic c."""
  topics_NV, V = draw_topics(random, (ways,), loadings, temperature), len(loadings)
  def documents(each: int) -> list[tuple[np.ndarray, int]]:
    kinds = random.permutation(np.repeat(np.arange(ways), each))
    return [(random.choice(V, min(words, size - 1), p=topics_NV[c]), int(c)) for c in kinds]
  return Task([np.array([V + c]) for c in range(ways)], documents(shots), documents(query))


def _prompts(context: DataContext, loadings: np.ndarray, ways: int, shots: int, query: int, words: int,
             temperature: float, permute: bool, tasks: int) -> Corpus:
  if permute:
    raise ConfigError("config.data.permute_query", "got True, and form is 'in_context'", accepted="form='episodes'")
  knobs: dict[str, Any] = dict(ways=ways, shots=shots, query=query, words=words, temperature=temperature)
  family = Family(partial(make_task, loadings=loadings, **knobs), ways, shots, query)
  fingerprint = digest("topics in context", *loadings.shape, knobs)
  described = "topics in context: " + ", ".join(f"{k}={v}" for k, v in knobs.items())
  empty = Corpus(None, EpisodeSource(family.prompts, context.seed, {}, fingerprint), {}, fingerprint, described, None,
                 ids=len(loadings) + ways)
  return sources(empty, family, family, "in_context", fingerprint=fingerprint, seed=context.seed, tasks=tasks)
