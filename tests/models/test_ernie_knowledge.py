"""Laws of ERNIE with knowledge: who sees whom, what an entity moves, running the layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import agree, close, parameters

from llm_jax.core.errors import ConfigError
from llm_jax.models import ernie_knowledge
from llm_jax.models.ernie_knowledge_config import ErnieKnowledgeConfig
from llm_jax.parallel import mesh
from llm_jax.parallel.rules import ShardingRules, use

VOCAB, LENGTH, SLOTS, WIDTH = 31, 10, 4, 8
SMALL = dict(vocab_size=VOCAB, positions=24, width=16, heads=2, hidden=24, entity_width=WIDTH, entity_heads=2,
             layers=("sim", "sim", "mix", "norm", "sim"))


@functools.cache
def made(**changes):
  """Parameters large enough that attention is not flat."""
  model = ernie_knowledge.from_config(ErnieKnowledgeConfig(**SMALL | changes))
  return model, parameters(model, 0.3)


def inputs(rows=2):
  draw = np.random.default_rng(1)
  alignment = np.full((rows, LENGTH), -1)
  alignment[:, 1], alignment[:, 4], alignment[:, 7] = 0, 2, 1
  mask = np.array([[1, 1, 1, 0]] * rows)
  return dict(input_ids=jnp.asarray(draw.integers(1, VOCAB, (rows, LENGTH))), entity_mask=jnp.asarray(mask),
              entity_vectors=jnp.asarray(draw.normal(size=(rows, SLOTS, WIDTH)), jnp.float32),
              entity_alignment=jnp.asarray(alignment))


def outputs(model, params, **given):
  def found(params):
    output = model.apply(params, **given)
    return {"logits": output.logits, "entity_logits": output["entity_logits"], "hidden": output.hidden}
  return jax.device_get(jax.jit(found)(params))


@functools.cache
def expected():
  return outputs(*made(), **inputs())


def test_every_token_sees_every_token_and_every_entity_that_a_token_names():
  model, params = made()
  given = inputs(1) | dict(input_ids=jnp.arange(1, LENGTH + 1)[None])  # every row of the table is one position

  def score(table, vectors):
    changed = given | dict(entity_vectors=vectors)
    return model.apply(params | {"tokens.embedding": table}, **changed).hidden[0, 5].sum()
  table, vectors = jax.jit(jax.grad(score, (0, 1)))(params["tokens.embedding"], given["entity_vectors"])
  assert (np.abs(table).sum(-1)[1:LENGTH + 1] > 0).all()
  assert (np.abs(vectors[0]).sum(-1) > 0).tolist() == [True, True, True, False]


def test_padding_changes_nothing_at_real_positions():
  given = inputs()
  after = lambda a, value: jnp.pad(a, ((0, 0), (0, 3)), constant_values=value)
  mask = after(jnp.ones((2, LENGTH), jnp.int32), 0)
  padded = given | dict(input_ids=after(given["input_ids"], 9), entity_alignment=after(given["entity_alignment"], -1))
  found = outputs(*made(), **padded, attention_mask=mask)
  for name, want in expected().items():
    close(found[name][:, :LENGTH], want)


def test_packed_documents_share_neither_tokens_nor_entities():
  given = inputs(1)
  segments, positions = jnp.asarray([[1] * 6 + [2] * 4]), jnp.asarray([[*range(6), *range(4)]])
  packed = outputs(*made(), **given, segment_ids=segments, position_ids=positions)
  for part in (slice(0, 6), slice(6, None)):
    alone = given | {n: given[n][:, part] for n in ("input_ids", "entity_alignment")}
    for name, want in outputs(*made(), **alone).items():
      close(packed[name][:, part], want)


def test_an_empty_slot_is_never_chosen_and_text_without_entities_has_none():
  assert (expected()["entity_logits"].argmax(-1) < 3).all()
  model, params = made()
  ids = inputs()["input_ids"]
  without = outputs(model, params, input_ids=ids)
  unaligned = outputs(model, params, **inputs() | dict(entity_alignment=jnp.full((2, LENGTH), -1)))
  close(without["logits"], unaligned["logits"])
  assert np.abs(without["logits"] - expected()["logits"]).max() > 0.1


def test_the_candidates_of_a_call_take_the_place_of_the_rows_entities():
  model, params = made()
  given = inputs()
  shared = given | dict(entity_vectors=jnp.broadcast_to(given["entity_vectors"][:1], (2, SLOTS, WIDTH)))
  found = outputs(model, params, **shared, candidates=shared["entity_vectors"][0])
  close(found["entity_logits"][..., :3], outputs(model, params, **shared)["entity_logits"][..., :3])


@functools.cache
def loss_and_gradient(**knobs):
  def loss(params):
    output = made(**knobs)[0].apply(params, **inputs())
    return jnp.square(output.logits).mean() + jnp.square(output["entity_logits"][..., :3]).mean()
  return jax.jit(jax.value_and_grad(loss))(made()[1])


same = functools.partial(agree, floor=1e-6)  # the gradient of a key's bias is 0, but for rounding


@pytest.mark.slow
@pytest.mark.parametrize("knobs", [dict(remat="full"), dict(scan=False), dict(scan=False, remat="dots")])
def test_scanned_unrolled_and_rematerialised_layers_agree_with_their_gradients(knobs):
  same(loss_and_gradient(**knobs), loss_and_gradient())


@pytest.mark.slow
def test_one_device_and_a_mesh_agree():
  model, params = made()
  rules = ShardingRules(mesh.make(dict(data=2, fsdp=2, tensor=2)))
  places, rows = rules.for_params(model.logical_axes, model.shapes), rules.sharding(("batch",))
  given = {n: jnp.concatenate([a, a]) for n, a in inputs().items()}
  def step(params, given):
    with use(rules):
      def loss(params):
        output = model.apply(params, **given)
        return jnp.square(output.logits).mean() + jnp.square(output["entity_logits"][..., :3]).mean()
      return jax.value_and_grad(loss)(params)
  step = jax.jit(step, in_shardings=(places, rows), out_shardings=(None, places))
  same(step(jax.device_put(params, places), jax.device_put(given, rows)), loss_and_gradient())


@pytest.mark.parametrize("key, changes", [
    ("heads", dict(heads=3)), ("entity_heads", dict(entity_heads=3)), ("layers", dict(layers=("sim", "mixed"))),
    ("remat", dict(remat="all")), ("act", dict(act="gelux"))])
def test_configs_that_cannot_be_are_refused(key, changes):
  with pytest.raises(ConfigError, match=f"config.model.{key}"):
    ernie_knowledge.from_config(ErnieKnowledgeConfig(**SMALL | changes))


def test_vectors_of_another_width_than_the_models_are_refused():
  model, params = made()
  with pytest.raises(ConfigError, match=r"config.model.entity_width: 8, but the data's entities have vectors of 5"):
    model.apply(params, **inputs() | dict(entity_vectors=jnp.zeros((2, SLOTS, 5))))


def test_the_published_size_is_built_without_memory():
  model = ernie_knowledge.build(30_522, 256)
  assert 113e6 < model.size < 116e6  # BERT base and its head, and 0.7M for each layer that mixes
  output = jax.eval_shape(lambda p: model.apply(p, jnp.zeros((1, 16), jnp.int32)), model.shapes)
  assert output.logits.shape == (1, 16, 30_522)
