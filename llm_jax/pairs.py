"""Which model can be trained by which objective: the table of README.md, read from the code.

    python -m llm_jax.pairs            # prints it
    python -m llm_jax.pairs --readme   # writes it into README.md, between its two marks

A model says what it offers, with each of its heads; an objective says what it needs, in each of its forms.
"""

import functools
import inspect
import itertools
import pathlib
import sys
import typing
from collections.abc import Iterator
from typing import Any

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.types import Objective

BEGIN, END = "<!-- pairs: python -m llm_jax.pairs --readme -->", "<!-- end of pairs -->"
README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
ANY = ("hugging_face",)  # models that are whichever one a folder says
MADE_OF_OTHERS = ("mix",)
CHOICES = {"models": "head", "objectives": "form"}  # the knob that decides what is offered or needed
GIVEN: dict[str, Any] = {"teacher": "a workdir"}  # for required knobs
LENGTH = 32


def options(room: str, name: str) -> list[dict[str, Any]]:
  """The values of the knob that decides what a plug-in offers or needs, its default first; [{}] without such a knob."""
  knob = plugins.knobs_of(plugins.find(room, name, room).build).get(CHOICES[room])
  if knob is None:
    return [{}]
  values = [v for option in (typing.get_args(knob.annotation) or (knob.annotation,))
            for v in (typing.get_args(option) or (option,))]
  ordered = dict.fromkeys([knob.default, *(v for v in values if isinstance(v, str))])
  return [{knob.name: v} for v in ordered if v is not None]


def required(room: str, name: str) -> dict[str, Any]:
  """Values for the knobs that have no default."""
  knobs = plugins.knobs_of(plugins.find(room, name, room).build)
  return {n: GIVEN[n] for n, k in knobs.items() if k.default is inspect.Parameter.empty}


@functools.cache
def models() -> dict[str, list[tuple[dict[str, Any], Model]]]:
  """{model: [(its spec, the model) for each head that it has]}, in the smallest size."""
  found: dict[str, list[tuple[dict[str, Any], Model]]] = {}
  for name in plugins.available("models"):
    if name in ANY:
      continue
    module = plugins.find("models", name, "models")
    small = {"variant": "debug"} if "debug" in getattr(module, "VARIANTS", {}) else {}
    found[name] = []
    for choice in options("models", name):
      spec = {"name": name, **small, **required("models", name), **choice}
      try:
        found[name].append((spec, plugins.bind("models", spec, "config.model")(512, LENGTH)))
      except ConfigError:  # a head that this variant does not have
        continue
  return found


def objectives() -> dict[str, list[tuple[dict[str, Any], Objective]]]:
  """{objective: [(its spec, the objective) for each form that it has]}."""
  return {name: [(spec := {"name": name, **required("objectives", name), **choice},
                  plugins.bind("objectives", spec, "config.objective")()) for choice in options("objectives", name)]
          for name in plugins.available("objectives") if name not in MADE_OF_OTHERS}


def legal() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
  """(spec of a model, spec of an objective) of every legal pair, each with the first head and form that fit."""
  for (_, heads), (_, forms) in itertools.product(models().items(), objectives().items()):
    pair = next(((m, o) for (o, objective), (m, model) in itertools.product(forms, heads)
                 if set(objective.needs) <= model.offers), None)
    if pair is not None:
      yield pair


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


def main(arguments: list[str]) -> None:
  """Prints the table, or writes it into README.md."""
  if arguments == ["--readme"]:
    README.write_text(written(README.read_text("utf-8")), "utf-8")
  else:
    print(table())


if __name__ == "__main__":
  main(sys.argv[1:])
