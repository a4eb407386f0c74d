"""Adafactor (Shazeer and Stern 2018): a second moment kept as row and column means, so that state is O(rows + columns).

Every layer of a stack has its own factors, update clipping and parameter scale, as if the layers were apart (optax's
transformation would take one root mean square over the whole stack and might factor the layer axis). State: `row` and
`column` of a factored parameter are (batch..., rows) and (batch..., columns) and are so small that every device may
hold them whole; `full` has the parameter's shape where it is not factored. What is not kept is a (1,) zero.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llm_jax.optimizers.context import OptimizerContext
from llm_jax.optimizers.matrices import MatrixView, batch_axes, matrix_view


class AdafactorState(NamedTuple):
  """step: updates so far; row, column, full: second moments by parameter name."""

  step: jax.Array
  row: Any
  column: Any
  full: Any


def build(context: OptimizerContext, *, decay_rate: float = 0.8, min_size: int = 128, clip_rms: float = 1.0,
          relative: bool = True, momentum: float = 0.0, eps: float = 1e-30,
          weight_decay: float = 0.0) -> optax.GradientTransformation:
  """g / sqrt(v), clipped to root mean square `clip_rms`, times max(rms(w), 1e-3) if `relative`.

  Args:
    decay_rate: c of the second moment's decay 1 - t ** -c (section 7.2 of the paper).
    min_size: factor a matrix only if both of its sides are at least this long.
    clip_rms: largest root mean square of one parameter's update (section 6).
    relative: multiply by the parameter's root mean square: peak is then a relative step size, about 1e-2 (section 8).
    momentum: decay of a running mean of the updates; 0 keeps none.
    eps: added to squared gradients.
    weight_decay: decoupled decay per update, multiplied by the learning rate; see decay_exclude.
  """
  context.check("decay_rate", decay_rate, 0, 1)
  context.check("min_size", min_size, 1)
  context.check("clip_rms", clip_rms, 1e-6)
  context.check("momentum", momentum, 0, 1, below=True)
  context.check("eps", eps, 1e-38)
  views = {n: _factored(context, n, min_size) for n in context.shapes}
  whole = [n for n, v in views.items() if v is None and len(context.shapes[n].shape) > 1]
  context.notes.append(f"adafactor: {sum(v is not None for v in views.values())} factored, {len(whole)} kept whole")
  own_axes = {n: tuple(range(batch_axes(a), len(a))) for n, a in context.axes.items()}
  def finish(updates: dict[str, jax.Array], params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Update clipping and relative step size, each per layer."""
    result = {}
    for n, u in updates.items():
      u = u / jnp.maximum(1.0, _rms(u, own_axes[n]) / clip_rms)
      result[n] = u * jnp.maximum(_rms(params[n], own_axes[n]), 1e-3) if relative else u
    return result
  mean = optax.ema(momentum, debias=False, accumulator_dtype=context.moment_dtype) if momentum else optax.identity()
  return optax.chain(scale_by_factored_rms(views, decay_rate, eps), optax.stateless(finish), mean,
                     context.weight_decay(weight_decay))


def scale_by_factored_rms(views: dict[str, MatrixView | None], decay_rate: float, eps: float
                          ) -> optax.GradientTransformation:
  """g / sqrt(v) with v factored over the matrices that `views` describes (algorithms 2 and 4 of the paper)."""
  def init(params: Any) -> AdafactorState:
    def make(keep: Any) -> Any:
      return jax.tree_util.tree_map_with_path(lambda path, p: jnp.zeros(keep(views[path[-1].key], p.shape)), params)
    return AdafactorState(jnp.zeros([], jnp.int32),
                          make(lambda v, s: (1,) if v is None else _side(s, v.batch, v.rows)),
                          make(lambda v, s: (1,) if v is None else _side(s, v.batch, v.columns)),
                          make(lambda v, s: s if v is None else (1,)))

  def update(grads: Any, state: AdafactorState, params: Any = None) -> tuple[Any, AdafactorState]:
    count = state.step + 1
    keep = 1.0 - count.astype(jnp.float32) ** -decay_rate
    row, column, full, updates = dict(state.row), dict(state.column), dict(state.full), {}
    for n, g in grads.items():
      squares = jnp.square(g) + eps
      view = views[n]
      if view is None:
        full[n] = keep * full[n] + (1 - keep) * squares
        updates[n] = g * jax.lax.rsqrt(full[n])
        continue
      matrices = squares.reshape(*(g.shape[i] for i in view.batch), row[n].shape[-1], column[n].shape[-1])
      row[n] = keep * row[n] + (1 - keep) * matrices.mean(-1)
      column[n] = keep * column[n] + (1 - keep) * matrices.mean(-2)
      by_row = jax.lax.rsqrt(row[n] / row[n].mean(-1, keepdims=True))
      scale = by_row[..., :, None] * jax.lax.rsqrt(column[n])[..., None, :]
      updates[n] = g * scale.reshape(g.shape)
    return updates, AdafactorState(count, row, column, full)

  return optax.GradientTransformation(init, update)


def _factored(context: OptimizerContext, name: str, min_size: int) -> MatrixView | None:
  view, shape = matrix_view(context.axes[name]), context.shapes[name].shape
  if view is None or min(_length(shape, view.rows), _length(shape, view.columns)) < min_size:
    return None
  return view


def _length(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
  return math.prod(shape[i] for i in axes)


def _side(shape: tuple[int, ...], batch: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
  return (*(shape[i] for i in batch), _length(shape, axes))


def _rms(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  return jnp.sqrt(jnp.square(x).mean(axes, keepdims=True))
