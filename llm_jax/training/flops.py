"""Model FLOPs per token, counted from the parameters' logical axes: no architecture has to say it itself."""

import math
from collections.abc import Callable

from llm_jax.core.model import Model


def matmul_parameters(model: Model) -> int:
  """Parameters that every token is multiplied with: kernels, and the embedding table where it is also the head; a table
  that is only looked up does not count, of experts only the active ones do."""
  shapes, axes = model.shapes, model.logical_axes
  kernels = [n for n in shapes if n.endswith(".kernel")]
  tables = [shapes[n].size for n in shapes if n.endswith(".embedding") and axes[n][0] == "vocab"]
  tied = not any("vocab" in axes[n] for n in kernels)
  used = getattr(model.config, "experts_per_token", 1)  # of the experts, a token meets only these
  share = lambda n: used / shapes[n].shape[axes[n].index("experts")] if "experts" in axes[n] else 1.0
  return round(sum(shapes[n].size * share(n) for n in kernels)) + (max(tables, default=0) if tied else 0)


def attention_width(model: Model, seen: Callable[[str], float] = lambda name: 1.0) -> float:
  """Sum over layers of query heads times head width, times `seen(name)` of the layer's queries."""
  return sum(seen(n) * math.prod(d for d, a in zip(s.shape, model.logical_axes[n]) if a in ("layers", "heads", "head"))
             for n, s in model.shapes.items() if n.endswith("query.kernel"))


def per_token(model: Model, length: int) -> float:
  """Training FLOPs per token of rows of `length` tokens, forward and backward: 6 N, and 12 times heads, head width and
  the positions that a query sees for each layer of attention (PaLM, arXiv:2204.02311, appendix B)."""
  return 6 * matmul_parameters(model) + 12 * attention_width(model, lambda name: seen_positions(model, name, length))


def seen_positions(model: Model, name: str, length: int) -> float:
  """Positions that a query of the array `name` sees, on the mean over its layers and a row of `length` tokens: half of
  them where only what comes before is seen, w (1 - w / 2 length) through a window of w, all in an encoder."""
  windows = getattr(model.config, "windows", None)  # of a causal network: of each layer, None for all that came before
  if windows is None:
    return length / 2 if name.startswith("decoder.") and "cross" not in name else length
  widths = [length if w is None else min(w, length) for w in windows]
  return sum(w - w * w / (2 * length) for w in widths) / len(widths) if length else 0.0
