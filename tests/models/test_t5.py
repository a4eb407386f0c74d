"""Laws of T5: what encoder and decoder see of each other, padding, packing, running the layers, cached decoding."""

import functools
import time

import jax
import jax.numpy as jnp
import model_checks
import numpy as np
import pytest
from model_checks import agree, close, parameters

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.layers import relative
from llm_jax.models import t5
from llm_jax.models.t5_sizes import VARIANTS, T5Config
from llm_jax.parallel import mesh, rules

VOCAB, READ, WRITTEN = 40, 11, 7
SMALL = dict(variant="debug", width=32, heads=2, head_width=12, hidden=40,  buckets=8, furthest=9)
BUILDS = {"v1.0": {}, "v1.1": dict(variant="debug-v1.1", tied=False)}
every = pytest.mark.parametrize("name", BUILDS)


def build(name="v1.0", **knobs):
  return t5.build(VOCAB, READ, **SMALL | BUILDS[name] | knobs)


@functools.cache
def made(name="v1.0"):
  """A model and parameters with which attention is far from flat."""
  model = build(name)
  return model, parameters(model, 0.2)


def source(rows=2):
  return jax.random.randint(jax.random.key(0), (rows, READ), 1, VOCAB)


def target(rows=2):
  return jax.random.randint(jax.random.key(1), (rows, WRITTEN), 1, VOCAB)


def logits(model, params, ids, written, **inputs):
  return model_checks.logits(model, params, ids, decoder_input_ids=written, **inputs)


@functools.cache
def expected(name="v1.0"):
  return np.asarray(logits(*made(name), source(), target()))


def moved_by_tokens(of, **inputs):
  """How much each encoder token (first READ) and decoder token moves `of(output)`; all tokens are different ones."""
  model, params = made()
  ids, written = jnp.arange(READ)[None], jnp.arange(READ, READ + WRITTEN)[None]
  def score(table):
    return of(model.apply(params | {"tokens.embedding": table}, ids, decoder_input_ids=written, **inputs)).sum()
  grads = jax.jit(jax.grad(score))(params["tokens.embedding"])
  return np.abs(np.asarray(grads)).sum(-1)[:READ], np.abs(np.asarray(grads)).sum(-1)[READ:READ + WRITTEN]


def test_the_encoder_sees_both_sides_and_the_decoder_only_what_is_written():
  read, written = moved_by_tokens(lambda o: o["encoder_last_hidden_state"][0, 4])
  assert (read > 0).all() and (written == 0).all()
  read, written = moved_by_tokens(lambda o: o.hidden[0, 3])
  assert (read > 0).all() and (written[:4] > 0).all() and (written[4:] == 0).all()


def test_cross_attention_reads_real_tokens_alone():
  mask = (jnp.arange(READ) < 6)[None].astype(jnp.int32)
  read, _ = moved_by_tokens(lambda o: o.hidden, attention_mask=mask)
  assert (read[:6] > 0).all() and (read[6:] == 0).all()


@every
def test_padding_on_either_side_changes_nothing(name):
  model, params = made(name)
  ids, written, want = source(), target(), expected(name)
  for before, after in ((0, 4), (4, 0)):
    pad = lambda a, value, around=(before, after): jnp.pad(a, ((0, 0), around), constant_values=value)
    masks = dict(attention_mask=pad(jnp.ones_like(ids), 0), decoder_attention_mask=pad(jnp.ones_like(written), 0))
    got = logits(model, params, pad(ids, 9), pad(written, 9), **masks)
    close(got[:, before:before + WRITTEN], want)


def test_packed_documents_do_not_see_each_other():
  model, params = made()
  ids, written = source(1), target(1)
  packed = logits(model, params, ids, written, segment_ids=jnp.asarray([[1] * 4 + [2] * 7]),
                  decoder_segment_ids=jnp.asarray([[1] * 5 + [2] * 2]))
  close(packed[:, :5], logits(model, params, ids[:, :4], written[:, :5]))
  close(packed[:, 5:], logits(model, params, ids[:, 4:], written[:, 5:]))


@functools.cache
def loss_and_gradient(**knobs):
  model = build(**knobs)
  loss = lambda p: jnp.square(model.apply(p, source(), decoder_input_ids=target()).logits).mean()
  return jax.jit(jax.value_and_grad(loss))(made()[1])


@pytest.mark.parametrize("knobs", [*(pytest.param(k, marks=pytest.mark.slow)
                                     for k in (dict(scan=False), dict(remat="full"))),
                                   dict(remat="split", scan=False)],
                         ids=lambda k: "-".join(map(str, k.values())))
def test_scanned_unrolled_and_rematerialised_layers_agree_with_their_gradients(knobs):
  agree(loss_and_gradient(**knobs), loss_and_gradient())


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
  with rules.use(rules.ShardingRules(mesh.make(dict(data=2, fsdp=2, tensor=2)))):
    model, params = made()
    four = lambda a: jnp.concatenate([a, a])
    loss = lambda p: jnp.square(model.apply(p, four(source()), decoder_input_ids=four(target())).logits).mean()
    placed = jax.device_put(params, rules.active().for_params(model.logical_axes, model.shapes))
    agree(jax.jit(jax.value_and_grad(loss))(placed), loss_and_gradient())


@every
def test_cached_decoding_in_pieces_equals_one_call(name):
  model, params = made(name)
  mask = (jnp.arange(READ + 3) < READ)[None].astype(jnp.int32).repeat(2, 0)
  cache = model.apply(params, jnp.pad(source(), ((0, 0), (0, 3))), mask, length=WRITTEN + 2, method="encode")
  step = jax.jit(lambda p, ids, cache: (lambda o: (o.logits, o.cache))(
      model.apply(p, decoder_input_ids=ids, cache=cache)))
  start = 0
  for size in (3, 1, 1, 2):
    part, cache = step(params, target()[:, start:start + size], cache)
    close(part, expected(name)[:, start:start + size])
    start += size


def test_bfloat16_stays_close_to_float32():
  got = logits(build(dtype="bfloat16"), made()[1], source(), target())
  assert got.dtype == jnp.bfloat16
  close(got, expected(), 0.05)


def test_dropout_is_of_the_key_and_reaches_every_part():
  model, params = build(dropout=0.5), made()[1]
  run = jax.jit(lambda seed: model.apply(params, source(), decoder_input_ids=target(), key=jax.random.key(seed)).logits)
  np.testing.assert_array_equal(run(0), run(0))
  assert np.abs(run(0) - run(1)).max() > 0.1
  close(model.apply(params, source(), decoder_input_ids=target()).logits, expected())


def test_the_bias_of_a_pair_is_its_buckets_number():
  """Against the definition, pair by pair; the first bidirectional buckets of T5 as published."""
  table = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
  for bidirectional in (True, False):
    model = Model.from_module(functools.partial(relative.BucketBias, buckets=8, heads=2, furthest=9,
                                                bidirectional=bidirectional))
    got = model.apply({"embedding": table}, 5, 9, 2)
    for i in range(5):
      for j in range(9):
        of = relative.bucket(jnp.asarray(j - i - 2), bidirectional=bidirectional, buckets=8, furthest=9)
        np.testing.assert_array_equal(got[0, :, i, j], table[of])
  far = jnp.asarray([-200, -20, -8, -1, 0, 1, 8, 20, 200])
  near = relative.bucket(far, bidirectional=True, buckets=32, furthest=128)
  assert near.tolist() == [15, 10, 8, 1, 0, 17, 24, 26, 31]


def test_the_heads_for_labels_have_the_shapes_of_their_classes():
  for head, shape in (("sequence", (2, 3)), ("token", (2, READ, 3)), ("question", (2, READ))):
    labels = 2 if head == "question" else 3
    model = t5.from_config(T5Config(VOCAB, 32, 2, heads=2, head_width=12, hidden=40, head=head, labels=labels))
    output = jax.eval_shape(model.apply, model.shapes, source())
    assert (output["start_logits"] if head == "question" else output.logits).shape == shape


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_published_size_is_built_without_memory_in_a_second(variant):
  start = time.process_time()
  model = t5.build(32_128, 128, variant=variant)
  ids = jnp.zeros((1, 16), jnp.int32)
  output = jax.eval_shape(lambda p: model.apply(p, ids, decoder_input_ids=ids), model.shapes)
  assert time.process_time() - start < 5.0  # a second on a machine of its own
  assert output.logits.shape == (1, 16, 32_128)


@pytest.mark.parametrize("variant, want", [("small", 60_506_624), ("base", 222_903_552), ("large", 737_668_096),
                                           ("v1.1-small", 76_961_152), ("v1.1-base", 247_577_856)])
def test_published_parameter_counts(variant, want):
  assert t5.build(32_128, 128, variant=variant).size == want


def test_what_does_not_fit_is_refused_by_name():
  for knobs, named in ((dict(buckets=5), "buckets"), (dict(furthest=4), "furthest"), (dict(act="x"), "act"),
                       (dict(variant="xxxl"), "variant"), (dict(decoder_depth=0), "decoder_depth")):
    with pytest.raises(ConfigError, match=named):
      build(**knobs)
  with pytest.raises(ConfigError, match="decoder_input_ids"):
    made()[0].apply(made()[1], source())
