"""What the laws of the models share: parameters that hide nothing, and what it means for two results to agree."""

import jax
import jax.numpy as jnp
import numpy as np


def parameters(model, spread, seed=0):
  """Parameters so large that attention is not flat; scales of norms lie around one."""
  draw, offset = np.random.default_rng(seed), getattr(model.config, "norm_offset", False)
  centre = lambda name: 1.0 if name.endswith("scale") and not offset else 0.0
  return {n: (centre(n) + spread * draw.normal(size=s.shape)).astype(np.float32) for n, s in model.shapes.items()}


def logits(model, params, *ids, **inputs):
  """The scores of a jitted call."""
  return jax.jit(lambda p: model.apply(p, *ids, **inputs).logits)(params)


def close(a, b, tolerance=2e-5):
  """Apart by at most `tolerance` of the largest value."""
  a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
  np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def agree(got, want, tolerance=1e-4, floor=1e-7):
  """Two pairs of a loss and its gradient: each array apart by at most `tolerance` of its largest value."""
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  for n in want[1]:
    largest = float(jnp.abs(want[1][n]).max())
    np.testing.assert_allclose(got[1][n], want[1][n], atol=tolerance * largest + floor, err_msg=n)
