"""Door: look at a run before anything runs: what it needs on hardware that is not here, and its schedules.

    python -m llm_jax.plan --config=configs/gpt2.py:124m --topology=v5e:2x4 --vocab_size=50304
    python -m llm_jax.plan --config=configs/decoder.py:llama3-8b --topology=v5p:4x4x4 --out=plan.json
    python -m llm_jax.plan --config=configs/gpt2.py:124m --topology=v5e:2x4 --search --compile=2
    python -m llm_jax.plan --config=configs/decoder.py:llama3-8b --topology=h100:64 --search
    python -m llm_jax.plan --config=configs/gpt2.py:debug --topology=local --fake_devices=8
    python -m llm_jax.plan --schedule --config=configs/curriculum_length.py:warmup --out=schedule.svg

With --topology the real train step is compiled for the named devices; no data is tokenised and no array is made. TPU
topologies need the TPU compiler: pip install 'llm_jax[plan]', on any Linux machine. GPUs are estimated from data
sheets. --search ranks meshes, remat policies and micro-batches by the estimate and compiles the best --compile of them.
"""

import json
import os
import pathlib
from typing import Any

from absl import flags

from llm_jax import doors
from llm_jax.core.errors import ConfigError

LIBRARIES = ("jax", "jaxlib", "libtpu")  # a plan's figures hold for these versions


def define(values: flags.FlagValues) -> None:
  """The flags of this door."""
  flags.DEFINE_string("config", None, "FILE.py or FILE.py:argument; then --config.key=value.", flag_values=values)
  flags.DEFINE_string("workdir", None, "Folder of a run, instead of --config.", flag_values=values)
  flags.DEFINE_bool("schedule", False, "Plot competence, length, batch, mixture, knobs and learning rate over steps.",
                    flag_values=values)
  flags.DEFINE_string("topology", None, "v5e:2x4, v5p:4x4x4, v6e:4x4, h100:8, ..., or local.", flag_values=values)
  flags.DEFINE_integer("vocab_size", None, "Vocabulary of the planned model; default: the config's own.",
                       lower_bound=1, flag_values=values)
  flags.DEFINE_bool("search", False, "Rank ways to run the config there.", flag_values=values)
  flags.DEFINE_integer("compile", 2, "How many of the best the search compiles, for a TPU.", lower_bound=0,
                       flag_values=values)
  flags.DEFINE_string("out", None, "File: the plan as .json, the schedule's plot as .svg or .png.",
                      flag_values=values)


def main(values: Any, overrides: doors.Overrides) -> int:
  """Reads the config, then plans it for a topology or shows its schedules."""
  if values.topology not in (None, "local"):  # the local accelerator, if there is one, has no part in this
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from llm_jax import experiment, pretrained

  if values.schedule and (values.topology is not None or values.search):
    raise ConfigError("--schedule", "given beside --topology or --search", accepted="one of them at a time")
  if not values.schedule and values.topology is None:
    raise ConfigError("--topology", "required but not given", accepted="v5e:2x4, v5p:4x4x4, local, ...; or --schedule")
  if values.config is None and values.workdir is not None:
    pretrained.run_folder(values.workdir)
  config = doors.read_config(values.config, values.workdir, overrides, experiment.SCHEMA)
  return show_schedules(config, values.out) if values.schedule else show_plan(config, values)


def show_plan(config: Any, values: Any) -> int:
  """Compiles, prints, and writes the JSON."""
  from llm_jax.planning import text, topology

  out = _file(values.out, (".json",))
  target = topology.parse(values.topology)
  title = values.config or values.workdir
  if values.search:
    found = search(config, target, values.vocab_size, values.compile, title)
  elif target.kind == "gpu":
    found = estimated(config, target, values.vocab_size)
    print(text.estimate(found))
  else:
    found = planned(config, target, values.vocab_size, title)
    print(text.describe(found))
  if out is not None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(out)
  return 0


def planned(config: Any, target: Any, vocab_size: int | None = None, title: str = "",
            advise: bool = True) -> dict[str, Any]:
  """The plan of a config's step on a topology (planning/topology.py), as JSON. advise: search for what would fit where
  this does not.

  Raises:
    ConfigError: a config that cannot be run there.
  """
  from llm_jax import experiment, plan_auto
  from llm_jax.planning import compiled
  from llm_jax.training import machine

  config, vocab_size = without_tokenizer(config, vocab_size)
  config = plan_auto.settled(config, vocab_size, target.chip, target.count)
  run = experiment.build(config, devices=target.devices(), vocab_size=vocab_size)
  head = {"config": title, "topology": target.name, "chip": target.chip.kind if target.chip else "local device",
          "devices": target.count, "hosts": target.hosts, "mesh": dict(run.rules.mesh.shape),
          "versions": machine.versions(LIBRARIES), "parameters": run.model.size,
          "tokens": run.train.batch_size * run.train.length}
  found = head | compiled.plan(run.lowered(), target, run.rules.mesh, work_of(run))
  if advise and not found["memory"]["fits"] and target.chip is not None:
    from llm_jax import plan_search

    found["advice"] = plan_search.advice(config, vocab_size, target.chip, target.count)
  if target.kind == "local":
    from llm_jax.planning import measured
    from llm_jax.training.step import knobs_of

    found["measured"] = measured.measure(run, knobs_of(run.curriculum.plan(0, run.curriculum.init())))
  return found


def estimated(config: Any, target: Any, vocab_size: int | None = None) -> dict[str, Any]:
  """The estimate of a config on chips that cannot be compiled for here, as JSON (planning/estimate.py)."""
  from llm_jax import plan_auto, plan_search

  config, vocab_size = without_tokenizer(config, vocab_size)
  config = plan_auto.settled(config, vocab_size, target.chip, target.count)
  found = plan_search.estimated(config, vocab_size, target.chip, target.count)
  if not found["fits"]:
    found["advice"] = plan_search.advice(config, vocab_size, target.chip, target.count)
  return {"topology": target.name, "capacity": int(target.chip.memory), **found}


def search(config: Any, target: Any, vocab_size: int | None, compile: int, title: str = "") -> dict[str, Any]:
  """Ranks ways to run, compiles the best few for a TPU, prints the table and the lines to paste -> both as JSON."""
  from llm_jax import plan_search
  from llm_jax.planning import text

  if target.chip is None:
    raise ConfigError("--search", "there are no data sheets for local devices", accepted="a TPU or GPU topology")
  config, vocab_size = without_tokenizer(config, vocab_size)
  config = plan_search.changed(config, {"mesh.auto": False})
  ranked = plan_search.candidates(config, vocab_size, target.chip, target.count)
  print(f"{title} on {target.name}: {len(ranked)} ways to run, by estimate\n{text.ranking(ranked)}", flush=True)
  best = ranked[0]
  plans: list[dict[str, Any]] = []
  for candidate in plan_search.apart(ranked)[: 3 * compile if target.kind == "tpu" else 0]:
    if len(plans) >= compile and any(p["compiled"]["memory"]["fits"] for p in plans):
      break  # more than asked for are compiled only until one fits
    try:
      found = planned(plan_search.changed(config, candidate.overrides), target, vocab_size, title, advise=False)
    except ConfigError as e:
      print(f"refused: {' '.join(candidate.lines)}: {e}")
      continue
    plans.append({"overrides": dict(candidate.overrides), "estimate": dict(candidate.found), "compiled": found})
    seconds = _with_transfers(found)
    verdict = "it fits" if found["memory"]["fits"] else "it does not fit"
    print(f"compiled {len(plans)}: peak {(found['memory']['peak'] or 0) / 2**30:.2f} GiB, {verdict}" +
          (f", {seconds:.3f} s with transfers" if seconds else "") + f": {' '.join(candidate.lines)}", flush=True)
    if found["memory"]["fits"] and seconds and seconds <= min(_with_transfers(p["compiled"]) or seconds for p in plans
                                                              if p["compiled"]["memory"]["fits"]):
      best = candidate
  fits = best.found["fits"] if not plans else any(p["compiled"]["memory"]["fits"] for p in plans)
  print("\n" + ("" if fits else "nothing that was tried fits; the nearest:\n") + " ".join(best.lines))
  return {"config": title, "topology": target.name, "fits": fits, "best": dict(best.overrides), "compiled": plans,
          "ranked": [{"overrides": dict(c.overrides), **c.found} for c in ranked[:50]]}


def _with_transfers(found: dict[str, Any]) -> float | None:
  """Seconds of a compiled step with the share of its transfers that the estimate takes not to hide: the compiler's
  cycles leave them out, and two layouts that move different amounts could not be compared."""
  from llm_jax.planning import estimate

  time = found.get("time")
  return time["step_seconds"] + estimate.UNHIDDEN * time["transfer_seconds_if_nothing_hides"] if time else None


def work_of(run: Any) -> Any:
  """What one step of a run is asked to do (planning/compiled.py)."""
  from llm_jax.planning import compiled
  from llm_jax.training import flops

  state, tokens = run.abstract_state, run.train.batch_size * run.train.length
  dense, whole = flops.per_token(run.model, 0), flops.per_token(run.model, run.train.length)
  kinds = {"parameters": (state.params, state.frozen), "optimizer": state.opt_state, "average": state.ema}
  return compiled.Work(tokens, whole * tokens, (whole - dense) * tokens,
                       {kind: compiled.state_bytes(tree) for kind, tree in kinds.items()})


def without_tokenizer(config: Any, vocab_size: int | None) -> tuple[dict[str, Any], int | None]:
  """(the config with bytes for tokens, the vocabulary that it says): a plan needs the size alone, and making a
  tokenizer of it would take minutes. A config that does not say its vocabulary stays as it is."""
  from llm_jax.core.config import plain

  config = plain(config)
  data: Any = config.get("data") or {}
  # Episodes are made of the text of another source.
  text: Any = data.get("text") if isinstance(data.get("text"), dict) else data
  tokenizer = text.get("tokenizer")
  vocab_size = (tokenizer or {}).get("vocab_size") if vocab_size is None else vocab_size
  if tokenizer is None or vocab_size is None:
    return config, vocab_size
  text = {**text, "tokenizer": {"name": "bytes", **{k: tokenizer[k] for k in ("sentinels",) if k in tokenizer}}}
  return {**config, "data": {**data, "text": text} if "text" in data else text}, vocab_size


def show_schedules(config: Any, out: str | None) -> int:
  """Prints or plots every schedule."""
  path = _file(out, (".svg", ".png"))
  found = schedules(config)
  if path is None:
    from llm_jax.dry_run import schedule_lines

    print(schedule_lines(found))
    return 0
  from llm_jax.training import schedule_figure

  path.parent.mkdir(parents=True, exist_ok=True)
  schedule_figure.draw(found).savefig(path)
  print(path)
  return 0


def _file(name: str | None, kinds: tuple[str, ...]) -> pathlib.Path | None:
  from llm_jax.training import given_paths

  path = None if name is None else pathlib.Path(name)
  if path is not None and path.suffix not in kinds:
    raise ConfigError("--out", f"got {name!r}", accepted=f"a file that ends in {' or '.join(kinds)}")
  if path is not None:
    given_paths.check_file(path, "--out")
  return path


def schedules(config: Any) -> dict[str, Any]:
  """The planned series of a config: {name: {'step': [...], 'value': [...], 'unit': ...}}; reads no data.

  Raises:
    ConfigError: a config that cannot be run.
  """
  from llm_jax import experiment
  from llm_jax.core.config import plain, resolve
  from llm_jax.optimizers.schedules import schedule
  from llm_jax.training import planned, settings

  resolved = resolve(plain(config), experiment.SCHEMA)
  train, optimizer = settings.train(**resolved["train"]), resolved["optimizer"]
  knobs = {name: optimizer[name] for name in ("peak", "warmup", "decay", "end", "cooldown", "cooldown_shape")}
  rate = schedule(total=optimizer["horizon"] or train.steps, **knobs)
  return planned.planned(train.steps, rate, experiment.make_curriculum(resolved["curriculum"], train))


if __name__ == "__main__":
  doors.run(main, define)
