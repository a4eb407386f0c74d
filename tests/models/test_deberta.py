"""Laws of DeBERTa: who sees whom, what positions mean, running the layers, what sharing lets through."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import agree, close, logits, parameters

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.layers.attention import AttentionOptions
from llm_jax.layers.disentangled_attention import DisentangledAttention, buckets_of, table_rows
from llm_jax.layers.dot_product import Visibility
from llm_jax.models import deberta, deberta_pair
from llm_jax.models.deberta_config import DebertaConfig
from llm_jax.parallel import mesh
from llm_jax.parallel.rules import ShardingRules, use

VOCAB, LENGTH = 31, 10
SMALL = dict(vocab_size=VOCAB, positions=24, width=16, heads=2, hidden=24, depth=3)
V2 = SMALL | dict(buckets=6, shared=True, relative_norm=True)
CONFIGS = {
    "v1": DebertaConfig(**SMALL, form="v1"),
    "v2": DebertaConfig(**V2, convolution=3, convolution_act="gelu"),
    "decoder": DebertaConfig(**V2, enhanced_decoder=True),
}
every = pytest.mark.parametrize("name", CONFIGS)


@functools.cache
def made(name, **changes):
  model = deberta.from_config(CONFIGS[name].__class__(**{**vars(CONFIGS[name]), **changes}))
  return model, parameters(model, 0.3)


def tokens(rows=2):
  return jax.random.randint(jax.random.key(0), (rows, LENGTH), 1, VOCAB)


@functools.cache
def expected(name):
  return np.asarray(logits(*made(name), tokens()))


@every
def test_every_position_sees_every_other(name):
  model, params = made(name)
  ids = jnp.arange(1, LENGTH + 1)[None]  # every row of the table is one position

  def score(table):
    return model.apply(params | {"tokens.embedding": table}, ids).hidden[0, 4].sum()
  moved = jnp.abs(jax.jit(jax.grad(score))(params["tokens.embedding"])).sum(-1)[1:LENGTH + 1]
  assert (moved > 0).all()


@every
def test_padding_changes_nothing_at_real_positions(name):
  model, params = made(name)
  after = lambda a, value: jnp.pad(a, ((0, 0), (0, 4)), constant_values=value)
  mask = jnp.ones_like(tokens())
  close(logits(model, params, after(tokens(), 9), attention_mask=after(mask, 0))[:, :LENGTH], expected(name))
  before = lambda a, value: jnp.pad(a, ((0, 0), (4, 0)), constant_values=value)
  positions = before(jnp.broadcast_to(jnp.arange(LENGTH), mask.shape), 0)  # read by the mask decoder alone
  shifted = logits(model, params, before(tokens(), 9), attention_mask=before(mask, 0), position_ids=positions)
  close(shifted[:, 4:], expected(name))


@pytest.mark.parametrize("name", ["v1", "decoder"])  # a convolution reads over the border, as it does within a pair
def test_packed_documents_do_not_see_each_other(name):
  model, params = made(name)
  ids = tokens(1)
  inputs = dict(segment_ids=jnp.asarray([[1] * 4 + [2] * 6]), position_ids=jnp.asarray([[*range(4), *range(6)]]))
  packed = logits(model, params, ids, **inputs)
  close(packed[:, :4], logits(model, params, ids[:, :4]))
  close(packed[:, 4:], logits(model, params, ids[:, 4:]))


def test_absolute_positions_enter_through_the_mask_decoder_alone():
  for name, moves in (("v1", False), ("v2", False), ("decoder", True)):
    model, params = made(name)
    moved = logits(model, params, tokens(), position_ids=jnp.broadcast_to(jnp.arange(LENGTH) + 5, (2, LENGTH)))
    assert (float(np.abs(moved - expected(name)).max()) > 1e-3) == moves


@pytest.mark.parametrize("name, knobs", [
    ("v1", dict(remat="dots")), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("v1", dict(scan=False)), ("v2", dict(scan=False, remat="split")), ("decoder", dict(remat="dots")),
        ("v2", dict(remat="full")), ("decoder", dict(scan=False))))])
def test_scanned_unrolled_and_rematerialised_layers_agree_with_their_gradients(name, knobs):
  agree(loss_and_gradient(name, **knobs), loss_and_gradient(name))


def score_of(model):
  return jax.value_and_grad(lambda p, ids: jnp.square(model.apply(p, ids).logits).mean())


@functools.cache
def loss_and_gradient(name, **knobs):
  return jax.jit(score_of(made(name, **knobs)[0]))(made(name)[1], tokens())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1", "v2", "decoder"])
def test_one_device_and_a_mesh_agree(name):
  model, params = made(name)
  rules = ShardingRules(mesh.make(dict(data=2, fsdp=2, tensor=2)))
  places = rules.for_params(model.logical_axes, model.shapes)
  def step(params, ids):
    with use(rules):
      return score_of(model)(params, ids)
  step = jax.jit(step, in_shardings=(places, rules.sharding(("batch",))), out_shardings=(None, places))
  ids = jnp.concatenate([tokens(), tokens()])
  agree(step(jax.device_put(params, places), ids), loss_and_gradient(name))


@pytest.mark.parametrize("terms", [("c2p",), ("p2c",), ("c2p", "p2c")])
def test_scores_are_those_of_the_paper_pair_by_pair(terms):
  L, D, H, rows = 7, 12, 3, 4
  model = Model.from_module(lambda rngs: DisentangledAttention(
      rngs, D, H, terms=terms, relative=True, shared=False, key_bias=True, options=AttentionOptions()))
  params = parameters(model, 0.3)
  draw = np.random.default_rng(1)
  x, table = draw.normal(size=(2, L, D)).astype(np.float32), draw.normal(size=(2 * rows, D)).astype(np.float32)
  where = table_rows(L, rows, -1, rows)

  attention = model.bind(params)
  q, k, v = attention.project(x, x)
  positions = attention.positions(table, where)
  got = attention.attend(q, k, v, positions, Visibility(causal=False))
  q, k, v = map(np.asarray, (q, k, v))
  scores = np.einsum("blhk,bmhk->bhlm", q, k)
  for i in range(L):
    for j in range(L):
      row = min(max(i - j + rows, 0), 2 * rows - 1)
      for term, content, part in (("c2p", q[:, i], "position_key"), ("p2c", k[:, j], "position_query")):
        if term in terms:
          vector = np.einsum("d,dhk->hk", table[row], params[f"{part}.kernel"]) + params[f"{part}.bias"]
          scores[:, :, i, j] += np.einsum("bhk,hk->bh", content, vector)
  weights = jax.nn.softmax(scores / np.sqrt(D // H * (1 + len(terms))), axis=-1)
  close(got, np.einsum("bhlm,bmhk->blhk", weights, v))


def test_log_buckets_are_exact_near_by_and_symmetric_and_end_at_the_longest_distance():
  distances = np.arange(-511, 512)
  found = buckets_of(distances, 256, 512)
  assert (found[np.abs(distances) <= 128] == distances[np.abs(distances) <= 128]).all()
  assert (found == -found[::-1]).all() and (np.diff(found) >= 0).all() and found.max() == 255
  want = [np.ceil(np.log(d / 128) / np.log(511 / 128) * 127) + 128 for d in range(129, 511)]
  assert (found[512 + 128:-1] == want).all()


PAIR = dict(variant="debug", width=16, heads=2, hidden=24, depth=2, positions=24)


@functools.cache
def pair(sharing):
  model = deberta_pair.build(VOCAB, LENGTH, sharing=sharing, **PAIR)
  return model, parameters(model, 0.3)


def detection(model):
  def loss(params):
    scores = model.apply(params, input_ids=tokens(), method="discriminator").scores
    return jax.nn.softplus(scores).mean()
  return jax.jit(jax.grad(loss))


@pytest.mark.parametrize("sharing, moves", [("gdes", False), ("shared", True), ("apart", False)])
def test_detection_moves_the_generators_table_only_where_it_is_one_table(sharing, moves):
  model, params = pair(sharing)
  grads = detection(model)(params)
  assert bool((np.abs(grads["masked.tokens.embedding"]) > 0).any()) == moves
  assert not any(np.abs(g).any() for n, g in grads.items() if n.startswith("masked.") and "tokens" not in n)
  assert ("replaced.tokens.embedding" in grads) == (sharing != "shared")
  if sharing != "shared":
    assert np.abs(grads["replaced.tokens.embedding"]).sum() > 0


@pytest.mark.parametrize("sharing", ["gdes", "shared", "apart"])
def test_each_half_alone_is_what_the_pair_computes(sharing):
  model, params = pair(sharing)
  apart = deberta_pair.halves(model, params)
  for name, (half, own) in apart.items():
    assert own.keys() == half.shapes.keys()
    close(half.apply(own, tokens()).logits, model.apply(params, tokens(), method=name).logits)


def test_the_discriminators_own_table_starts_at_zero():
  params = jax.jit(deberta_pair.build(VOCAB, LENGTH, **PAIR).init)(jax.random.key(0))
  assert not np.asarray(params["replaced.tokens.embedding"]).any()
  assert np.asarray(params["masked.tokens.embedding"]).std() > 0.01


# Parameters of the released encoders, in millions: He et al. 2021 and 2023, and the model cards.
SIZES = {"base": (50_265, 138.6), "large": (50_265, 405), "v2-xlarge": (128_100, 885), "v2-xxlarge": (128_100, 1566),
         "v3-xsmall": (128_100, 70.7), "v3-small": (128_100, 141), "v3-base": (128_100, 184),
         "v3-large": (128_100, 434)}


@pytest.mark.parametrize("variant", SIZES)
def test_published_sizes_have_their_published_numbers_of_parameters(variant):
  vocab_size, millions = SIZES[variant]
  model = deberta.build(vocab_size, 128, variant=variant, head="none")
  assert abs(model.size / 1e6 / millions - 1) < 0.01
  output = jax.eval_shape(lambda p: model.apply(p, jnp.zeros((1, 16), jnp.int32)), model.shapes)
  assert output.hidden.shape == (1, 16, model.config.width)


@pytest.mark.parametrize("key, changes", [
    ("heads", dict(heads=3)), ("terms", dict(terms=("c2p", "p2p"))), ("convolution", dict(convolution=4)),
    ("enhanced_decoder", dict(enhanced_decoder=True, biased_input=True)), ("embed_width", dict(embed_width=8)),
    ("buckets", dict(buckets=1)), ("remat", dict(remat="all")), ("act", dict(act="gelux"))])
def test_configs_that_cannot_be_are_refused(key, changes):
  with pytest.raises(ConfigError, match=f"config.model.{key}"):
    deberta.from_config(DebertaConfig(**SMALL | changes))
