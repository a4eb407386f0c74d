"""Parameters as decoding reads them are the model's, and the compiled step reads each kernel where it lies."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.inference import weights
from llm_jax.layers import stack
from llm_jax.models import decoder, gpt, t5

WIDTH, HIDDEN = 32, 80
MODELS = {
    "gpt": lambda **knobs: gpt.build(61, 16, variant="debug", width=WIDTH, depth=3, heads=4, **knobs),
    "decoder": lambda **knobs: decoder.build(61, 16, variant="debug", width=WIDTH, depth=3, heads=4, kv_heads=2,
                                             head_width=8, hidden=HIDDEN, **knobs),
    "t5": lambda **knobs: t5.build(61, 16, variant="debug", width=WIDTH, heads=4, head_width=8, hidden=HIDDEN, **knobs),
}


def made(name, **knobs):
  model = MODELS[name](**knobs)
  draw = np.random.default_rng(0)
  return model, {n: jnp.asarray(draw.normal(size=s.shape), jnp.float32) for n, s in model.shapes.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_split_and_joined_they_are_the_same(name, dtype):
  model, params = made(name, dtype=dtype)
  split = weights.split_layers(model, params)
  joined = weights.join_layers(split)
  assert joined.keys() == params.keys()
  for n, a in params.items():
    np.testing.assert_array_equal(joined[n], a, err_msg=n)
  turned = {n for n, a in split.items() if isinstance(a, tuple) and isinstance(a[0], weights.Turned)}
  kernels = {n for n in params if "blocks." in n and n.endswith(".kernel")}
  assert kernels and turned == (kernels if dtype == "float32" else set())


@pytest.mark.parametrize("name", ["gpt", "decoder"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_moves_no_kernel(name, rows):
  """No copy and no transpose of an array as large as a kernel: that would cost as much as the products."""
  model, params = made(name)
  def step(split, ids):
    with stack.unrolled():
      return model.apply(weights.join_layers(split), input_ids=ids).logits
  ids = jnp.zeros((rows, 1), jnp.int32)
  split = weights.split_layers(model, params)
  compiled = jax.jit(step).lower(split, ids).compile()
  text = compiled.as_text()
  moved = re.findall(r"f32\[([\d,]+)\]\S* (?:copy|transpose)\(", text)
  least = min(np.prod(s.shape[1:]) for n, s in model.shapes.items() if "blocks." in n and n.endswith(".kernel"))
  assert " dot(" in text or "custom-call" in text
  assert not [m for m in moved if np.prod([int(d) for d in m.split(",")]) >= least], moved
  want = jax.jit(lambda params: model.apply(params, input_ids=ids).logits)(params)
  np.testing.assert_allclose(compiled(split, ids), want, rtol=1e-4, atol=1e-4)
