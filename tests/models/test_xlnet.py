"""Laws of XLNet: what each stream sees, mems as a longer context, padding, packing, running the layers."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import agree, close, parameters

from llm_jax.core.errors import ConfigError
from llm_jax.models import xlnet
from llm_jax.models.xlnet_sizes import VARIANTS, XLNetConfig
from llm_jax.parallel import mesh, rules

VOCAB, LENGTH = 31, 9
SMALL = dict(variant="debug", width=32, heads=2, hidden=40)


def build(**knobs):
  return xlnet.build(VOCAB, LENGTH, **SMALL | knobs)


@functools.cache
def made(**knobs):
  """A model and parameters with which attention is far from flat."""
  model = build(**knobs)
  return model, parameters(model, 0.3)


def tokens(rows=2, length=LENGTH):
  return jax.random.randint(jax.random.key(0), (rows, length), 1, VOCAB)


def causal(rows=2, length=LENGTH):
  return jnp.broadcast_to(jnp.triu(jnp.ones((length, length)), 1), (rows, length, length))


def a_permutation(rows=2, predicted=(6, 1, 4)):
  """perm_mask of an order that ends with these places, and target_mapping for them, first place first."""
  rank = np.zeros(LENGTH, int)
  rank[list(predicted)] = np.arange(1, len(predicted) + 1)
  hidden = (rank[None, :] > 0) & (rank[None, :] >= rank[:, None])
  places = np.sort(predicted)
  mapping = (places[:, None] == np.arange(LENGTH)).astype(np.float32)
  of_rows = lambda a: jnp.asarray(a, jnp.float32)[None].repeat(rows, 0)
  return of_rows(hidden), of_rows(mapping), rank, places


def run(model, params, ids, **inputs):
  return jax.jit(lambda p: model.apply(p, ids, **inputs))(params)


def moved(of, knobs=(), **inputs):
  """How much each token moves `of(output)`: every row of the table is one position."""
  model, params = made(**dict(knobs))
  ids = jnp.arange(1, LENGTH + 1)[None]
  score = lambda table: of(model.apply(params | {"tokens.embedding": table}, ids, **inputs)).sum()
  grads = jax.jit(jax.grad(score))(params["tokens.embedding"])
  return np.abs(np.asarray(grads)).sum(-1)[1:LENGTH + 1]


def test_without_a_mask_every_token_sees_every_other_and_uni_sees_what_is_before():
  assert (moved(lambda o: o.hidden[0, 4]) > 0).all()
  seen = moved(lambda o: o.hidden[0, 4], knobs=[("attn_type", "uni")])
  assert (seen[:5] > 0).all() and (seen[5:] == 0).all()


def test_a_prediction_sees_what_comes_before_it_in_the_order_and_never_itself():
  perm, mapping, rank, places = a_permutation(1)
  for row, place in enumerate(places):
    seen = moved(lambda o, row=row: o.hidden[0, row], perm_mask=perm, target_mapping=mapping)
    assert ((seen > 0) == (rank < rank[place])).all(), place
  content = moved(lambda o: o.hidden[0, 6], perm_mask=perm)  # the content stream knows its own token
  assert ((content > 0) == (rank <= rank[6])).all()


@pytest.mark.parametrize("predictions", [False, True])
def test_padding_on_either_side_changes_nothing(predictions):
  model, params = made()
  perm, mapping, _, _ = a_permutation()
  given = dict(perm_mask=perm, target_mapping=mapping) if predictions else {}
  types = jnp.broadcast_to((jnp.arange(LENGTH) > 3).astype(jnp.int32), (2, LENGTH))
  want = run(model, params, tokens(), token_type_ids=types, **given).logits
  for around in ((0, 3), (3, 0)):
    pad = lambda a, *axes, around=around: jnp.pad(a, [around if i in axes else (0, 0) for i in range(a.ndim)])
    inputs = dict(token_type_ids=pad(types, 1), attention_mask=pad(jnp.ones_like(types), 1))
    if predictions:
      inputs |= dict(perm_mask=pad(perm, 1, 2), target_mapping=pad(mapping, 2))
    got = run(model, params, pad(tokens(), 1), **inputs).logits
    close(got if predictions else got[:, around[0]:around[0] + LENGTH], want)


def test_packed_documents_do_not_see_each_other():
  model, params = made()
  packed = run(model, params, tokens(1), segment_ids=jnp.asarray([[1] * 4 + [2] * 5])).logits
  close(packed[:, :4], run(model, params, tokens(1)[:, :4]).logits)
  close(packed[:, 4:], run(model, params, tokens(1)[:, 4:]).logits)


@pytest.mark.parametrize("attn_type", ["bi", "uni"])
def test_mems_are_a_longer_context(attn_type):
  """Segments read one after the other equal the whole row, where no token sees a later one."""
  model, params = made(attn_type=attn_type)
  ids = tokens(2, 12)
  seen = lambda part: dict(perm_mask=causal(2, part.shape[1])) if attn_type == "bi" else {}
  want, mems, got = run(model, params, ids, **seen(ids)).logits, None, []
  for part in (ids[:, :5], ids[:, 5:7], ids[:, 7:]):
    output = run(model, params, part, mems=mems, use_mems=True, **seen(part))
    mems, got = output["mems"], [*got, output.logits]
  assert mems.shape == (2, 12, 2, 32)
  close(jnp.concatenate(got, 1), want)


def test_cached_decoding_in_pieces_equals_one_call():
  model, params = made(attn_type="uni")
  ids, got = tokens(2, 12), []
  cache, mask = model.apply(params, 2, 14, method="init_cache"), jnp.asarray([[0, 0, 1, 1, 1]] * 2)
  for part in (jnp.pad(ids[:, :3], ((0, 0), (2, 0))), ids[:, 3:4], ids[:, 4:5], ids[:, 5:]):
    output = run(model, params, part, attention_mask=mask if not got else None, cache=cache)
    cache, got = output.cache, [*got, output.logits]
  close(jnp.concatenate(got, 1)[:, 2:], run(model, params, ids).logits)


def test_a_memory_is_of_the_document_that_goes_on():
  model, params = made(attn_type="uni")
  first, second = tokens(1, 8), tokens(1, 7) % 7 + 1
  rows = (first[:, :5], jnp.concatenate([first[:, 5:], second[:, :4]], 1), second[:, 4:])
  documents = ([1] * 5, [1] * 3 + [2] * 4, [1] * 3)
  cache, got = model.apply(params, 1, 9, method="init_cache"), []
  for row, document in zip(rows, documents):
    output = run(model, params, row, segment_ids=jnp.asarray([document]), cache=cache)
    cache, got = output.cache, [*got, output.logits]
  alone = [run(model, params, text).logits for text in (first, second)]
  close(jnp.concatenate(got, 1), jnp.concatenate(alone, 1))


def test_what_is_kept_of_a_segment_is_what_the_config_says():
  model, params = made(mem_len=4, reuse_len=3)
  first = run(model, params, tokens())
  states = run(model, params, tokens(), output_hidden_states=True).hidden_states
  close(first["mems"][1], jnp.swapaxes(states[1], 0, 1)[:3])
  second = run(model, params, tokens(), mems=first["mems"])["mems"]
  assert second.shape == (2, 4, 2, 32)
  close(second[:, 0], first["mems"][:, 2])
  assert "mems" not in run(model, params, tokens(), use_mems=False).extra
  frozen = jax.grad(lambda p: model.apply(p, tokens())["mems"].sum())(params)
  assert not any(np.asarray(g).any() for g in frozen.values())


def test_same_length_hides_what_is_too_far_back_and_clamped_distances_are_alike():
  model, params = made(attn_type="uni", same_length=True)
  mems = jax.random.normal(jax.random.key(1), (2, 4, 1, 32))
  score = lambda mems: model.apply(params, tokens(1), mems=mems).hidden[0, 2].sum()
  seen = np.abs(jax.jit(jax.grad(score))(mems)).sum((2, 3))
  assert (seen[1, :2] == 0).all() and (seen[1, 2:] > 0).all()
  model, params = made(clamp_len=1)
  ids = tokens(1)
  swapped = ids.at[0, 5].set(ids[0, 7]).at[0, 7].set(ids[0, 5])  # both further than one from token 0
  one = made()[0]
  layer = lambda model, ids: run(model, params, ids, output_hidden_states=True).hidden_states[1][0, 0]
  close(layer(model, swapped), layer(model, ids))
  assert np.abs(layer(one, swapped) - layer(one, ids)).max() > 1e-3


def test_the_second_half_of_bidirectional_data_runs_backwards():
  """Turned rows in the second half give what the first half gives."""
  model, params = made(bi_data=True)
  both = jnp.concatenate([tokens(1), tokens(1)[:, ::-1]])
  hidden = run(model, params, both).hidden
  close(hidden[1, ::-1], hidden[0])
  with pytest.raises(ConfigError, match="bi_data"):
    model.apply(params, tokens(3))


@functools.cache
def loss_and_gradient(**knobs):
  perm, mapping, _, _ = a_permutation()
  mems = jax.random.normal(jax.random.key(1), (2, 5, 2, 32))
  model = build(**knobs)
  loss = lambda p: jnp.square(model.apply(p, tokens(), perm_mask=perm, target_mapping=mapping, mems=mems).logits).mean()
  return jax.jit(jax.value_and_grad(loss))(made()[1])


@pytest.mark.parametrize("knobs", [*(pytest.param(k, marks=pytest.mark.slow)
                                     for k in (dict(scan=False), dict(remat="full"))),
                                   dict(remat="dots", scan=False)],
                         ids=lambda k: "-".join(map(str, k.values())))
def test_scanned_unrolled_and_rematerialised_layers_agree_with_their_gradients(knobs):
  agree(loss_and_gradient(**knobs), loss_and_gradient())


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
  with rules.use(rules.ShardingRules(mesh.make(dict(data=2, fsdp=2, tensor=2)))):
    model, params = made()
    perm, mapping, _, _ = a_permutation(4)
    mems = jnp.tile(jax.random.normal(jax.random.key(1), (2, 5, 2, 32)), (1, 1, 2, 1))
    ids = jnp.tile(tokens(), (2, 1))
    loss = lambda p: jnp.square(model.apply(p, ids, perm_mask=perm, target_mapping=mapping, mems=mems).logits).mean()
    placed = jax.device_put(params, rules.active().for_params(model.logical_axes, model.shapes))
    agree(jax.jit(jax.value_and_grad(loss))(placed), loss_and_gradient())


def test_bfloat16_stays_close_to_float32():
  got = run(build(dtype="bfloat16"), made()[1], tokens()).logits
  assert got.dtype == jnp.bfloat16
  close(got, run(*made(), tokens()).logits, 0.06)


def test_dropout_is_of_the_key():
  model, params = build(dropout=0.3), made()[1]
  perm, mapping, _, _ = a_permutation()
  go = jax.jit(lambda seed: model.apply(params, tokens(), perm_mask=perm, target_mapping=mapping,
                                        key=jax.random.key(seed)).logits)
  np.testing.assert_array_equal(go(0), go(0))
  assert np.abs(go(0) - go(1)).max() > 0.1


def test_the_heads_for_labels_have_the_shapes_of_their_classes():
  for head, shape in (("sequence", (2, 3)), ("token", (2, LENGTH, 3)), ("question", (2, LENGTH)), ("choice", (2, 4))):
    model = xlnet.from_config(XLNetConfig(VOCAB, 32, 2, 2, hidden=40, head=head, labels=3))
    ids = jnp.ones((2, 4, LENGTH), jnp.int32) if head == "choice" else tokens()
    output = jax.eval_shape(model.apply, model.shapes, ids)
    assert (output["start_logits"] if head == "question" else output.logits).shape == shape


@pytest.mark.parametrize("variant, want", [("base", 116_750_336), ("large", 360_300_800)])
def test_published_sizes_are_built_without_memory_in_a_second(variant, want):
  start = time.process_time()
  model = xlnet.build(32_000, 128, variant=variant)
  output = jax.eval_shape(lambda p: model.apply(p, jnp.zeros((1, 16), jnp.int32)), model.shapes)
  assert time.process_time() - start < 5.0  # a second on a machine of its own
  assert output.logits.shape == (1, 16, 32_000)
  assert set(VARIANTS) == {"debug", "base", "large"} and model.size == want


def test_what_does_not_fit_is_refused_by_name():
  for knobs, named in ((dict(heads=3), "heads"), (dict(act="x"), "act"), (dict(remat="split"), "remat"),
                       (dict(variant="huge"), "variant"), (dict(width=33, heads=3), "width")):
    with pytest.raises(ConfigError, match=named):
      build(**knobs)
  with pytest.raises(ConfigError, match="input_mask"):
    made()[0].apply(made()[1], tokens(), attention_mask=tokens(), input_mask=tokens())
