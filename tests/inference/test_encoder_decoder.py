"""Laws of generation where an encoder reads the prompt: it runs once, and cache, batch and loop change no token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.inference.beam import BeamSearch, beam_search
from llm_jax.inference.generate import Generator
from llm_jax.models import t5

V, START, NEW = 61, 3, 9
PROMPTS = [[1, 2, 3], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25], [5]]


@functools.cache
def network():
  model = t5.build(V, 32, variant="debug", width=32, depth=2, heads=2, head_width=12, hidden=40)
  params = jax.jit(model.init)(jax.random.key(1))
  livelier = lambda n: 4.0 if "cross_attention" in n else 2.0 if ".blocks." in n else 1.0
  return model, {n: a * livelier(n) for n, a in params.items()}


@functools.cache
def full_forward():
  model, params = network()
  return jax.jit(lambda ids, mask, written: model.apply(params, ids, attention_mask=mask,
                                                        decoder_input_ids=written).logits)


@functools.cache
def by_full_forward(prompt):
  """Greedy tokens without any cache: encoder and decoder again for every token."""
  ids, mask = np.zeros((2, 1, 32), np.int32)
  ids[0, :len(prompt)], mask[0, :len(prompt)] = prompt, 1
  written = np.zeros((1, NEW + 1), np.int32)
  written[0, 0] = START
  for i in range(NEW):
    written[0, i + 1] = int(full_forward()(ids, mask, written)[0, i].argmax())
  return written[0, 1:].tolist()


@pytest.mark.parametrize("unrolled", [pytest.param(True, marks=pytest.mark.slow), False])
def test_cached_batched_generation_is_the_full_forward_pass_token_by_token(unrolled):
  generator = Generator(*network(), unrolled=unrolled, start=START)
  expected = [by_full_forward(tuple(p)) for p in PROMPTS]
  assert [g.tokens for g in generator.generate(PROMPTS, max_new_tokens=NEW)] == expected
  assert len({tuple(row) for row in expected}) == 3  # the network does not ignore its prompt
  if unrolled:
    assert generator.programs.traces["encode"] == 1
    stepped = generator.generate(PROMPTS, max_new_tokens=NEW, loop="python", slide=True)
    assert [g.tokens for g in stepped] == expected


def test_beam_search_of_one_beam_is_greedy_and_more_beams_are_no_worse():
  generator = Generator(*network(), start=START)
  assert beam_search(generator, PROMPTS, beams=1, max_new_tokens=NEW)[1].tokens == by_full_forward(tuple(PROMPTS[1]))
  greedy = generator.generate(PROMPTS, max_new_tokens=NEW)
  searched = BeamSearch(generator).search(PROMPTS, max_new_tokens=NEW, num_beams=4)
  for one, rows in zip(greedy, searched):
    assert rows[0].score >= np.mean(one.logprobs) - 1e-5
    assert [b.score for b in rows] == sorted((b.score for b in rows), reverse=True)


def test_a_decoder_that_does_not_know_how_to_begin_is_refused():
  with pytest.raises(ConfigError, match="start"):
    Generator(*network())


def test_the_memory_in_the_cache_is_the_encoders_alone():
  model, params = network()
  ids = jnp.asarray(PROMPTS[1])[None]
  cache = jax.jit(lambda p: model.apply(p, ids, length=4, method="encode"))(params)
  states = model.apply(params, ids, decoder_input_ids=ids)["encoder_last_hidden_state"]
  kernel = params["decoder.blocks.cross_attention.value.kernel"][1]
  np.testing.assert_allclose(cache["memory_value"][1], jnp.einsum("bmd,dhk->bmhk", states, kernel), atol=1e-4)
