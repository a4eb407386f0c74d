"""The forms that layers take on a TPU, run here: scale in the weights, bias by a product, variance in one pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.layers import doors
from llm_jax.models import decoder, gpt

IDS = jnp.arange(24).reshape(2, 12) % 11
LLAMA = dict(width=16, depth=2, heads=2, kv_heads=1, head_width=8, hidden=24)
MODELS = {
    "gpt": lambda remat, scan: gpt.build(11, 12, variant="debug", width=16, depth=2, heads=2, remat=remat, scan=scan),
    "llama": lambda remat, scan: decoder.build(11, 12, variant="debug", remat=remat, scan=scan, **LLAMA),
    "qwen3": lambda remat, scan: decoder.build(11, 12, variant="debug-qwen3", remat=remat, scan=scan, **LLAMA),
}


def loss_and_gradients(model):
  params = model.init(jax.random.key(0))
  params = {n: p + 0.1 * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape) for n, p in params.items()}
  def loss(params):
    output = model.apply(params, input_ids=IDS)
    logits = output.unembed(output.hidden)
    return jnp.mean(jnp.sin(logits * jnp.arange(11.0)))
  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("name, remat, scan", [
    ("gpt", "split", True), ("llama", "none", True), ("llama", "split_wide", False),
    *(pytest.param(name, *how, marks=pytest.mark.slow) for name in ("gpt", "qwen3")
      for how in (("none", True), ("split", False), ("split_wide", False)))])
def test_they_are_the_plain_forms(name, remat, scan, monkeypatch):
  want = loss_and_gradients(MODELS[name]("none", True))
  monkeypatch.setattr(doors, "platform", lambda: "tpu")
  got = loss_and_gradients(MODELS[name](remat, scan))
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  for parameter, gradient in want[1].items():
    np.testing.assert_allclose(got[1][parameter], gradient, rtol=2e-4, atol=2e-6, err_msg=parameter)
