"""Search for a way to run a config on given hardware: meshes, remat policies, micro-batches, by estimate.

`candidates` ranks every combination that the config allows by the estimate of planning/estimate.py, those that fit
first; the plan door then compiles the best few and shows both. `estimated` is the same for the config as it stands.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import experiment
from llm_jax.core.derivatives import plain_layers
from llm_jax.core.errors import ConfigError
from llm_jax.parallel import mesh as device_mesh
from llm_jax.parallel.rules import ShardingRules
from llm_jax.planning import compiled, estimate
from llm_jax.planning.hardware import Chip
from llm_jax.training import flops
from llm_jax.training import state as train_state

POLICIES = ("none", "split_wide", "split", "full")  # from most memory to least
MICRO_BATCHES = (1, 2, 4, 8, 16)
Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Candidate:
  """overrides: {config path: value} of one way to run; found: its estimate."""

  overrides: Mapping[str, Any]
  found: Mapping[str, Any]

  @property
  def lines(self) -> list[str]:
    """What to paste behind the command."""
    return [f"--config.{path}={value}" for path, value in self.overrides.items()]


class Estimator:
  """Estimates of one config on `count` chips, for any mesh, remat policy and number of micro-batches.

  Raises:
    ConfigError: a config whose step cannot be estimated: a meta-learner's inner loop is not modelled.
  """

  def __init__(self, config: Config, vocab_size: int | None, chip: Chip, count: int):
    if (config.get("meta_learning") or {}).get("name", "none") != "none":
      raise ConfigError("config.meta_learning", "the estimate does not know inner loops",
                        accepted="a TPU topology, which is compiled for, or 'none'")
    self.config, self.vocab_size, self.chip, self.count = config, vocab_size, chip, count
    self._runs: dict[str, Any] = {}
    self._traced: dict[str, estimate.Traced] = {}
    self._layouts: dict[tuple, tuple[dict[str, int], int]] = {}

  def run(self, remat: str) -> Any:
    """The config's run on one device here, with this policy."""
    if remat not in self._runs:
      config = changed(self.config, {"model.remat": remat, "train.accumulate": 1, "train.split_state": False})
      self._runs[remat] = experiment.build({**config, "mesh": {}}, devices=jax.devices()[:1],
                                           vocab_size=self.vocab_size)
    return self._runs[remat]

  def __call__(self, mesh: Mapping[str, int], remat: str, accumulate: int, split_state: bool) -> dict[str, Any]:
    """The estimate, as JSON (planning/estimate.py)."""
    run = self.run(remat)
    state, gradients = self._layout(run, mesh, split_state)
    layout = estimate.Layout(mesh, accumulate, split_state, state, gradients)
    tokens, length = run.train.batch_size * run.train.length, run.train.length
    dense, whole = flops.per_token(run.model, 0), flops.per_token(run.model, length)
    config = run.model.config
    return estimate.estimate(self._trace(run, remat), layout, self.chip, tokens=tokens,
                             attention=(whole - dense) * tokens, flops=whole * tokens, layers=config.depth,
                             width=config.width, parameters=run.model.size)

  def _layout(self, run: Any, mesh: Mapping[str, int], split_state: bool) -> tuple[dict[str, int], int]:
    key = (*mesh.items(), split_state)
    if key not in self._layouts:
      rules = ShardingRules(device_mesh.abstract(mesh, self.count))  # type: ignore[arg-type]
      places = train_state.shardings(run.abstract_state, rules, run.model.logical_axes, run.optimizer, split_state)
      state = train_state.with_shardings(run.abstract_state, places)
      kinds = {"parameters": (state.params, state.frozen), "optimizer": state.opt_state, "average": state.ema}
      self._layouts[key] = ({kind: compiled.state_bytes(tree) for kind, tree in kinds.items()},
                            compiled.state_bytes(state.params))
    return self._layouts[key]

  def _trace(self, run: Any, remat: str) -> estimate.Traced:
    if remat not in self._traced:
      plan = dataclasses.replace(run.curriculum.plan(0, run.curriculum.init()), batch=1, length=estimate.PROBE,
                                 window=None)
      batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), run.fields(run.corpus.train.take(0, plan)))
      shapes = lambda tree: {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in tree.items()}
      params, frozen = shapes(run.abstract_state.params), shapes(run.abstract_state.frozen)
      def loss(params: Any, batch: Any) -> Any:
        zeros = {n: jnp.zeros(a.shape, a.dtype) for n, a in frozen.items()}
        losses = run.objective(run.model.apply, {**zeros, **params}, batch, None, {})
        return (losses.values * losses.weights).sum() + losses.auxiliary
      with plain_layers():
        vocab = self.vocab_size or run.corpus.vocab_size
        self._traced[remat] = estimate.trace(loss, params, batch, vocab, run.model.config.width)
    return self._traced[remat]


def candidates(config: Config, vocab_size: int | None, chip: Chip, count: int) -> list[Candidate]:
  """Every way to run, best first: what fits by time, then what does not by memory."""
  estimator = Estimator(config, vocab_size, chip, count)
  found = []
  for mesh, remat, accumulate in itertools.product(_meshes(estimator.run("split").model, count), POLICIES,
                                                   MICRO_BATCHES):
    rows = estimator.run("split").train.batch_size
    if rows % (mesh["data"] * mesh["fsdp"] * accumulate):
      continue
    for split_state in (False, True) if mesh["data"] > 1 else (False,):
      overrides = {**{f"mesh.{axis}": size for axis, size in mesh.items()}, "model.remat": remat,
                   "train.accumulate": accumulate, "train.split_state": split_state}
      found.append(Candidate(overrides, estimator(mesh, remat, accumulate, split_state)))
  return sorted(found, key=lambda c: (not c.found["fits"], c.found["seconds"] if c.found["fits"] else
                                      c.found["memory"]["peak"]))


def advice(config: Config, vocab_size: int | None, chip: Chip, count: int, most: int = 3) -> list[str]:
  """Flags of the fastest ways to run that would fit, by estimate; [] if none would or none can be estimated."""
  try:
    ranked = candidates(config, vocab_size, chip, count)
  except ConfigError:
    return []
  return [" ".join(c.lines) for c in ranked[:most] if c.found["fits"]]


def _meshes(model: Any, count: int) -> Iterator[dict[str, int]]:
  """data x fsdp x tensor = count, tensor at most the heads that can be split."""
  heads = getattr(model.config, "kv_heads", None) or model.config.heads
  for tensor in (t for t in (1, 2, 4, 8) if count % t == 0 and heads % t == 0):
    for fsdp in (f for f in range(1, count // tensor + 1) if count // tensor % f == 0):
      yield {"data": count // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}


def changed(config: Config, overrides: Mapping[str, Any]) -> Config:
  """A copy of a plain config with {'section.key': value} in it."""
  config = dict(config)
  for path, value in overrides.items():
    section, key = path.split(".")
    config[section] = {**(config.get(section) or {}), key: value}
  return config


def estimated(config: Config, vocab_size: int | None, chip: Chip, count: int) -> dict[str, Any]:
  """The estimate of the config as it stands."""
  from llm_jax.core.config import resolve

  resolved = resolve(config, experiment.SCHEMA)
  axes = {a: n for a, n in resolved["mesh"].items() if a in device_mesh.AXES}
  mesh = device_mesh.sizes(axes, count)
  train = resolved["train"]
  rows = math.prod(n for a, n in mesh.items() if a in ("data", "fsdp")) * train["accumulate"]
  if train["batch_size"] % rows:
    raise ConfigError("config.train.batch_size", f"{train['batch_size']} examples do not divide into {rows} parts",
                      accepted=f"a multiple of {rows}")
  return Estimator(config, vocab_size, chip, count)(mesh, resolved["model"]["remat"], train["accumulate"],
                                                    train["split_state"])


def table(ranked: list[Candidate], most: int = 10) -> str:
  """The best, one line each."""
  lines = [f"{'':>3} {'data x fsdp x tensor':<21}{'remat':<12}{'micro':>6}{'split state':>12}{'peak GiB':>10}"
           f"{'step s':>9}{'MFU':>7}"]
  for number, c in enumerate(ranked[:most], 1):
    o, f = c.overrides, c.found
    mesh = f"{o['mesh.data']} x {o['mesh.fsdp']} x {o['mesh.tensor']}"
    lines.append(f"{number:>3} {mesh:<21}{o['model.remat']:<12}{o['train.accumulate']:>6}"
                 f"{'yes' if o['train.split_state'] else 'no':>12}{f['memory']['peak'] / 2**30:>10.2f}"
                 f"{f['seconds']:>9.3f}{f['mfu']:>7.1%}" + ("" if f["fits"] else "  does not fit"))
  return "\n".join(lines)
