"""`config.mesh.auto`: the planner chooses the mesh for the devices that a run has.

The mesh alone: remat policy, micro-batches of accumulation and where the optimizer's state lies stay as the config
says. The doors that start or plan a run ask here before it is built: what is saved and resumed are sizes.
"""

from typing import Any

from llm_jax import experiment, plan_search
from llm_jax.core.config import resolve
from llm_jax.core.errors import ConfigError
from llm_jax.parallel import mesh as device_mesh
from llm_jax.parallel.rules import ShardingRules
from llm_jax.planning.hardware import GIB, GPUS, TPUS, Chip


def settled(config: dict[str, Any], vocab_size: int | None, chip: Chip | None, count: int,
            hosts: int = 1) -> dict[str, Any]:
  """The plain config with the mesh that is fastest by estimate; as it is where it does not ask.

  Args:
    vocab_size: of the model; None takes the data's. chip: what each of the `count` devices is; None if not known.
    hosts: processes that share the rows of a batch.

  Raises:
    ConfigError: no data sheet to plan with, or no mesh on which the config fits.
  """
  asked = resolve(config, experiment.SCHEMA)
  if not asked["mesh"]["auto"]:
    return config
  if chip is None:
    raise ConfigError("config.mesh.auto", "there is no data sheet of the devices here to plan with",
                      accepted=f"False and sizes of the axes, or {', '.join([*TPUS, *GPUS])}")
  config = plan_search.changed(config, {"mesh.auto": False, "mesh.microbatches": None})
  train = asked["train"]
  choices = plan_search.Choices((asked["model"].get("remat"),), (train["accumulate"],), (train["split_state"],))
  ranked = [c for c in plan_search.candidates(config, vocab_size, chip, count, choices)
            if ShardingRules(device_mesh.abstract(c.way.mesh, count)).host_parts % hosts == 0]  # type: ignore[arg-type]
  if not ranked:
    raise ConfigError("config.mesh.auto", f"no mesh of {count} devices divides {train['batch_size']} rows of "
                      f"{train['length']} tokens and the network", accepted="False, or another config.train.batch_size")
  best = ranked[0]
  if not best.found["fits"]:
    flags = plan_search.advice(config, vocab_size, chip, count, 1)
    raise ConfigError("config.mesh.auto", f"no mesh of {count} devices holds this by estimate; the nearest takes "
                      f"{best.found['memory']['peak'] / GIB:.1f} of {chip.memory / GIB:.1f} GiB",
                      accepted=flags[0] if flags else "more devices, or a smaller model, batch or length")
  return plan_search.changed(config, {path: n for path, n in best.overrides.items() if path.startswith("mesh.")})
