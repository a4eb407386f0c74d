"""Muon (Jordan et al. 2024): hidden matrices move along their orthogonalised momentum, everything else by AdamW.

Each layer's matrix is orthogonalised by itself (Newton-Schulz, optax.contrib), attention kernels as D x HK maps.
Embeddings, output heads, biases and norm scales go to AdamW. One state for both: `mu` for every parameter, `nu` for
AdamW's only, with a (1,) zero for the others, so that the state still maps onto the parameters name by name.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from llm_jax.core.errors import ConfigError
from llm_jax.core.names import select
from llm_jax.optimizers.context import OptimizerContext
from llm_jax.optimizers.masks import VECTORS, leaf_name, size
from llm_jax.optimizers.matrices import matrix_view

OUTER_AXES = frozenset({"vocab", "table_embed", "positions", "labels"})  # tables and heads: one side lists symbols
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic of the reference implementation


class MuonState(NamedTuple):
  """step: updates so far; mu: first moments; nu: second moments of the parameters that AdamW trains."""

  step: jax.Array
  mu: Any
  nu: Any


def build(context: OptimizerContext, *, momentum: float = 0.95, nesterov: bool = True, ns_steps: int = 5,
          consistent_rms: float | None = 0.2, weight_decay: float = 0.1, adam_peak: float | None = None,
          b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8,
          adam_names: str | tuple[str, ...] = ()) -> optax.GradientTransformation:
  """Orthogonalised momentum for hidden matrices, AdamW for the rest.

  Args:
    momentum: decay of the mean of the matrices' gradients.
    nesterov: look ahead in the momentum.
    ns_steps: Newton-Schulz iterations; 5 bring every singular value to about 0.7 to 1.2.
    consistent_rms: scale updates to this root mean square, so that AdamW's peak and decay fit (0.2, Liu et al. 2025);
      None scales by sqrt(max(1, out / in)) as in the first publication, for which peak is about 0.02.
    weight_decay: decoupled decay per update, multiplied by the learning rate; see decay_exclude.
    adam_peak: peak learning rate of what AdamW trains, on the same schedule; None is peak.
    b1: AdamW's decay of the mean of gradients.
    b2: AdamW's decay of the mean of squared gradients.
    eps: AdamW's term beside the root of the second moment.
    adam_names: regular expressions of further parameters for AdamW.

  Raises:
    ConfigError: a value out of range, or no matrix to orthogonalise.
  """
  for knob, value in (("momentum", momentum), ("b1", b1), ("b2", b2)):
    context.check(knob, value, 0, 1, below=True)
  context.check("ns_steps", ns_steps, 1)
  context.check("eps", eps, 0)
  context.check("adam_peak", context.peak if adam_peak is None else adam_peak, 0)
  dimensions = hidden_matrices(context, adam_names)
  ratio = 1.0 if adam_peak is None else adam_peak / context.peak
  context.notes.append(f"muon: {len(dimensions)} tensors ({size(context.shapes, dimensions):,} parameters) by Muon, "
                       f"{len(context.shapes) - len(dimensions)} by AdamW at {ratio:g} times the rate")
  matrices = contrib.scale_by_muon(COEFFICIENTS, ns_steps, momentum, mu_dtype=context.moment_dtype, nesterov=nesterov,
                                   weight_dimension_numbers=dimensions)
  factors = {n: _factor(context.shapes[n].shape, d, consistent_rms) for n, d in dimensions.items()}
  adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=context.moment_dtype)
  # AdamW's share is scaled after its decay, which is therefore in units of its own learning rate.
  rescale = lambda updates, _: {n: u if n in dimensions else ratio * u for n, u in updates.items()}
  return optax.chain(_by_name(factors, matrices, adam, context.moment_dtype),
                     context.weight_decay(weight_decay), optax.stateless(rescale))


def hidden_matrices(context: OptimizerContext, adam_names: str | tuple[str, ...] = ()
                    ) -> dict[str, contrib.MuonDimensionNumbers]:
  """{name: which axes are rows and columns} of the parameters that Muon trains.

  Raises:
    ConfigError: there is none, or the axes of a kernel are not known.
  """
  excluded = select(context.shapes, adam_names, f"{context.key}.adam_names")
  found = {}
  for name, axes in context.axes.items():
    if name in excluded or leaf_name(name) in VECTORS | {"embedding"} or OUTER_AXES & set(axes):
      continue
    if not context.known_axes and len(axes) > 2:
      raise ConfigError(f"{context.key}.name", f"'muon' cannot tell rows from columns in {name}",
                        accepted="parameters whose logical axes are known")
    view = matrix_view(axes)
    if view is not None:
      found[name] = contrib.MuonDimensionNumbers(view.rows, view.columns)
  if not found:
    raise ConfigError(f"{context.key}.name", "'muon' finds no hidden matrix among the trained parameters",
                      accepted="a model with kernels that are trained, or another optimizer")
  return found


def _factor(shape: tuple[int, ...], dimensions: contrib.MuonDimensionNumbers, consistent_rms: float | None) -> float:
  rows, columns = (math.prod(shape[i] for i in side) for side in dimensions)
  if consistent_rms is None:
    return math.sqrt(max(1.0, columns / rows))
  return consistent_rms * math.sqrt(max(rows, columns))


def _by_name(factors: dict[str, float], matrices: optax.GradientTransformation, adam: optax.GradientTransformation,
             moment_dtype: Any) -> optax.GradientTransformation:
  """Muon times its factor on the names in `factors` and Adam elsewhere, in one state."""
  def init(params: Any) -> MuonState:
    mu = jax.tree.map(lambda p: jnp.zeros(p.shape, moment_dtype), params)
    shape = lambda path, p: (1,) if path[-1].key in factors else p.shape
    nu = jax.tree_util.tree_map_with_path(lambda path, p: jnp.zeros(shape(path, p)), params)
    return MuonState(jnp.zeros([], jnp.int32), mu, nu)

  def update(grads: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
    of = lambda tree, inside: {n: x for n, x in tree.items() if (n in factors) == inside}
    hidden, hidden_state = matrices.update(
        of(grads, True), contrib.MuonState(state.step, of(state.mu, True), jnp.asarray(COEFFICIENTS)))
    hidden = {n: factors[n] * u for n, u in hidden.items()}
    rest, rest_state = adam.update(
        of(grads, False), optax.ScaleByAdamState(state.step, of(state.mu, False), of(state.nu, False)))
    ordered = lambda tree: {n: tree[n] for n in grads}
    return ordered(hidden | rest), MuonState(hidden_state.count, ordered(hidden_state.mu | rest_state.mu),
                                             ordered(of(state.nu, True) | rest_state.nu))

  return optax.GradientTransformation(init, update)
