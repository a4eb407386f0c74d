"""Laws of networks over characters: shapes of the published sizes, what changes nothing, order of words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.layers.convolution import max_pool
from llm_jax.models import char_cnn, char_word_lm

LENGTH = 123


def loud(model):
  draw = np.random.default_rng(0)
  return {n: (0.3 * draw.normal(size=s.shape)).astype(np.float32) for n, s in model.shapes.items()}


def call(model, params, ids, **inputs):
  return jax.jit(lambda params, inputs: model.apply(params, ids, **inputs))(params, inputs)


def zhang():
  return char_cnn.build(8, LENGTH, variant="debug", features=6, hidden=10, labels=3)


def kim():
  return char_word_lm.build(11, 5, variant="debug", characters=9, hidden=8)


def test_masked_characters_are_blank_ones_and_no_key_means_no_dropout():
  model = zhang()
  params = loud(model)
  ids = jax.random.randint(jax.random.key(0), (2, LENGTH), 1, 8)
  mask = (jnp.arange(LENGTH) < 90)[None].astype(jnp.int32)
  got = call(model, params, ids, attention_mask=mask).scores
  np.testing.assert_array_equal(got, call(model, params, ids * mask).scores)
  plain = call(model, params, ids).scores
  assert float(jnp.abs(got - plain).max()) > 1e-3
  assert float(jnp.abs(call(model, params, ids, key=jax.random.key(1)).scores - plain).max()) > 0


def test_the_published_sizes():
  """Zhang et al. 2015, tables 1 and 2: 8704 numbers reach the first linear layer of the small network."""
  small = char_cnn.build(71, 1014, variant="small")
  assert small.shapes["fc.0.kernel"].shape == (8704, 1024) and small.shapes["conv.0.kernel"].shape == (7, 70, 256)
  assert char_cnn.build(71, 1014, variant="large").shapes["fc.0.kernel"].shape == (34_816, 2048)
  assert char_word_lm.build(10_000, 35, variant="small").shapes["highway.0.gate.kernel"].shape == (525, 525)
  assert char_word_lm.build(10_000, 35, variant="large").shapes["highway.1.gate.kernel"].shape == (1100, 1100)


def test_rows_that_are_too_short_are_refused():
  with pytest.raises(ConfigError, match="length"):
    char_cnn.build(71, 100, variant="debug")
  with pytest.raises(ValueError, match="124"):
    zhang().apply(loud(zhang()), jnp.ones((1, 124), jnp.int32))


def test_pooling_drops_what_is_left_over():
  x = jnp.asarray([3.0, 1, 2, 5, 9, 4, 99])[None, :, None]
  np.testing.assert_array_equal(max_pool(x, 3)[0, :, 0], [3, 9])


def test_a_word_sees_its_characters_and_earlier_words_only():
  model = kim()
  params = loud(model)
  ids = jnp.arange(1, 9).reshape(1, 4, 2)
  ids = jnp.pad(ids, ((0, 0), (0, 0), (0, 2)))
  def score(table):
    return model.apply(params | {"characters.embedding": table}, ids).hidden[0, 1].sum()
  moved = np.abs(jax.jit(jax.grad(score))(params["characters.embedding"])).sum(-1) > 0
  assert moved.tolist() == [False, *[True] * 4, *[False] * 4], "padding is not trained"


def test_a_carried_state_is_a_longer_row_of_words():
  model = kim()
  params = loud(model)
  ids = jax.random.randint(jax.random.key(0), (2, 6, 5), 0, 9)
  whole = call(model, params, ids)
  first = call(model, params, ids[:, :4])
  second = call(model, params, ids[:, 4:], cache=first.cache)
  np.testing.assert_allclose(second.logits, whole.logits[:, 4:], atol=1e-5)
