"""The laws of every method that changes weights: the identity at first, only its own arrays trained, merged exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import experiment
from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.models import gpt, mlp
from llm_jax.optimizers import masks

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 1]], np.int32)
METHODS = {
    "lora": dict(name="lora", rank=2),
    "lora of all": dict(name="lora", rank=3, alpha=5.0, targets="."),
    "lora by layer": dict(name="lora", rank=3, ranks={r"query\[1\]": 2, r"\[0\]": 0}, alphas={r"\[2\]": 3.0}),
    "rslora": dict(name="lora", rank=3, stabilised=True),
    "dora": dict(name="dora", rank=2, targets="."),
    "dora by layer": dict(name="dora", rank=2, ranks={r"\[0\]": 0, r"value": 1}),
    "ia3": dict(name="ia3"),
    "ia3 of all": dict(name="ia3", targets="attention", contracted="feed_forward"),
    "vera": dict(name="vera", rank=5),
    "vera of all": dict(name="vera", rank=12, targets="."),
    "ln_tuning": dict(name="ln_tuning"),
    "adalora": dict(name="adalora", rank=4, final_rank=2),
    "adalora of all": dict(name="adalora", rank=3, final_rank=1, targets="."),
}
# relatives of others
SLOW = ("lora of all", "lora by layer", "rslora", "dora by layer", "ia3 of all", "vera of all", "adalora of all")
every = pytest.mark.parametrize("spec", [pytest.param(s, marks=pytest.mark.slow if n in SLOW else ())
                                         for n, s in METHODS.items()], ids=METHODS)


def base(**changes):
  return gpt.from_config(gpt.GPTConfig(**dict(vocab_size=11, positions=8, width=16, depth=3, heads=2) | changes))


def method_of(spec):
  return plugins.bind("peft", spec, "config.peft")()


def arrays(model, seed=0):
  random = np.random.default_rng(seed)
  return {n: jnp.asarray(0.3 * random.normal(size=s.shape), jnp.float32) for n, s in model.shapes.items()}


def logits(model, params):
  return np.asarray(jax.jit(lambda params: model.apply(params, input_ids=IDS).logits)(params))


def begun(spec, make=base):
  """(method, base, adapted model, its parameters as a run starts with them: the base's were loaded)."""
  method, plain = method_of(spec), make()
  model = method.adapt(plain)
  return method, plain, model, method.start(model.init(jax.random.key(0)) | arrays(plain))


def trained(method, model, params, steps=3):
  """Some steps of gradient descent on what is trained."""
  names, _ = masks.split(model.shapes, method.freeze)
  loss = lambda p: jnp.square(model.apply({**params, **p}, input_ids=IDS).logits - 1.0).mean()
  gradient = jax.jit(jax.grad(loss))
  now = {n: params[n] for n in names}
  for _ in range(steps):
    now = {n: p - 0.1 * g / (1e-9 + jnp.abs(g).max()) for (n, p), g in zip(now.items(), gradient(now).values())}
  return {**params, **now}


@every
def test_it_starts_as_the_same_function_with_the_old_names(spec):
  _, plain, model, params = begun(spec)
  assert plain.shapes.keys() <= model.shapes.keys() and model.made_of[1] is plain
  assert all(params[n].shape == s.shape for n, s in model.shapes.items())
  np.testing.assert_allclose(logits(model, params), logits(plain, arrays(plain)), rtol=1e-5, atol=1e-5)


@every
def test_training_changes_the_function_and_merged_weights_compute_the_same(spec):
  method, plain, model, params = begun(spec)
  after = trained(method, model, params)
  merged = method.merge(after)
  assert merged.keys() == plain.shapes.keys()
  assert np.abs(logits(model, after) - logits(plain, arrays(plain))).max() > 0.05
  np.testing.assert_allclose(logits(plain, merged), logits(model, after), rtol=2e-4, atol=2e-4)


@every
def test_every_new_array_is_trained_or_constant_and_has_a_gradient_that_a_scan_does_not_change(spec):
  method, plain, scanned, params = begun(spec)
  unrolled = method.adapt(base(scan=False))
  after = trained(method, scanned, params, steps=2)
  np.testing.assert_allclose(logits(scanned, after), logits(unrolled, after), rtol=1e-5, atol=1e-5)
  names, frozen = masks.split(scanned.shapes, method.freeze)
  constant = ("lora_scale", "vera_in", "vera_out")
  assert all(n.endswith(constant) for n in frozen if n not in plain.shapes)
  moved = {n for n in names if np.abs(after[n] - params[n]).max() > 0}
  assert moved == set(names)


@pytest.mark.parametrize("spec", [METHODS["lora by layer"], METHODS["dora by layer"]], ids=["lora", "dora"])
def test_a_layer_of_rank_zero_stays_as_it_is(spec):
  method, _, model, params = begun(spec)
  after = method.merge(trained(method, model, params))
  for name, kernel in after.items():
    if name.startswith("blocks"):
      np.testing.assert_array_equal(kernel[0], params[name][0])
  query = after["blocks.attention.query.kernel"] - params["blocks.attention.query.kernel"]
  assert np.linalg.matrix_rank(query[2].reshape(16, 16), tol=1e-5) > 1


def test_a_rank_of_its_own_is_kept():
  method, _, model, params = begun(METHODS["lora by layer"])
  query = trained(method, model, params)["blocks.attention.query.lora_a"]
  assert not query[1, :, 2:].any() and query[2, :, 2:].any()


def test_doras_norm_is_a_constant_in_the_gradient():
  """So the direction's gradient is that of LoRA times magnitude / norm."""
  make = lambda: mlp.build(0, 1, inputs=3, outputs=2, hidden=(4,))
  x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
  grads = []
  for name, scale in (("lora", 1.0), ("dora", 2.0)):
    method, _, model, params = begun(dict(name=name, rank=2, targets="head"), make)
    params["head.lora_b"] = jnp.full_like(params["head.lora_b"], 0.1)
    params = method.start(params)
    if name == "dora":
      params["head.dora_magnitude"] = scale * params["head.dora_magnitude"]
    total = lambda p, model=model, params=params: model.apply({**params, **p}, inputs=x).scores.sum()
    grads.append(jax.grad(total)({"head.lora_a": params["head.lora_a"]})["head.lora_a"])
  np.testing.assert_allclose(2.0 * grads[0], grads[1], rtol=1e-4)


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "vera", "ln_tuning", "adalora"])
def test_a_pattern_that_takes_nothing_is_refused(name):
  with pytest.raises(ConfigError, match="takes no parameter"):
    method_of(dict(name=name, targets="atention")).adapt(base())


def test_a_map_has_factors_on_one_side_only():
  with pytest.raises(ConfigError, match="as targets does"):
    method_of(dict(name="ia3", targets="key", contracted="key")).adapt(base())


def test_a_run_that_starts_from_weights_takes_their_lengths():
  """`start` is called where a run takes over a base's weights."""
  run = experiment.build(dict(
      model=dict(name="mlp", hidden=[8]), data=dict(name="sinusoids", support=4, query=6, eval_tasks=8),
      objective=dict(name="regression"), meta_learning=dict(name="maml", inner_steps=1), mesh=dict(data=8),
      optimizer=dict(name="adam", peak=1e-2, decay="constant"), train=dict(steps=2, batch_size=8, length=1),
      peft=dict(name="dora", rank=2, targets="head")))
  weights = {n: 3.0 * p for n, p in run.base.init(jax.random.key(1)).items()}
  state = run.state_from(weights)
  got = state.params["head.dora_magnitude"]
  np.testing.assert_allclose(got, np.sqrt(np.square(weights["head.kernel"]).sum(0)), rtol=1e-5)
  assert set(state.params) == {"head.lora_a", "head.lora_b", "head.dora_magnitude"}
