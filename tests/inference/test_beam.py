"""Laws of beam search: one beam is greedy, enough beams find the best text of all, scores are what they claim."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.inference.beam import BeamSearch, beam_search
from llm_jax.inference.generate import Generator
from llm_jax.models import gpt

V, PROMPTS = 7, [[1, 2, 3], [4, 5, 6, 1, 2], [0]]
SIZES = dict(variant="debug", width=16, depth=2, heads=2, positions=32)


@pytest.fixture(scope="module")
def network():
  model = gpt.build(V, 32, **SIZES)
  return model, {n: a * 6 if n.endswith(("kernel", "embedding")) else a
                 for n, a in jax.jit(model.init)(jax.random.key(2)).items()}


@pytest.fixture(scope="module")
def searcher(network):
  return BeamSearch(Generator(*network))


def logprob(network, prompt, text):
  model, params = network
  row = jnp.array([list(prompt) + list(text)])
  scores = jax.nn.log_softmax(model.apply(params, input_ids=row).logits[0])
  return float(sum(scores[len(prompt) - 1 + i, t] for i, t in enumerate(text)))


def test_one_beam_is_greedy(searcher):
  greedy = searcher.generator.generate(PROMPTS, max_new_tokens=8, eos_ids=[3, 5])
  beams = searcher.search(PROMPTS, max_new_tokens=8, eos_ids=[3, 5], num_beams=1)
  assert [row[0].tokens for row in beams] == [row.tokens for row in greedy]
  again = beam_search(searcher.generator, PROMPTS, max_new_tokens=8, eos_ids=[3, 5], beams=1)
  assert again == [row[0] for row in beams]


def test_enough_beams_find_the_best_text_of_all(searcher, network):
  model, params = network
  texts = list(itertools.product(range(V), repeat=3))
  beams = searcher.search([PROMPTS[0]], max_new_tokens=3, num_beams=V * V)[0]
  rows = jnp.array([PROMPTS[0] + list(text) for text in texts])
  scores = jax.nn.log_softmax(jax.jit(lambda ids: model.apply(params, input_ids=ids).logits)(rows))
  totals = np.take_along_axis(np.asarray(scores[:, 2:5]), np.array(texts)[..., None], -1).sum((1, 2)) / 3
  order = np.argsort(-totals)[:4]
  assert [tuple(b.tokens) for b in beams[:4]] == [texts[i] for i in order]
  np.testing.assert_allclose([b.score for b in beams[:4]], totals[order], atol=1e-4)


@pytest.mark.parametrize("early_stopping, length_penalty", [(True, 1.0), (False, 0.0), ("never", 2.0), ("never", -1.0)])
def test_scores_are_logprobs_over_length_best_first(searcher, network, early_stopping, length_penalty):
  found = searcher.search(PROMPTS, max_new_tokens=6, num_beams=3, eos_ids=[3, 5], early_stopping=early_stopping,
                          length_penalty=length_penalty)
  for prompt, beams in zip(PROMPTS, found):
    assert beams and [b.score for b in beams] == sorted((b.score for b in beams), reverse=True)
    assert len({tuple(b.tokens) for b in beams}) == len(beams)
    assert all(t not in (3, 5) for b in beams for t in b.tokens[:-1])
    best = beams[0]
    assert best.score == pytest.approx(logprob(network, prompt, best.tokens) / len(best.tokens) ** length_penalty,
                                       abs=1e-4)


def test_a_prompt_alone_gives_what_it_gives_in_a_batch(searcher):
  together = searcher.search(PROMPTS, max_new_tokens=6, num_beams=3, eos_ids=[3, 5], early_stopping=True)
  alone = searcher.search([PROMPTS[2]], max_new_tokens=6, num_beams=3, eos_ids=[3, 5], early_stopping=True)[0]
  assert [b.tokens for b in together[2]] == [b.tokens for b in alone]


def test_the_stacked_cache_gives_the_same_beams(searcher, network):
  stacked = BeamSearch(Generator(*network, unrolled=False))
  ours, theirs = (s.search(PROMPTS, max_new_tokens=6, num_beams=3, eos_ids=[3, 5]) for s in (searcher, stacked))
  assert [[b.tokens for b in row] for row in ours] == [[b.tokens for b in row] for row in theirs]


@pytest.mark.parametrize("options, key", [(dict(num_beams=0), "num_beams"),
                                          (dict(early_stopping="soon"), "early_stopping")])
def test_mistakes_are_named(searcher, options, key):
  with pytest.raises(ConfigError) as caught:
    searcher.search([[1]], max_new_tokens=2, **options)
  assert caught.value.key == key
