"""Model FLOPs per token, counted from the parameters' logical axes: no architecture has to say it itself."""

import math

from llm_jax.core.model import Model
from llm_jax.training.throughput import transformer_flops_per_token


def matmul_parameters(model: Model) -> int:
  """Parameters that every token is multiplied with: kernels, and the embedding table where it is also the head."""
  shapes, axes = model.shapes, model.logical_axes
  kernels = [n for n in shapes if n.endswith(".kernel")]
  tables = [shapes[n].size for n in shapes if n.endswith(".embedding") and axes[n][0] == "vocab"]
  tied = not any("vocab" in axes[n] for n in kernels)
  used = getattr(model.config, "experts_per_token", 1)  # of the experts, a token meets only these
  share = lambda n: used / shapes[n].shape[axes[n].index("experts")] if "experts" in axes[n] else 1.0
  return round(sum(shapes[n].size * share(n) for n in kernels)) + (max(tables, default=0) if tied else 0)


def attention_width(model: Model) -> int:
  """Sum over layers of query heads times head width."""
  return sum(math.prod(d for d, a in zip(s.shape, model.logical_axes[n]) if a in ("layers", "heads", "head"))
             for n, s in model.shapes.items() if n.endswith("query.kernel"))


def per_token(model: Model, length: int, causal: bool = True) -> float:
  """Training FLOPs per token, forward and backward, of rows of `length` tokens."""
  return transformer_flops_per_token(matmul_parameters(model), layers=1, heads=1, head_width=attention_width(model),
                                     length=length, causal=causal)
