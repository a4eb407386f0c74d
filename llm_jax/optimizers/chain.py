"""From `config.optimizer` to one optax transformation: an update rule between the things that all rules share.

    dict(name='adamw', peak=6e-4, warmup=2_000, decay='cosine', b2=0.95, weight_decay=0.1, clip=1.0)

is one flat dict. Its keys are the keyword arguments of two functions: `build` of the rule (optimizers/adamw.py) and
`assemble` below, so every knob is written once, where it is used. Order of an update: cast to float32, clip by the
global norm, add L1 and L2, the rule (with its decoupled weight decay), times minus the learning rate.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, nearest_name
from llm_jax.optimizers import masks
from llm_jax.optimizers.context import OptimizerContext, add_weights
from llm_jax.optimizers.matrices import Axes
from llm_jax.optimizers.schedules import Decay, Schedule, schedule

# What other libraries call our knobs; spelling alone would not lead from one to the other.
ELSEWHERE = {
    "lr": "peak", "learning_rate": "peak", "max_lr": "peak", "peak_lr": "peak", "min_lr": "end", "final_lr": "end",
    "schedule": "decay", "scheduler": "decay", "lr_scheduler_type": "decay", "grad_clip": "clip",
    "max_grad_norm": "clip", "clip_norm": "clip", "beta1": "b1", "beta2": "b2", "adam_beta1": "b1", "adam_beta2": "b2",
    "betas": "b1", "epsilon": "eps", "wd": "weight_decay", "mu_dtype": "moment_dtype", "total_steps": "horizon",
    "decay_steps": "horizon",
}


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """transform: to be initialised with and applied to the trained parameters only; schedule: rate of an update number;
  trainable, frozen: parameter names; notes: lines for the dry run."""

  transform: optax.GradientTransformation
  schedule: Schedule
  trainable: frozenset[str]
  frozen: frozenset[str]
  notes: tuple[str, ...]

  def split(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(trained, frozen) of a dict with all parameters."""
    return ({n: v for n, v in params.items() if n in self.trainable},
            {n: v for n, v in params.items() if n in self.frozen})


def knobs(name: str, key: str = "config.optimizer") -> dict[str, plugins.Knob]:
  """Every knob of the optimizer `name`: the rule's own, then the shared ones.

  Raises:
    ConfigError: no such optimizer.
  """
  return plugins.knobs_of(plugins.find("optimizers", name, f"{key}.name").build) | plugins.knobs_of(assemble)


def build_optimizer(spec: Mapping[str, Any], params: Mapping[str, Any], total_steps: int, key: str = "config.optimizer",
                    axes: Mapping[str, Axes] | None = None) -> Optimizer:
  """The optimizer that `spec` describes, for these parameters.

  Args:
    spec: the flat dict of the config.
    params: {name: array or jax.ShapeDtypeStruct} of all parameters, the frozen ones included.
    total_steps: updates in the run.
    key: path of `spec` in error messages.
    axes: {name: logical axes}, `model.logical_axes`. Without them no parameter counts as stacked over layers, and
      muon refuses kernels of more than two dimensions.

  Raises:
    ConfigError: an unknown optimizer or knob (with the nearest name over both sets), or a value that cannot be.
  """
  if not isinstance(spec, Mapping) or "name" not in spec:
    raise ConfigError(f"{key}.name", "required but not given", accepted=", ".join(plugins.available("optimizers")))
  rule = plugins.find("optimizers", spec["name"], f"{key}.name").build
  own, shared = divide(rule, spec, key)
  known = axes is not None
  axes = {n: tuple(axes[n]) if axes is not None else (None,) * len(p.shape) for n, p in params.items()}
  return assemble(functools.partial(rule, **own), params, axes, total_steps, key, known, **shared)


build = build_optimizer  # not written `def build`: by that line a file says that it is a plug-in of its room


def divide(rule: Callable[..., Any], spec: Mapping[str, Any], key: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """`spec` as (knobs of the rule, knobs of `assemble`), checked.

  Raises:
    ConfigError: as `plugins.check_knobs`, with the nearest name over both sets.
  """
  own, shared = plugins.knobs_of(rule), plugins.knobs_of(assemble)
  valid = sorted(own | shared)
  for k, v in spec.items():
    if k != "name" and k not in valid:
      other = ELSEWHERE.get(k)
      raise ConfigError(f"{key}.{k}", f"unknown key (given {v!r})", accepted=", ".join(valid),
                        nearest=other if other in valid else nearest_name(k, valid))
  take = lambda names: {k: v for k, v in spec.items() if k in names}
  return plugins.check_knobs(rule, take(own), key), plugins.check_knobs(assemble, take(shared), key)


def assemble(rule: Callable[[OptimizerContext], optax.GradientTransformation], params: Mapping[str, Any],
             axes: Mapping[str, Axes], total_steps: int, key: str, known_axes: bool, *, peak: float,
             warmup: float = 0.0, decay: Decay = "cosine", end: float | None = None, cooldown: float = 0.2,
             cooldown_shape: Literal["sqrt", "linear"] = "sqrt", halvings: int = 9, horizon: int | None = None,
             clip: float | None = 1.0, decay_exclude: str | tuple[str, ...] | None = None, l1: float = 0.0,
             l2: float = 0.0, freeze: str | tuple[str, ...] = (),
             moment_dtype: Literal["float32", "bfloat16"] = "float32") -> Optimizer:
  """Puts `rule` between clipping, penalties and the learning rate.

  Args:
    peak: highest learning rate.
    warmup: linear warmup: steps, or the fraction of the run if below 1.
    decay: what follows the warmup.
    end: floor of the rate as a fraction of peak; None is 0.1 (range_test: 1e-6, where it starts).
    cooldown: wsd and halve: steps of the final cooldown, or the fraction of the run if below 1.
    cooldown_shape: wsd: how the rate falls, 1 - sqrt(q) or 1 - q.
    halvings: halve: how often the rate is halved in the cooldown, at equal distances from its start on.
    horizon: steps over which the schedule is planned; None is the run's length.
    clip: gradients are scaled to at most this global norm; None does not clip.
    decay_exclude: regular expressions of names that weight_decay, l1 and l2 leave alone; None: biases and norm scales.
    l1: l1 * sign(w) is added to the clipped gradient.
    l2: l2 * w is added to the clipped gradient (coupled, as PyTorch's weight_decay of Adam and SGD).
    freeze: regular expressions of names that are not trained.
    moment_dtype: dtype of first moments; second moments are float32.

  Raises:
    ConfigError: a value that cannot be.
  """
  trained, frozen = masks.split(params, freeze, f"{key}.freeze")
  axes = {n: axes[n] for n in trained}
  decayed = masks.decayed(axes, decay_exclude, f"{key}.decay_exclude")
  rate = schedule(peak=peak, total=total_steps if horizon is None else horizon, warmup=warmup, decay=decay, end=end,
                  cooldown=cooldown, cooldown_shape=cooldown_shape, halvings=halvings, key=key)
  context = OptimizerContext(trained, axes, decayed, jnp.dtype(moment_dtype), peak, key, known_axes)
  context.check("l1", l1, 0)
  context.check("l2", l2, 0)
  context.check("clip", 1.0 if clip is None else clip, 1e-12)
  direction = rule(context)
  steps = [clip_by_global_norm(clip)] if clip is not None else []
  if l1 or l2:
    steps.append(add_weights(decayed, lambda w: l1 * jnp.sign(w) + l2 * w))
  transform = in_float32(optax.chain(*steps, direction, optax.scale_by_learning_rate(rate)))
  return Optimizer(transform, rate, frozenset(trained), frozenset(frozen),
                   (*_notes(rate, trained, frozen, decayed), *context.notes))


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
  """Scales all gradients by min(1, limit / norm), norm over all of them in float32 (Pascanu et al. 2013)."""
  def update(grads: Any, _: Any) -> Any:
    scale = jnp.minimum(1.0, limit / jnp.maximum(global_norm(grads), 1e-16))
    return jax.tree.map(lambda g: g * scale, grads)
  return optax.stateless(update)


def global_norm(tree: Any) -> jax.Array:
  """Euclidean norm of all leaves together, squared and summed in float32: a bfloat16 sum would stop growing early."""
  return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """`inner` on float32 copies of gradients and parameters: states and updates are float32 whatever those are."""
  cast = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float32))
  shapes = functools.partial(jax.tree.map, lambda x: jnp.zeros(x.shape, jnp.float32))
  def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    return inner.update(cast(grads), state, None if params is None else cast(params))
  return optax.GradientTransformation(lambda params: inner.init(shapes(params)), update)


def _notes(rate: Schedule, trained: Mapping[str, Any], frozen: Mapping[str, Any], decayed: frozenset[str]) -> list[str]:
  return [
      f"schedule: {rate.warmup} steps of warmup to {rate.peak:g}, {rate.decay} to step {rate.total}",
      f"trained: {masks.size(trained, trained):,} parameters in {len(trained)} tensors; "
      f"frozen: {masks.size(frozen, frozen):,} in {len(frozen)}",
      f"decayed: {masks.size(trained, decayed):,} parameters in {len(decayed)} tensors",
  ]
