"""Two networks that are trained as one model and kept apart afterwards: ELECTRA's generator and discriminator.

A models/ file declares its pair as `PAIR`; Hugging Face has a folder for each half.
"""

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from llm_jax.core.model import Model
from llm_jax.core.plugins import ROOT

Halves = dict[str, tuple[Model, dict[str, Any]]]  # {'generator': (model, its own parameters), ...}


@dataclasses.dataclass(frozen=True)
class Pair:
  """config: our config class of the two together; halves: (model, parameters) of the pair -> its halves by name."""

  config: type
  halves: Callable[[Model, Mapping[str, Any]], Halves]


@functools.cache
def pairs() -> tuple[Pair, ...]:
  """What every models/ file that declares `PAIR` says."""
  files = [p.stem for p in sorted((ROOT / "models").glob("*.py"))
           if re.search(r"^PAIR\b.*=", p.read_text("utf-8"), re.MULTILINE)]
  return tuple(importlib.import_module(f"llm_jax.models.{stem}").PAIR for stem in files)


def halves(model: Model, params: Mapping[str, Any]) -> Halves | None:
  """The halves of a pair; None of any other model."""
  pair = next((p for p in pairs() if p.config is type(model.config)), None)
  return None if pair is None else pair.halves(model, params)
