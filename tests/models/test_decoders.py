"""Laws of the decoders: what a token may see, padding, packing, running the layers, cached decoding, precision."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import agree, close, logits, parameters

from llm_jax.core.errors import ConfigError
from llm_jax.models import decoder, gpt

VOCAB, LENGTH = 29, 12
SMALL = dict(width=32, heads=2, attention="xla")
BUILDS = {
    "gpt2": dict(variant="debug"), "gpt1": dict(variant="debug", norms="post"), "gpt3": dict(variant="debug", band=3),
    **{v: dict(variant=v, hidden=48, head_width=8, kv_heads=1) for v in decoder.VARIANTS if v.startswith("debug")},
}
for windowed in ("debug-mistral", "debug-gemma2", "debug-gemma3"):
  BUILDS[windowed]["window"] = 3
# What these add to the others is in the reference cases.
ALSO = ("debug-qwen2", "debug-qwen3", "debug-gemma", "debug-gemma2", "debug-mixtral")
every = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ALSO else n for n in BUILDS])
SOME = ("gpt2", "gpt3", "debug", "debug-gemma3")
some = pytest.mark.parametrize("name", SOME)


def build(name, **knobs):
  module = gpt if name.startswith("gpt") else decoder
  return module.build(VOCAB, LENGTH, **SMALL | BUILDS[name] | knobs)


@functools.cache
def made(name):
  """A model and parameters large enough that attention is not flat."""
  model = build(name)
  return model, parameters(model, 0.2)


def tokens():
  return jax.random.randint(jax.random.key(0), (2, LENGTH), 1, VOCAB)


@functools.cache
def expected(name):
  return np.asarray(logits(*made(name), tokens()))


@every
def test_no_gradient_flows_from_later_tokens(name):
  model, params = made(name)
  ids = jnp.arange(1, LENGTH + 1)[None]  # every row of the table is one position

  def score(table):
    return model.apply(params | {"tokens.embedding": table}, ids).hidden[0, 6].sum()
  moved = jnp.abs(jax.jit(jax.grad(score))(params["tokens.embedding"])).sum(-1)[1:LENGTH + 1]
  assert (moved[7:] == 0).all() and (moved[5:7] > 0).all()


@pytest.mark.parametrize("name", ["gpt2", *(pytest.param(n, marks=pytest.mark.slow) for n in SOME[1:])])
def test_tokens_of_a_prefix_see_each_other_and_no_later_one(name):
  model, params = made(name)
  ids, prefix = jnp.arange(1, LENGTH + 1)[None], jnp.array([5])

  def score(table, at):
    return model.apply(params | {"tokens.embedding": table}, ids, prefix_length=prefix).hidden[0, at].sum()
  moved = lambda at: np.asarray(jnp.abs(jax.jit(jax.grad(score), static_argnums=1)(params["tokens.embedding"], at))
                                .sum(-1)[1:LENGTH + 1] > 0)
  early, late = moved(1), moved(7)
  assert early[:5].all() and not early[5:].any()  # the second token sees all five
  assert not late[8:].any() and late[7]
  one = logits(model, params, tokens(), prefix_length=jnp.array([1, 1]))
  close(one, expected(name))  # a prefix of one token is causal attention
  rows = jnp.concatenate([tokens()[:, :6], tokens()[:, :6]], axis=1)
  packed = logits(model, params, rows, prefix_length=jnp.array([4, 4]), segment_ids=jnp.arange(12)[None] // 6 + 1
                  + jnp.zeros((2, 1), int), position_ids=jnp.arange(12)[None] % 6 + jnp.zeros((2, 1), int))
  alone = logits(model, params, tokens()[:, :6], prefix_length=jnp.array([4, 4]))
  close(packed[:, :6], alone)  # nor does a prefix reach into another document


@every
def test_padding_on_either_side_changes_nothing(name):
  model, params = made(name)
  ids, want = tokens(), expected(name)
  mask = jnp.ones_like(ids)
  after = lambda a, value: jnp.pad(a, ((0, 0), (0, 4)), constant_values=value)
  close(logits(model, params, after(ids, 9), attention_mask=after(mask, 0))[:, :LENGTH], want)
  before = lambda a, value: jnp.pad(a, ((0, 0), (4, 0)), constant_values=value)
  positions = before(jnp.broadcast_to(jnp.arange(LENGTH), ids.shape), 0)
  close(logits(model, params, before(ids, 9), attention_mask=before(mask, 0), position_ids=positions)[:, 4:], want)


@every
def test_packed_documents_do_not_see_each_other(name):
  model, params = made(name)
  ids = tokens()[:1]
  segments = jnp.asarray([[1] * 5 + [2] * 7])
  positions = jnp.asarray([[*range(5), *range(7)]])
  packed = logits(model, params, ids, segment_ids=segments, position_ids=positions)
  close(packed[:, :5], logits(model, params, ids[:, :5]))
  close(packed[:, 5:], logits(model, params, ids[:, 5:]))


@pytest.mark.parametrize("name, knobs", [
    ("gpt3", dict(scan=False)), ("gpt3", dict(remat="full")), ("gpt3", dict(remat="split", scan=False)),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("gpt3", dict(remat="split_wide")), ("debug-gemma3", dict(remat="split_wide")),
        ("debug-qwen3-moe", dict(remat="split")),
        ("debug-gemma3", dict(remat="dots")), ("debug-gemma3", dict(remat="split")),
        ("debug-qwen3-moe", dict(scan=False))))])
def test_scanned_unrolled_and_rematerialised_layers_agree_with_their_gradients(name, knobs):
  agree(loss_and_gradient(name, **knobs), loss_and_gradient(name))


@functools.cache
def loss_and_gradient(name, **knobs):
  model = build(name, **knobs)
  return jax.jit(jax.value_and_grad(lambda p: jnp.square(model.apply(p, tokens()).logits).mean()))(made(name)[1])


@every
def test_cached_decoding_in_pieces_equals_one_call(name):
  model, params = made(name)
  ids, want = tokens(), expected(name)
  cache = model.apply(params, 2, LENGTH, method="init_cache")
  step = jax.jit(lambda p, ids, cache: (lambda o: (o.logits, o.cache))(model.apply(p, ids, cache=cache)))
  start = 0
  for size in (5, 1, 1, 5):
    part, cache = step(params, ids[:, start:start + size], cache)
    close(part, want[:, start:start + size])
    start += size


@some
def test_prompts_padded_on_the_left_decode_as_they_would_alone(name):
  model, params = made(name)
  ids, want = tokens()[:1], expected(name)[:1]
  cache = model.apply(params, 1, LENGTH + 3, method="init_cache")
  padded = jnp.pad(ids[:, :8], ((0, 0), (3, 0)))
  mask = (jnp.arange(11) >= 3)[None].astype(jnp.int32)
  step = jax.jit(lambda *a, **k: model.apply(*a, **k))
  first = step(params, padded, attention_mask=mask, cache=cache)
  close(first.logits[:, 3:], want[:, :8])
  close(step(params, ids[:, 8:9], cache=first.cache).logits, want[:, 8:9])


@some
def test_bfloat16_stays_close_to_float32(name):
  want, got = expected(name), logits(build(name, dtype="bfloat16"), made(name)[1], tokens())
  assert got.dtype == jnp.bfloat16
  close(got, want, 0.05)


@pytest.mark.parametrize("module, variant", [(gpt, v) for v in gpt.VARIANTS] + [(decoder, v) for v in decoder.VARIANTS])
def test_every_published_size_is_built_without_memory_in_a_second(module, variant):
  start = time.process_time()
  model = module.build(32_000, 128, variant=variant)
  output = jax.eval_shape(lambda p: model.apply(p, jnp.zeros((1, 16), jnp.int32)), model.shapes)
  assert time.process_time() - start < 5.0  # a second on a machine of its own
  assert output.logits.shape == (1, 16, 32_000)


@pytest.mark.parametrize("module, variant, vocab, want", [
    (gpt, "124m", 50_257, 124_439_808), (gpt, "1.5b", 50_257, 1_557_611_200),
    (decoder, "llama2-7b", 32_000, 6_738_415_616),
    (decoder, "llama3-8b", 128_256, 8_030_261_248), (decoder, "llama3.2-1b", 128_256, 1_235_814_400),
    (decoder, "mistral-7b", 32_000, 7_241_732_096), (decoder, "qwen2-0.5b", 151_936, 494_032_768),
    (decoder, "mixtral-8x7b", 32_000, 46_702_792_704), (decoder, "qwen3-30b-a3b", 151_936, 30_532_122_624),
    (decoder, "qwen3-0.6b", 151_936, 596_049_920), (decoder, "gemma-2b", 256_000, 2_506_172_416),
    (decoder, "gemma2-2b", 256_000, 2_614_341_888), (decoder, "gemma3-1b", 262_144, 999_885_952),
])
def test_published_parameter_counts(module, variant, vocab, want):
  assert module.build(vocab, 128, variant=variant).size == want


def test_sizes_that_do_not_fit_are_refused_by_name():
  for knobs, named in ((dict(kv_heads=3), "kv_heads"), (dict(head_width=7), "head_width"), (dict(act="x"), "act"),
                       (dict(variant="llama9"), "variant"), (dict(remat="half"), "remat"),
                       (dict(experts=2, experts_per_token=3), "experts_per_token"),
                       (dict(variant="debug-mixtral", capacity=0.0), "capacity")):
    with pytest.raises(ConfigError, match=named):
      decoder.build(VOCAB, LENGTH, **dict(variant="debug") | knobs)
  with pytest.raises(ConfigError, match="heads"):
    gpt.build(VOCAB, LENGTH, variant="debug", heads=5)
