"""Log-probabilities of a row's tokens: those of the whole softmax, in any chunks, whatever padding stands behind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.row_parts import COMPLETION, PROMPT
from llm_jax.models import gpt
from llm_jax.objectives.token_logprobs import lengths, token_logprobs

MODEL = gpt.build(50, 16, variant="debug", width=16, heads=2, depth=1)
PARTS = np.array([[1, 1, 2, 2, 2, 0, 0, 0], [1, 2, 2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 2]], np.int32)


@functools.partial(jax.jit, static_argnames=("chunk", "temperature"))
def scored(params, tokens, parts, **knobs):
  return token_logprobs(MODEL.apply, params, tokens, parts, **knobs)[0]


@jax.jit
def of_the_softmax(logits, tokens):
  """(B, L - 1), each token's logarithm of its share of the softmax before it."""
  return jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], 2)[..., 0]


@pytest.fixture(scope="module")
def params():
  return MODEL.init(jax.random.key(0))


@pytest.fixture(scope="module")
def tokens():
  return jax.random.randint(jax.random.key(1), PARTS.shape, 0, 50)


def test_they_are_those_of_the_softmax_within_the_completion(params, tokens):
  logits = jax.jit(lambda params: MODEL.apply(params, input_ids=tokens).logits)(params)
  want = of_the_softmax(logits, tokens)
  found = scored(params, tokens, PARTS, chunk=3)
  np.testing.assert_allclose(found, np.where(PARTS[:, 1:] == COMPLETION, want, 0.0), atol=1e-5)
  assert lengths(jnp.asarray(PARTS)).tolist() == [3.0, 7.0, 1.0]
  cold = scored(params, tokens, PARTS, temperature=0.5)
  want = of_the_softmax(2 * logits, tokens)
  np.testing.assert_allclose(cold, np.where(PARTS[:, 1:] == COMPLETION, want, 0.0), atol=1e-5)


def test_padding_changes_nothing(params, tokens):
  longer = jnp.pad(tokens, ((0, 0), (0, 4)), constant_values=7)
  found = scored(params, longer, np.pad(PARTS, ((0, 0), (0, 4))))
  np.testing.assert_allclose(found[:, :-4], scored(params, tokens, PARTS), atol=1e-5)
  assert (found[:, -4:] == 0).all()


def test_the_gradient_is_that_of_the_scored_tokens_in_any_chunks(params, tokens):
  gradient = jax.jit(jax.grad(lambda params, chunk: scored(params, tokens, PARTS, chunk=chunk).sum()), static_argnums=1)
  def plain(params):
    logp = of_the_softmax(MODEL.apply(params, input_ids=tokens).logits, tokens)
    return jnp.where(PARTS[:, 1:] > PROMPT, logp, 0.0).sum()
  want = jax.jit(jax.grad(plain))(params)
  for chunk in ("auto", 3):
    for name, found in gradient(params, chunk).items():
      np.testing.assert_allclose(found, want[name], atol=2e-4, err_msg=name)
