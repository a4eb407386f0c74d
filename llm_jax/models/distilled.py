"""A DistilBERT that starts from its teacher: every second layer of a BERT (Sanh et al. 2019, section 3).

    student, params = distilled.student(*hub.load("bert-base-uncased")[:2])
    hub.save("student", student, params)      # then: --init_from=student, with the distillation objective

DistilBERT has no token types: the vector of type 0, which all tokens of a single text have, goes into the positions.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.types import Params
from llm_jax.models import bert
from llm_jax.models.bert_encoder import BertConfig

TYPES = "embeddings.token_types.embedding"
LAYERS = "encoder.blocks."


def student(model: Model, params: Mapping[str, Any], *, layers: Sequence[int] | None = None) -> tuple[Model, Params]:
  """(model of models/bert.py, parameters) of the student of a BERT with the head 'lm' or 'pretraining'.

  Args:
    layers: which of the teacher's; None: every second, from the first on.

  Raises:
    ConfigError: the teacher is no BERT, or has no such layer.
  """
  teacher: BertConfig = model.config
  if not isinstance(teacher, BertConfig) or teacher.family != "bert" or "masked" not in model.offers:
    raise ConfigError("student", f"a {type(teacher).__name__} with head {getattr(teacher, 'head', None)!r}",
                      accepted="a BERT that scores masked tokens")
  kept = list(range(0, teacher.depth, 2) if layers is None else layers)
  if not kept or not all(0 <= i < teacher.depth for i in kept):
    raise ConfigError("student.layers", f"got {kept}", accepted=f"numbers from 0 to {teacher.depth - 1}")
  fields = bert.DISTILBERT | dict(head="lm", depth=len(kept), head_act=teacher.head_act, epsilon=teacher.epsilon)
  made = bert.from_config(dataclasses.replace(teacher, **fields))
  take = lambda name, array: jnp.asarray(array)[jnp.asarray(kept)] if name.startswith(LAYERS) else array
  found = {name: take(name, params[name]) for name in made.shapes}
  table = "embeddings.positions.embedding"
  return made, found | {table: params[table] + params[TYPES][0]}
