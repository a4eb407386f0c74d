"""Laws of the bidirectional encoders: both sides are seen, padding, packing, running the layers, precision, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import agree, close, logits, parameters

from llm_jax.core.errors import ConfigError
from llm_jax.inference.generate import Generator
from llm_jax.models import bert, distilled, electra, ernie
from llm_jax.parallel import mesh as device_mesh
from llm_jax.parallel.rules import ShardingRules, use

VOCAB, LENGTH = 29, 12
SMALL = dict(width=32, heads=2, hidden=48, attention="xla")
BUILDS = {"bert": (bert, dict()), "roberta": (bert, dict(variant="debug-roberta")),
          "distilbert": (bert, dict(variant="debug-distilbert")), "ernie": (ernie, dict()),
          "electra": (electra, dict(head="lm", embed_width=24))}
every = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in ("distilbert", "ernie") else ())
                                         for n in BUILDS])  # they are the others, and less or one table more


def build(name, **knobs):
  module, its = BUILDS[name]
  return module.build(VOCAB, LENGTH, **dict(variant="debug") | SMALL | its | knobs)


@functools.cache
def made(name, **knobs):
  """A model and parameters large enough that attention is not flat."""
  model = build(name, **knobs)
  return model, parameters(model, 0.2)


def tokens():
  return jax.random.randint(jax.random.key(0), (2, LENGTH), 2, VOCAB)


@functools.cache
def expected(name):
  return np.asarray(logits(*made(name), tokens()))


@every
def test_every_token_is_seen_from_every_place(name):
  model, params = made(name)
  ids = jnp.arange(2, LENGTH + 2)[None]  # every row of the table is one position

  def score(table, place):
    return model.apply(params | {"embeddings.tokens.embedding": table}, ids).hidden[0, place].sum()
  gradient = jax.jit(jax.grad(score))
  for place in (0, 6, LENGTH - 1):
    moved = jnp.abs(gradient(params["embeddings.tokens.embedding"], place)).sum(-1)
    assert (moved[2:LENGTH + 2] > 0).all() and (moved[LENGTH + 2:] == 0).all()


@every
def test_padding_on_either_side_changes_nothing(name):
  model, params = made(name)
  ids, want = tokens(), expected(name)
  mask = jnp.ones_like(ids)
  after = lambda a, value: jnp.pad(a, ((0, 0), (0, 4)), constant_values=value)
  close(logits(model, params, after(ids, 1), attention_mask=after(mask, 0))[:, :LENGTH], want)
  before = lambda a, value: jnp.pad(a, ((0, 0), (4, 0)), constant_values=value)
  positions = before(jnp.broadcast_to(jnp.arange(LENGTH), ids.shape), 0)
  close(logits(model, params, before(ids, 1), attention_mask=before(mask, 0), position_ids=positions)[:, 4:], want)


@every
def test_packed_documents_do_not_see_each_other(name):
  model, params = made(name)
  ids = tokens()[:1]
  segments = jnp.asarray([[1] * 5 + [2] * 4 + [0] * 3])
  positions = jnp.asarray([[*range(5), *range(4), 0, 0, 0]])
  packed = logits(model, params, ids, segment_ids=segments, position_ids=positions)
  close(packed[:, :5], logits(model, params, ids[:, :5]))
  close(packed[:, 5:9], logits(model, params, ids[:, 5:9]))
  masked = logits(model, params, ids, segment_ids=segments, position_ids=positions,
                  attention_mask=(segments > 0).astype(jnp.int32))
  close(masked[:, :9], packed[:, :9])


def test_roberta_counts_positions_of_real_tokens_from_after_its_padding_token():
  model, params = made("roberta")
  ids = tokens().at[:, :3].set(1)
  mask = (ids != 1).astype(jnp.int32)
  positions = jnp.maximum(jnp.cumsum(mask, -1) - 1, 0)
  close(logits(model, params, ids, attention_mask=mask)[:, 3:],
        logits(model, params, ids, attention_mask=mask, position_ids=positions)[:, 3:])
  read = jax.grad(lambda table: model.apply(params | {"embeddings.positions.embedding": table}, tokens()).hidden.sum())
  rows = jnp.abs(read(params["embeddings.positions.embedding"])).sum(-1)
  assert (rows[2:2 + LENGTH] > 0).all() and (rows[:2] == 0).all()


@pytest.mark.parametrize("knobs", [*(pytest.param(k, marks=pytest.mark.slow)
                                     for k in (dict(scan=False), dict(remat="full"))),
                                   dict(remat="split", scan=False), dict(remat="dots")], ids=str)
def test_scanned_unrolled_and_rematerialised_layers_agree_with_their_gradients(knobs):
  agree(loss_and_gradient("bert", **knobs), loss_and_gradient("bert"))


@functools.cache
def loss_and_gradient(name, **knobs):
  model = build(name, **knobs)
  return jax.jit(jax.value_and_grad(lambda p: jnp.square(model.apply(p, tokens()).logits).mean()))(made(name)[1])


def test_one_device_equals_eight():
  model, params = made("bert", head="pretraining")

  def loss(params):
    output = model.apply(params, jnp.tile(tokens(), (2, 1)))
    return jnp.square(output.logits).mean() + output["seq_relationship_logits"].sum()
  want = jax.jit(jax.value_and_grad(loss))(params)
  rules = ShardingRules(device_mesh.make(dict(data=2, fsdp=2, tensor=2)))
  shardings = rules.for_params(model.logical_axes, model.shapes)
  with use(rules):
    got = jax.jit(jax.value_and_grad(loss))({n: jax.device_put(p, shardings[n]) for n, p in params.items()})
  agree(got, want, 2e-4)


@every
def test_bfloat16_stays_close_to_float32_with_finite_gradients(name):
  model, params = build(name, dtype="bfloat16"), made(name)[1]

  def loss(params):
    scores = model.apply(params, tokens()).logits
    return jnp.square(scores.astype(jnp.float32)).mean(), scores
  (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  assert got.dtype == jnp.bfloat16
  close(got, expected(name), 0.05)
  assert all(bool(jnp.isfinite(g).all()) for g in grads.values())


@pytest.mark.parametrize("head, shape", [
    ("sequence", (2, 3)), ("token", (2, LENGTH, 3)), ("next_sentence", (2, 2)), ("replaced", (2, LENGTH))])
def test_heads_score_what_they_say_and_dropout_acts_in_them(head, shape):
  model, params = made("roberta", head=head, labels=3, dropout=0.3)
  output = model.apply(params, tokens())
  assert output.logits.shape == shape
  dropped = [model.apply(params, tokens(), key=jax.random.key(i)).logits for i in (1, 1, 2)]
  np.testing.assert_array_equal(dropped[0], dropped[1])
  assert not np.allclose(dropped[0], dropped[2]) and not np.allclose(dropped[0], output.logits)


def test_a_choice_is_scored_as_it_would_be_alone():
  model, params = made("bert", head="choice")
  ids = tokens().reshape(1, 2, LENGTH)
  mask = jnp.ones_like(ids).at[0, 1, 9:].set(0)
  both = model.apply(params, ids, attention_mask=mask).logits
  assert both.shape == (1, 2)
  close(both[:, 1:], model.apply(params, ids[:, 1:, :9]).logits)


def test_ernie_adds_the_task_and_electra_projects_its_narrow_embedding():
  model, params = made("ernie")
  tasks = jnp.full_like(tokens(), 2)
  table = "embeddings.task_types.embedding"
  moved = params | {table: params[table] + np.array([[1.0], [0.0], [0.0]], np.float32)}
  assert not np.allclose(logits(model, params, tokens(), task_type_ids=tasks), expected("ernie"))
  np.testing.assert_array_equal(logits(model, moved, tokens(), task_type_ids=tasks),
                                logits(model, params, tokens(), task_type_ids=tasks))
  shapes = made("electra")[0].shapes
  assert shapes["embeddings.tokens.embedding"].shape == (VOCAB, 24)
  assert shapes["encoder.project.kernel"].shape == (24, 32) and shapes["head.dense.kernel"].shape == (32, 24)


@pytest.mark.parametrize("module, variant", [(m, v) for m in (bert, ernie) for v in m.VARIANTS])
def test_every_published_size_is_built_without_memory(module, variant):
  model = module.build(32_000, 128, variant=variant)
  output = jax.eval_shape(lambda p: model.apply(p, jnp.zeros((1, 16), jnp.int32)), model.shapes)
  assert output.logits.shape == (1, 16, 32_000)


@pytest.mark.parametrize("variant, vocab, head, want", [
    ("base", 30_522, "none", 109_482_240), ("large", 30_522, "none", 335_141_888), ("tiny", 30_522, "none", 4_385_920),
    ("roberta-base", 50_265, "none", 124_645_632), ("roberta-large", 50_265, "none", 355_359_744),
    ("distilbert", 30_522, "none", 66_362_880), ("base", 30_522, "pretraining", 110_106_428)])
def test_published_parameter_counts(variant, vocab, head, want):
  assert bert.build(vocab, 128, variant=variant, head=head).size == want


def test_an_encoder_is_not_asked_to_continue_a_text():
  with pytest.raises(ConfigError, match="continues no text"):
    Generator(*made("bert"))


def test_sizes_that_do_not_fit_are_refused_by_name():
  for knobs, named in ((dict(heads=5), "heads"), (dict(act="x"), "act"), (dict(variant="bertha"), "variant"),
                       (dict(positions=8), "positions"), (dict(variant="debug-roberta", positions=13), "positions")):
    with pytest.raises(ConfigError, match=named):
      bert.build(VOCAB, LENGTH, **dict(variant="debug") | knobs)


def test_a_student_of_all_layers_is_its_teacher_and_takes_every_second_by_default():
  teacher, params = made("bert", head="pretraining", depth=4)
  ids, mask = tokens(), jnp.ones_like(tokens()).at[:, 9:].set(0)
  same, same_params = distilled.student(teacher, params, layers=range(4))
  want = teacher.apply(params, ids, attention_mask=mask).logits
  close(same.apply(same_params, ids, attention_mask=mask).logits, want)
  half, half_params = distilled.student(teacher, params)
  assert half.config.depth == 2 and half.config.family == "distilbert" and not half.config.token_types
  kernel = "encoder.blocks.attention.query.kernel"
  np.testing.assert_array_equal(half_params[kernel], params[kernel][::2])
  for wrong in (dict(layers=[4]), dict(layers=[])):
    with pytest.raises(ConfigError, match="layers"):
      distilled.student(teacher, params, **wrong)
  with pytest.raises(ConfigError, match="student"):
    distilled.student(*made("roberta"))
