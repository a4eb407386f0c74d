"""Search for a way to run a config on given hardware: meshes, remat policies, micro-batches, by estimate.

`candidates` ranks every combination that the config allows by the estimate of planning/estimate.py, those that fit
first; the plan door then compiles the best few and shows both. `estimated` is the same for the config as it stands.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import experiment
from llm_jax.core import devices
from llm_jax.core.config import resolve
from llm_jax.core.derivatives import plain_layers
from llm_jax.core.errors import ConfigError
from llm_jax.parallel import mesh as device_mesh
from llm_jax.parallel import pipeline
from llm_jax.parallel.rules import ShardingRules, use
from llm_jax.planning import compiled, estimate, meshes, transfers
from llm_jax.planning.hardware import Chip
from llm_jax.training import flops
from llm_jax.training import state as train_state

KEEPS_ATTENTION = ("none", "split_wide", "split")  # the others run its kernel again in the backward pass
POLICIES = ("none", "dots", "split_wide", "split", "full")  # from most memory to least
MICRO_BATCHES = (1, 2, 4, 8, 16)
PIPELINED = (1, 2, 4)  # micro-batches of a pipeline, for each of its stages
Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Way:
  """One way to run a config: sizes of all mesh axes, remat policy (None: the network has none to choose),
  micro-batches of accumulation and of the pipeline, and whether the optimizer's state is split over the copies."""

  mesh: Mapping[str, int]
  remat: str | None
  accumulate: int = 1
  split_state: bool = False
  microbatches: int | None = None

  def overrides(self, config: Config) -> dict[str, Any]:
    """{config path: value}; of the axes those that are cut, the usual three, and what the config itself sets."""
    own = config.get("mesh") or {}
    shown = {"data", "fsdp", "tensor", *own}
    found: dict[str, Any] = {f"mesh.{a}": n for a, n in self.mesh.items() if n > 1 or a in shown}
    if self.microbatches is not None:
      found["mesh.microbatches"] = self.microbatches
    elif own.get("microbatches") is not None:
      found["mesh.microbatches"] = None
    if self.mesh.get("stage", 1) == 1 and own.get("rounds", 1) != 1:
      found["mesh.rounds"] = 1
    remat = {} if self.remat is None else {"model.remat": self.remat}
    return {**found, **remat, "train.accumulate": self.accumulate, "train.split_state": self.split_state}


@dataclasses.dataclass(frozen=True)
class Candidate:
  """way: to run the config; overrides: the same as {config path: value}; found: its estimate."""

  way: Way
  overrides: Mapping[str, Any]
  found: Mapping[str, Any]

  @property
  def lines(self) -> list[str]:
    """What to paste behind the command."""
    return [f"--config.{path}={value}" for path, value in self.overrides.items()]


@dataclasses.dataclass(frozen=True)
class Choices:
  """What the search may choose beside the mesh. remat: None for every policy that the network has."""

  remat: tuple[str | None, ...] | None = None
  accumulate: tuple[int, ...] = MICRO_BATCHES
  split_state: tuple[bool, ...] = (False, True)


EVERYTHING = Choices()


class Estimator:
  """Estimates of one config on `count` chips, for any way to run it.

  Raises:
    ConfigError: a config whose step cannot be estimated: a meta-learner's inner loop is not modelled.
  """

  def __init__(self, config: Config, vocab_size: int | None, chip: Chip, count: int):
    if (config.get("meta_learning") or {}).get("name", "none") != "none":
      raise ConfigError("config.meta_learning", "the estimate does not know inner loops",
                        accepted="a TPU topology, which is compiled for, or 'none'")
    self.config, self.vocab_size, self.chip, self.count = config, vocab_size, chip, count
    knobs = resolve(config, experiment.SCHEMA)["model"]
    self.policies: tuple[str | None, ...] = POLICIES if "remat" in knobs else (None,)
    self.run = functools.cache(self._run)
    self._trace = functools.cache(self._traced)
    self._layouts: dict[tuple, tuple[dict[str, int], int, dict]] = {}

  def _run(self, remat: str | None) -> Any:
    """The config's run on one device here, with this policy."""
    config = changed(self.config, {"train.accumulate": 1, "train.split_state": False})
    config = config if remat is None else changed(config, {"model.remat": remat})
    return experiment.build({**config, "mesh": {}}, devices=jax.local_devices()[:1], vocab_size=self.vocab_size)

  @property
  def any_run(self) -> Any:
    """A run of the config, for all that does not depend on the policy."""
    return self.run(self.policies[-1])

  def __call__(self, way: Way) -> dict[str, Any]:
    """The estimate, as JSON (planning/estimate.py)."""
    turns = transfers.Turns(way.accumulate, way.microbatches or way.mesh.get("stage", 1))
    again = way.remat is not None and way.remat not in KEEPS_ATTENTION
    work = dataclasses.replace(self.work, attention=self.work.attention * (4 / 3 if again else 1))
    layout = estimate.Layout(way.mesh, turns, way.split_state, *self._layout(way.mesh, way.split_state))
    return estimate.estimate(self._trace(way.remat), layout, self.chip, work)

  @functools.cached_property
  def work(self) -> estimate.Work:
    """What a step is asked to do, whatever the way."""
    run = self.any_run
    tokens, length = run.train.batch_size * run.train.length, run.train.length
    dense, whole = flops.per_token(run.model, 0), flops.per_token(run.model, length)
    net = transfers.network(run.model, run.model.shapes, run.model.logical_axes)
    return estimate.Work(tokens, (whole - dense) * tokens, whole * tokens, net)

  def _layout(self, mesh: Mapping[str, int], split_state: bool) -> tuple[dict[str, int], int, dict]:
    """(bytes of state on one device by kind, of gradients, elements of parameters by the axes that cut them)."""
    key = (*mesh.items(), split_state)
    if key not in self._layouts:
      run = self.any_run
      rules = ShardingRules(device_mesh.abstract(mesh, self.count))  # type: ignore[arg-type]
      places = train_state.shardings(run.abstract_state, rules, run.model.logical_axes, run.optimizer, split_state)
      state = train_state.with_shardings(run.abstract_state, places)
      kinds = {"parameters": (state.params, state.frozen), "optimizer": state.opt_state, "average": state.ema}
      weights: dict[frozenset, int] = {}
      for leaf in state.params.values():
        axes = meshes.axes_of(leaf.sharding.spec)
        weights[axes] = weights.get(axes, 0) + leaf.size
      self._layouts[key] = ({kind: compiled.state_bytes(tree) for kind, tree in kinds.items()},
                            compiled.state_bytes(state.params), weights)
    return self._layouts[key]

  def _traced(self, remat: str | None) -> estimate.Traced:
    run = self.run(remat)
    plan = run.curriculum.plan(0, run.curriculum.init())
    abstract = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    batch_of = lambda length: abstract(run.fields(run.corpus.train.take(0, dataclasses.replace(
        plan, batch=estimate.ROWS, length=length, window=None))))
    params, frozen = abstract(run.abstract_state.params), run.abstract_state.frozen
    def loss(params: Any, batch: Any) -> Any:
      zeros = {n: jnp.zeros(a.shape, a.dtype) for n, a in frozen.items()}
      losses = run.objective(run.model.apply, {**zeros, **params}, batch, None, {})
      return (losses.values * losses.weights).sum() + losses.auxiliary
    with plain_layers():
      return estimate.trace(loss, params, batch_of, self.vocab_size or run.corpus.vocab_size, self.work.net.width)

  def allows(self, **axes: int) -> bool:
    """Whether the network can be cut along these axes: its step is traced on such a mesh."""
    run, plan = self.any_run, self.any_run.curriculum.plan(0, self.any_run.curriculum.init())
    mesh = device_mesh.abstract({"data": 1, **axes}, math.prod(axes.values()))
    rules = ShardingRules(mesh)  # type: ignore[arg-type]
    state, batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype),
                                (run.abstract_state, run.abstract_batch(plan)))
    try:
      with use(rules), devices.made_for(mesh.size), pipeline.watched() as found:
        jax.eval_shape(run.train_step, state, batch, {n: jnp.float32(v) for n, v in plan.knobs.items()})
    except ConfigError:
      return False
    return bool(found) or "stage" not in axes


def candidates(config: Config, vocab_size: int | None, chip: Chip, count: int,
               choices: Choices = EVERYTHING) -> list[Candidate]:
  """Every way to run, best first: what fits by time, then what does not by memory."""
  estimator = Estimator(config, vocab_size, chip, count)
  policies, found = choices.remat or estimator.policies, []
  for mesh in _meshes(estimator):
    least, split = policies[-1], choices.split_state[-1] and mesh["data"] > 1
    if not estimator(Way(mesh, least, choices.accumulate[-1], split))["fits"]:
      ways: Any = [Way(mesh, least, choices.accumulate[0], split)]  # nothing would: one line says so
    else:
      ways = _ways(estimator, mesh, policies, choices)
    found += [Candidate(way, way.overrides(config), estimator(way)) for way in ways]
  return sorted(found, key=lambda c: (not c.found["fits"], c.found["seconds"] if c.found["fits"] else
                                      c.found["memory"]["peak"]))


def apart(ranked: list[Candidate]) -> list[Candidate]:
  """The best of those that differ in the number of micro-batches alone: what is worth compiling."""
  best: dict[tuple, Candidate] = {}
  for c in ranked:
    best.setdefault((*c.way.mesh.items(), c.way.remat, c.way.split_state), c)
  return list(best.values())


def _meshes(estimator: Estimator) -> Iterator[dict[str, int]]:
  """The meshes that the config's network and rows allow (planning/meshes.py)."""
  count, train, model = estimator.count, estimator.any_run.train, estimator.any_run.model
  least = next((n for n in range(2, count + 1) if count % n == 0), None)  # ways of the smallest cut; None of one device
  allowed = {axis: least is not None and estimator.allows(**{axis: least}) for axis in ("stage", "context")}
  allowed["context"] &= flops.attention_width(model) > 0  # without attention nothing is gained by cutting sequences
  return meshes.candidates(model, estimator.chip, count, train.batch_size, train.length, allowed)


def _ways(estimator: Estimator, mesh: Mapping[str, int], policies: Iterable[str | None],
          choices: Choices) -> Iterator[Way]:
  """The ways to run on one mesh; with one copy of the state there is nothing to split."""
  rows, stage = estimator.any_run.train.batch_size, mesh["stage"]
  parts = rows // math.prod(mesh[axis] for axis in transfers.BATCH)
  pipelined = (None,) if stage == 1 else tuple(stage * n for n in PIPELINED)
  for remat, micro, split, piped in itertools.product(
      policies, choices.accumulate, choices.split_state if mesh["data"] > 1 else (False,), pipelined):
    if parts % (micro * (piped or 1)) == 0:
      yield Way(mesh, remat, micro, split, piped)


def advice(config: Config, vocab_size: int | None, chip: Chip, count: int, most: int = 3) -> list[str]:
  """Flags of the fastest ways to run that would fit, by estimate; [] if none would or none can be estimated."""
  try:
    ranked = candidates(config, vocab_size, chip, count)
  except ConfigError:
    return []
  return [" ".join(c.lines) for c in ranked[:most] if c.found["fits"]]


def changed(config: Config, overrides: Mapping[str, Any]) -> Config:
  """A copy of a plain config with {'section.key': value} in it."""
  config = dict(config)
  for path, value in overrides.items():
    section, key = path.split(".")
    config[section] = {**(config.get(section) or {}), key: value}
  return config


def estimated(config: Config, vocab_size: int | None, chip: Chip, count: int) -> dict[str, Any]:
  """The estimate of the config as it stands."""
  resolved = resolve(config, experiment.SCHEMA)
  axes = {a: n for a, n in resolved["mesh"].items() if a in device_mesh.AXES}
  mesh = device_mesh.sizes(axes, count)
  train, piped = resolved["train"], resolved["mesh"]["microbatches"] or mesh["stage"]
  rows = math.prod(mesh[axis] for axis in transfers.BATCH) * train["accumulate"] * piped
  if train["batch_size"] % rows:
    raise ConfigError("config.train.batch_size", f"{train['batch_size']} examples do not divide into {rows} parts",
                      accepted=f"a multiple of {rows}")
  way = Way(mesh, resolved["model"].get("remat"), train["accumulate"], train["split_state"],
            None if mesh["stage"] == 1 else piped)
  return Estimator(config, vocab_size, chip, count)(way)
