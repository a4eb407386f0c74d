"""What a PEFT method is: a way from a model to a model, and the names that are trained afterwards."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from llm_jax.core.model import Model

Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Method:
  """adapt: model -> model with more parameters, the same function at initialisation; the old parameters keep their
  names. freeze: regular expression of what is not trained. merge: parameters of the adapted model -> parameters of the
  old model that compute the same."""

  adapt: Callable[[Model], Model]
  freeze: str
  merge: Callable[[Arrays], dict[str, Any]]
