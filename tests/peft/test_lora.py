"""LoRA is exactly the identity at first, trains only its own arrays, and any model takes it; see test_methods.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models import gpt, mlp
from llm_jax.peft import lora

IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 1]], np.int32)


def base(**changes):
  return gpt.from_config(gpt.GPTConfig(**dict(vocab_size=11, positions=8, width=16, depth=3, heads=2) | changes))


def arrays(model, seed=0):
  random = np.random.default_rng(seed)
  return {n: jnp.asarray(0.3 * random.normal(size=s.shape), jnp.float32) for n, s in model.shapes.items()}


def logits(model, params):
  return np.asarray(model.apply(params, input_ids=IDS).logits)


@pytest.mark.parametrize("targets", [r"attention\.(query|value)$", "."])
def test_at_first_it_is_the_same_function_and_the_old_names_are_there(targets):
  model = base()
  method = lora.build(rank=2, targets=targets)
  adapted = method.adapt(model)
  params = arrays(model)
  added = {n: p for n, p in adapted.init(jax.random.key(0)).items() if n not in params}
  assert model.shapes.keys() <= adapted.shapes.keys() and added
  assert all((np.asarray(p) == 0).all() == n.endswith("lora_b") for n, p in added.items())
  np.testing.assert_array_equal(logits(model, params), logits(adapted, params | added))


def test_layers_of_a_stack_start_differently():
  params = lora.build(rank=2).adapt(base()).init(jax.random.key(0))
  a = params["blocks.attention.query.lora_a"]
  assert a.shape == (3, 16, 2) and not np.allclose(a[0], a[1])


def test_new_arrays_carry_the_logical_axes_of_their_kernel():
  axes = lora.build().adapt(base()).logical_axes
  assert axes["blocks.attention.query.lora_a"] == ("layers", "embed", None)
  assert axes["blocks.attention.query.lora_b"] == ("layers", None, "heads", "head")


def test_only_the_new_arrays_are_trained():
  from llm_jax.optimizers import masks

  method = lora.build(train="final_norm")
  trained, frozen = masks.split(method.adapt(base()).shapes, method.freeze)
  assert set(trained) == {"blocks.attention.query.lora_a", "blocks.attention.query.lora_b", "final_norm.bias",
                          "blocks.attention.value.lora_a", "blocks.attention.value.lora_b", "final_norm.scale"}
  assert "blocks.attention.query.kernel" in frozen


def test_any_model_takes_it():
  model = mlp.build(0, 1, inputs=3, outputs=2, hidden=(8, 8))
  adapted = lora.build(rank=2, targets="layers|head").adapt(model)
  assert {n for n in adapted.shapes if n.endswith("lora_a")} == {"layers.0.lora_a", "layers.1.lora_a", "head.lora_a"}
  x = np.ones((4, 3), np.float32)
  params = adapted.init(jax.random.key(0))
  want = model.apply({n: params[n] for n in model.shapes}, inputs=x).scores
  np.testing.assert_array_equal(adapted.apply(params, inputs=x).scores, want)
