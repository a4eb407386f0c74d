"""Log-probabilities of a row's tokens: those of the whole softmax, in any chunks, whatever padding stands behind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.row_parts import COMPLETION, PROMPT
from llm_jax.models import gpt
from llm_jax.objectives.token_logprobs import lengths, token_logprobs

MODEL = gpt.build(50, 16, variant="debug", width=16, heads=2, depth=1)
PARTS = np.array([[1, 1, 2, 2, 2, 0, 0, 0], [1, 2, 2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 2]], np.int32)


@pytest.fixture(scope="module")
def params():
  return MODEL.init(jax.random.key(0))


@pytest.fixture(scope="module")
def tokens():
  return jax.random.randint(jax.random.key(1), PARTS.shape, 0, 50)


def test_they_are_those_of_the_softmax_within_the_completion(params, tokens):
  found, _ = token_logprobs(MODEL.apply, params, tokens, PARTS, chunk=3)
  logits = MODEL.apply(params, input_ids=tokens).logits
  want = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], 2)[..., 0]
  np.testing.assert_allclose(found, np.where(PARTS[:, 1:] == COMPLETION, want, 0.0), atol=1e-5)
  assert lengths(jnp.asarray(PARTS)).tolist() == [3.0, 7.0, 1.0]
  cold, _ = token_logprobs(MODEL.apply, params, tokens, PARTS, temperature=0.5)
  want = jnp.take_along_axis(jax.nn.log_softmax(2 * logits[:, :-1]), tokens[:, 1:, None], 2)[..., 0]
  np.testing.assert_allclose(cold, np.where(PARTS[:, 1:] == COMPLETION, want, 0.0), atol=1e-5)


def test_padding_changes_nothing(params, tokens):
  longer = jnp.pad(tokens, ((0, 0), (0, 4)), constant_values=7)
  found, _ = token_logprobs(MODEL.apply, params, longer, np.pad(PARTS, ((0, 0), (0, 4))))
  np.testing.assert_allclose(found[:, :-4], token_logprobs(MODEL.apply, params, tokens, PARTS)[0], atol=1e-5)
  assert (found[:, -4:] == 0).all()


def test_the_gradient_is_that_of_the_scored_tokens_in_any_chunks(params, tokens):
  total = lambda params, chunk: token_logprobs(MODEL.apply, params, tokens, PARTS, chunk=chunk)[0].sum()
  def plain(params):
    logp = jax.nn.log_softmax(MODEL.apply(params, input_ids=tokens).logits[:, :-1])
    return jnp.where(PARTS[:, 1:] > PROMPT, jnp.take_along_axis(logp, tokens[:, 1:, None], 2)[..., 0], 0.0).sum()
  for chunk in ("auto", 3):
    found, want = jax.grad(total)(params, chunk), jax.grad(plain)(params)
    for name, gradient in found.items():
      np.testing.assert_allclose(gradient, want[name], atol=2e-4, err_msg=name)
