"""Every implementation behind the attention door computes what 'xla' does, or says why it cannot serve the call."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.derivatives import plain_layers
from llm_jax.core.errors import ConfigError
from llm_jax.layers import attention_blocked, attention_splash
from llm_jax.layers.attention_call import AttentionCall
from llm_jax.layers.dot_product import Visibility, attend
from llm_jax.parallel import mesh, rules

B = 2


def tensors(L, H, G, K=16, dtype="float32"):
  keys = jax.random.split(jax.random.key(0), 4)
  return tuple(jax.random.normal(key, (B, L, heads, K)).astype(dtype) for key, heads in zip(keys, (H, G, G, H)))


def packed(L):
  ids = jnp.sort(jax.random.randint(jax.random.key(5), (B, L), 0, 4), -1)
  return ids, ids


def outputs_and_gradients(function, tensors):
  q, k, v, do = tensors
  y, back = jax.vjp(function, q, k, v)
  return y, *back(do)


def same(function, reference, tensors, tolerance):
  got = jax.jit(lambda t: outputs_and_gradients(function, t))(tensors)
  want = jax.jit(lambda t: outputs_and_gradients(reference, t))(tensors)
  for a, b in zip(got, want, strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance)


CASES = [  # length, heads, key heads, visibility, packed, soft cap
    (130, 4, 4, Visibility(), False, None),
    (130, 4, 2, Visibility(), True, None),
    (200, 4, 1, Visibility(window=30), True, 5.0),
    (200, 2, 2, Visibility(window=70), False, None),
    (200, 2, 1, Visibility(causal=False, window=70), True, None),
    (96, 2, 2, Visibility(causal=False), False, None),
    (40, 2, 2, Visibility(), False, None),
]


@pytest.mark.parametrize("L, H, G, visibility, pack, cap", CASES)
def test_blocked_equals_xla(L, H, G, visibility, pack, cap):
  visibility = dataclasses.replace(visibility, segments=packed(L)) if pack else visibility
  run = lambda name: lambda q, k, v: attend(q, k, v, visibility, scale=0.3, soft_cap=cap, implementation=name)
  same(run("blocked"), run("xla"), tensors(L, H, G), 2e-5)


def test_blocked_equals_xla_in_bfloat16():
  visibility = Visibility(segments=packed(130))
  run = lambda name: lambda q, k, v: attend(q, k, v, visibility, implementation=name)
  same(run("blocked"), run("xla"), tensors(130, 4, 2, dtype="bfloat16"), 3e-2)


@pytest.mark.parametrize("rows, threads", [(1, 4), (3, 2), (5, 3)])
def test_blocked_cuts_any_batch_among_any_threads(monkeypatch, rows, threads):
  monkeypatch.setattr(attention_blocked, "threads", lambda: threads)
  keys = jax.random.split(jax.random.key(2), 4)
  x = [jax.random.normal(key, (rows, 70, heads, 8)) for key, heads in zip(keys, (2, 1, 1, 2), strict=True)]
  ids = jnp.sort(jax.random.randint(jax.random.key(5), (rows, 70), 0, 3), -1)
  run = lambda name: lambda q, k, v: attend(q, k, v, Visibility(segments=(ids, ids)), implementation=name)
  same(run("blocked"), run("xla"), [a.astype("bfloat16") for a in x], 3e-2)


def test_blocked_under_scan_remat_and_vmap():
  def chained(name):
    layer = lambda x, _: (x + attend(x, x, x, Visibility(), implementation=name), None)
    return lambda x: jax.lax.scan(jax.checkpoint(layer), x, None, length=2)[0]
  x = jax.random.normal(jax.random.key(1), (3, B, 70, 2, 8))  # three independent inputs
  gradient = lambda name: jax.jit(jax.vmap(jax.grad(lambda x: jnp.square(chained(name)(x)).sum())))(x)
  np.testing.assert_allclose(gradient("blocked"), gradient("xla"), rtol=2e-4, atol=2e-4)


def test_blocked_can_be_differentiated_twice():
  x = jax.random.normal(jax.random.key(1), (B, 70, 2, 8))
  def penalty(name):
    inner = jax.grad(lambda x: jnp.square(attend(x, x, x, Visibility(), implementation=name)).sum())
    return jax.jit(jax.grad(lambda x: jnp.square(inner(x)).sum()))(x)
  np.testing.assert_allclose(penalty("blocked"), penalty("xla"), rtol=1e-3, atol=1e-3)


def test_blocked_skips_what_no_query_sees():
  """Half of the products for causal attention, and linear in the length under a window."""
  def flops(name, L, visibility):
    q, k, v, _ = tensors(L, 1, 1)
    run = jax.jit(lambda q, k, v: attend(q, k, v, visibility, implementation=name))
    return run.lower(q, k, v).compile().cost_analysis()["flops"]
  assert flops("blocked", 1024, Visibility()) < 0.65 * flops("xla", 1024, Visibility())
  local = Visibility(window=64)
  assert flops("blocked", 1024, local) < 2.2 * flops("blocked", 512, local)


def taken(**changes):
  """Whether 'auto' takes the blocked form for a call with these changes."""
  q, k, v, _ = tensors(128, 2, 2)
  arguments = dict(visibility=Visibility()) | changes
  visibility = arguments.pop("visibility")
  return "custom_vjp" in str(jax.make_jaxpr(lambda q, k, v: attend(q, k, v, visibility, **arguments))(q, k, v))


def test_auto_on_a_cpu():
  assert taken() and taken(visibility=Visibility(window=9)) and taken(soft_cap=3.0, dropout_rate=0.1)
  assert not taken(bias_BHLM=jnp.zeros((1, 1, 128, 128)))
  assert not taken(dropout_rate=0.1, key=jax.random.key(0))
  assert not taken(visibility=Visibility(offset=jnp.zeros((), jnp.int32)))
  assert not taken(visibility=Visibility(causal=False))
  assert not taken(implementation="xla")
  with plain_layers():
    assert not taken()
  with rules.use(rules.ShardingRules(mesh.make({"data": -1}))):
    assert not taken()


@pytest.mark.parametrize("name, changes, reason", [
    ("blocked", dict(bias_BHLM=jnp.zeros(())), "bias"), ("blocked", dict(visibility=Visibility(offset=3)), "decoding"),
    ("blocked", dict(dropout_rate=0.1, key=jax.random.key(0)), "dropout"),
    ("cudnn", {}, "NVIDIA"), ("splash", {}, "TPU"),
])
def test_an_explicit_request_that_cannot_be_served_says_why(name, changes, reason):
  q, k, v, _ = tensors(16, 2, 2)
  with pytest.raises(ConfigError, match=rf"config\.model\.attention: '{name}' .*{reason}"):
    attend(q, k, v, **(dict(visibility=Visibility()) | changes), implementation=name)


def test_an_explicit_kernel_is_refused_where_every_derivative_is_needed():
  q, k, v, _ = tensors(16, 2, 2)
  with plain_layers(), pytest.raises(ConfigError, match="first derivatives"):
    attend(q, k, v, Visibility(), implementation="blocked")


def test_blocks_are_few_whatever_the_length():
  for length in (1, 64, 65, 1000, 1024, 1025, 5000, 100_000):
    size = attention_blocked.block_size(length)
    assert size % attention_blocked.SMALLEST_BLOCK == 0 and -(-length // size) <= attention_blocked.MOST_BLOCKS


SPLASH_CASES = [(2, 2, Visibility(), False, None), (4, 2, Visibility(window=100), True, 5.0),
                (2, 1, Visibility(causal=False), True, None)]


def splash(visibility, cap):
  return lambda q, k, v: attention_splash.attend(
      AttentionCall(q, k, v, visibility, q.shape[-1] ** -0.5, cap, None, 0.0, None), interpret=True)


@pytest.mark.slow
@pytest.mark.parametrize("H, G, visibility, pack, cap", SPLASH_CASES)
def test_splash_equals_xla(H, G, visibility, pack, cap):
  visibility = dataclasses.replace(visibility, segments=packed(256)) if pack else visibility
  reference = lambda q, k, v: attend(q, k, v, visibility, soft_cap=cap, implementation="xla")
  same(splash(visibility, cap), reference, tensors(256, H, G, K=64), 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("axes, G", [({"data": 2, "tensor": 2}, 2), ({"fsdp": 2, "tensor": 2}, 1)])
def test_splash_equals_xla_on_a_mesh(axes, G):
  visibility = Visibility(segments=packed(128))
  reference = lambda q, k, v: attend(q, k, v, visibility, implementation="xla")
  with rules.use(rules.ShardingRules(mesh.make(axes, jax.devices()[:4]))):
    same(splash(visibility, None), reference, tensors(128, 2, G, K=64), 2e-3)
