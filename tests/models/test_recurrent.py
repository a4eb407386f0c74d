"""Laws of recurrent networks: what a token may see, a carried state is a longer row, padding, documents, generation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.inference.generate import Generator
from llm_jax.inference.sampling import Sampling
from llm_jax.layers.dropout import dropout
from llm_jax.models import lstm

VOCAB, L = 19, 10
KINDS = {"lstm": {}, "gru": dict(cell="gru"), "tied": dict(tied=True, depth=1)}
ENCODER = dict(bidirectional=True, head="token", labels=3)
every = pytest.mark.parametrize("name", KINDS)


@functools.cache
def made(name="lstm", **knobs):
  kind = ENCODER if name == "encoder" else KINDS[name]
  model = lstm.build(VOCAB, L, **dict(variant="debug", embedding=8, hidden=8, depth=2) | kind | knobs)
  draw = np.random.default_rng(0)
  return model, {n: (0.6 * draw.normal(size=s.shape)).astype(np.float32) for n, s in model.shapes.items()}


def tokens(rows=2):
  return jax.random.randint(jax.random.key(0), (rows, L), 1, VOCAB)


def run(name, ids, **inputs):
  model, params = made(name)
  return jax.jit(lambda p, i: model.apply(p, i, **inputs))(params, ids)


def close(a, b):
  np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-6, rtol=1e-5)


def moved_by(name, at):
  """(L,) whether the hidden state at a place depends on each token, by gradient."""
  model, params = made(name)
  ids = jnp.arange(1, L + 1)[None]
  score = lambda table: model.apply(params | {"tokens.embedding": table}, ids).hidden[0, at].sum()
  return np.abs(jax.jit(jax.grad(score))(params["tokens.embedding"])).sum(-1)[1:L + 1] > 0


@every
def test_no_gradient_flows_from_later_tokens(name):
  assert moved_by(name, 4).tolist() == [i <= 4 for i in range(L)]


def test_an_encoder_sees_both_sides():
  assert moved_by("encoder", 4).all()


@every
def test_a_carried_state_is_a_longer_row(name):
  whole = run(name, tokens())
  first = run(name, tokens()[:, :6])
  second = run(name, tokens()[:, 6:], cache=first.cache)
  close(jnp.concatenate([first.logits, second.logits], 1), whole.logits)
  jax.tree.map(close, second.cache, whole.cache)


@pytest.mark.parametrize("name", [*KINDS, "encoder"])
@pytest.mark.parametrize("left", [True, False])
def test_padding_on_either_side_changes_nothing(name, left):
  pads = ((0, 0), (4, 0) if left else (0, 4))
  got = run(name, jnp.pad(tokens(), pads, constant_values=3), attention_mask=jnp.pad(jnp.ones_like(tokens()), pads))
  want = run(name, tokens())
  close(got.logits[:, 4:] if left else got.logits[:, :L], want.logits)
  jax.tree.map(close, got.cache, want.cache)


@pytest.mark.parametrize("name", [*KINDS, "encoder"])
def test_packed_documents_do_not_see_each_other(name):
  packed = run(name, tokens(1), segment_ids=jnp.asarray([[1] * 4 + [2] * 6]))
  close(packed.logits[:, :4], run(name, tokens(1)[:, :4]).logits)
  close(packed.logits[:, 4:], run(name, tokens(1)[:, 4:]).logits)


def test_generation_in_pieces_is_the_full_forward():
  model, params = made("lstm")
  prompts = [[3, 1, 4], [1, 5, 9, 2, 6]]
  texts = Generator(model, params).generate(prompts, max_new_tokens=5, sampling=Sampling(greedy=True))
  for prompt, text in zip(prompts, texts, strict=True):
    ids = prompt + list(text.tokens)
    scores = run("lstm", jnp.asarray([ids + [0] * (L - len(ids))])).logits[0]
    assert scores[len(prompt) - 1:len(ids) - 1].argmax(-1).tolist() == list(text.tokens)


def test_variational_dropout_has_one_mask_for_a_row():
  stack = made("lstm", dropout=0.5, variational=True)[0].bind(made("lstm")[1]).layers
  x = jnp.ones((3, L, 8))
  dropped = np.asarray(stack.drop(x, jax.random.key(1)))
  assert (dropped == dropped[:, :1]).all() and set(np.unique(dropped)) == {0.0, 2.0}
  plain = made("lstm", dropout=0.5)[0].bind(made("lstm")[1]).layers.drop(x, jax.random.key(1))
  np.testing.assert_array_equal(plain, dropout(x, 0.5, jax.random.key(1)))


def test_dropped_words_are_dropped_wherever_they_stand():
  model, params = made("lstm", word_dropout=0.5)
  ids = jnp.asarray([[1, 2, 3, 1, 2, 3, 1, 2, 3, 1]])
  x = model.bind(params)._forget_words(params["tokens.embedding"][ids], ids, jax.random.key(0))
  kept = np.asarray(jnp.abs(x).sum(-1) > 0)[0]
  assert all(len(set(kept[np.asarray(ids)[0] == w])) == 1 for w in (1, 2, 3)) and 0 < kept.sum() < L


@pytest.mark.parametrize("knobs, named", [
    (dict(bidirectional=True), "bidirectional"), (dict(state_dropout=0.1), "state_dropout"),
    (dict(tied=True, hidden=9), "tied"), (dict(variant="x"), "variant"), (dict(hidden=0), "hidden")])
def test_what_does_not_fit_is_refused_by_name(knobs, named):
  with pytest.raises(ConfigError, match=named):
    lstm.build(VOCAB, L, **dict(variant="debug") | knobs)


def test_parameters_of_the_published_sizes():
  """Zaremba et al. 2014, at 10,000 words: the two LSTM layers with PyTorch's second bias, embedding and head."""
  count = lambda width: 2 * 10_000 * width + 10_000 + 2 * (8 * width**2 + 8 * width)
  for variant, width in (("zaremba-small", 200), ("zaremba-medium", 650), ("zaremba-large", 1500)):
    assert lstm.build(10_000, 20, variant=variant).size == count(width)
