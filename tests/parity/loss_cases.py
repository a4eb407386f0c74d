"""Recorded cases of losses: one folder holds them all, each with its inputs, its outputs and the loss's gradients.

losses.npz has the arrays `<case>.in.<name>`, `<case>.out.<name>` and `<case>.grad.<name>` (of out.loss for an input),
losses.json the settings of each case. A file beside this one, loss_rules_*.py, says which of our functions computes
which case: `RULES` maps a pattern of case names to (inputs, settings) -> {name of an output: array}.
"""

import functools
import importlib
import json
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from recorded import error, parts

Rule = Callable[[Mapping[str, jax.Array], Mapping[str, Any]], Mapping[str, jax.Array]]


def names(folder: pathlib.Path) -> list[str]:
  """The cases in a folder of losses, as recorded."""
  return list(json.loads((folder / "losses.json").read_text()))


def check_loss(folder: pathlib.Path, name: str) -> tuple[list[str], float | None]:
  """(what is wrong, largest error in units of the tolerance) of one case."""
  settings = json.loads((folder / "losses.json").read_text())[name]["params"]
  inputs, outputs, grads = parts(folder / "losses.npz", *(f"{name}.{kind}." for kind in ("in", "out", "grad")))
  rule = rule_of(name)
  if rule is None:
    return ["no function here computes this loss"], None
  fixed = {k: jnp.asarray(a) for k, a in inputs.items() if k not in grads}
  def loss(learned: Mapping[str, jax.Array]) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    found = rule({**fixed, **learned}, settings)
    return jnp.asarray(found.get("loss", 0.0)), found
  slopes, found = jax.jit(jax.grad(loss, has_aux=True))({k: jnp.asarray(inputs[k]) for k in grads})
  pairs = {**{k: (found.get(k), want) for k, want in outputs.items()},
           **{f"gradient of {k}": (slopes[k], want) for k, want in grads.items()}}
  errors = {k: error(got, want) for k, (got, want) in pairs.items()}
  return ([f"{k}: " + ("not produced, or of another shape" if math.isinf(e) else f"off by {e:.3g} times the tolerance")
           for k, e in errors.items() if e > 1], max(errors.values()))


def rule_of(name: str) -> Rule | None:
  """The rule whose pattern is the whole of a case's name."""
  return next((rule for pattern, rule in rules().items() if re.fullmatch(pattern, name)), None)


@functools.cache
def rules() -> dict[str, Rule]:
  """{pattern of case names: rule} of every loss_rules_*.py."""
  files = sorted(pathlib.Path(__file__).parent.glob("loss_rules_*.py"))
  return {k: r for file in files for k, r in importlib.import_module(file.stem).RULES.items()}
