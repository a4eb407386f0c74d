"""Which model can be trained by which objective: the table of README.md, read from the code.

    python -m llm_jax.pairs            # prints it
    python -m llm_jax.pairs --readme   # writes it into README.md, between its two marks

A model says what it offers, with each of its heads; an objective says what it needs, in each of its forms.
"""

import functools
import inspect
import itertools
import pathlib
import typing
from collections.abc import Iterator
from typing import Any

from absl import flags

from llm_jax import doors
from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.types import Objective

BEGIN, END = "<!-- pairs: python -m llm_jax.pairs --readme -->", "<!-- end of pairs -->"
README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
CHOICES = {"models": "head", "objectives": "form"}  # the knob that decides what is offered or needed
GIVEN: dict[str, Any] = {"teacher": "a workdir"}  # for required knobs
LENGTH = 128  # the least that all models take
Spec = dict[str, Any]  # of a plug-in: its name and knobs


def options(room: str, name: str) -> list[Spec]:
  """The values of the knob that decides what a plug-in offers or needs, its default first; [{}] without such a knob."""
  knob = plugins.knobs_of(plugins.find(room, name, f"config.{room[:-1]}.name").build).get(CHOICES[room])
  if knob is None:
    return [{}]
  values = [v for option in (typing.get_args(knob.annotation) or (knob.annotation,))
            for v in (typing.get_args(option) or (option,))]
  ordered = dict.fromkeys([knob.default, *(v for v in values if isinstance(v, str))])
  return [{knob.name: v} for v in ordered if v is not None]


def required(room: str, name: str) -> dict[str, Any]:
  """Values for the knobs that have no default, as far as they are in `GIVEN`."""
  knobs = plugins.knobs_of(plugins.find(room, name, room).build)
  return {n: GIVEN[n] for n, k in knobs.items() if k.default is inspect.Parameter.empty and n in GIVEN}


def built(room: str, spec: Spec, *context: Any) -> list[tuple[Spec, Any]]:
  """[(spec, what it builds)]; [] where it cannot: a head that this model does not have, a mix of nothing."""
  try:
    return [(spec, plugins.bind(room, spec, f"config.{room[:-1]}")(*context))]
  except ConfigError:
    return []


@functools.cache
def heads_of(name: str) -> list[tuple[Spec, Model]]:
  """(spec, model) for each head that a model has, in its smallest size."""
  module = plugins.find("models", name, "config.model.name")
  small = {"variant": "debug"} if "debug" in getattr(module, "VARIANTS", {}) else {}
  return [made for choice in options("models", name)
          for made in built("models", {"name": name, **small, **required("models", name), **choice}, 512, LENGTH)]


def forms_of(name: str) -> list[tuple[Spec, Objective]]:
  """(spec, objective) for each form that an objective has."""
  return [made for choice in options("objectives", name)
          for made in built("objectives", {"name": name, **required("objectives", name), **choice})]


def models() -> dict[str, list[tuple[Spec, Model]]]:
  """`heads_of` every model."""
  return {name: heads_of(name) for name in plugins.available("models")}


def objectives() -> dict[str, list[tuple[Spec, Objective]]]:
  """`forms_of` every objective."""
  return {name: forms_of(name) for name in plugins.available("objectives") if forms_of(name)}


def pair(model: str, objective: str) -> tuple[Spec, Spec] | None:
  """(spec of the model, spec of the objective) with the first head and form that fit each other; None if none do."""
  return next(((m, o) for (o, form), (m, head) in itertools.product(forms_of(objective), heads_of(model))
               if set(form.needs) <= head.offers), None)


def legal() -> Iterator[tuple[Spec, Spec]]:
  """Every legal pair, as `pair` has it."""
  for model, objective in itertools.product(models(), objectives()):
    found = pair(model, objective)
    if found is not None:
      yield found


def table() -> str:
  """The table in Markdown. A cell says 'yes', or which head and form make the pair legal."""
  found = {(m["name"], o["name"]): _cell(m, o) for m, o in legal()}
  columns = [name for name in models() if any(m == name for m, _ in found)]
  lines = ["| objective | needs | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
  for name, forms in objectives().items():
    needs = " or ".join(dict.fromkeys(", ".join(o.needs) for _, o in forms))
    cells = [found.get((column, name), "") for column in columns]
    lines.append(f"| {name} | {needs} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def _cell(model: dict[str, Any], objective: dict[str, Any]) -> str:
  """What has to be set beside the names."""
  told = []
  for room, spec in (("models", model), ("objectives", objective)):
    first, knob = options(room, spec["name"])[0], CHOICES[room]
    told += [f"{knob}={spec[knob]}"] if spec.get(knob) != first.get(knob) else []
  return ", ".join(told) or "yes"


def written(text: str) -> str:
  """`text` with the table between its marks."""
  head, _, rest = text.partition(BEGIN)
  _, _, tail = rest.partition(END)
  return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def define(values: flags.FlagValues) -> None:
  """The flags of this door."""
  flags.DEFINE_bool("readme", False, "Write the table into README.md.", flag_values=values)


def main(values: Any, overrides: doors.Overrides) -> int:
  """Prints the table, or writes it into README.md."""
  if overrides:
    raise ConfigError(f"--config.{overrides[0][0]}", "this door takes no config", accepted="--readme, or nothing")
  if values.readme:
    README.write_text(written(README.read_text("utf-8")), "utf-8")
  else:
    print(table())
  return 0


if __name__ == "__main__":
  doors.run(main, define)
