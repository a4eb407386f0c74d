"""The architecture of a Hugging Face folder's config.json, whichever it is, for training that starts from the folder:

    --config.model.name=hugging_face --config.model.path=FOLDER --init_from=FOLDER
"""

import dataclasses
import pathlib
from typing import Any, Literal

from llm_jax.core.errors import ConfigError
from llm_jax.core.hugging_face import config_of, read_config
from llm_jax.core.model import Model

# What a family's config may call the settings that the knobs below name.
PLAIN = dict(dtype="float32", remat="none", scan=True, attention="auto")  # what needs no such setting
DROPOUTS = ("dropout", "embed_dropout", "residual_dropout", "attention_dropout")


def build(vocab_size: int, length: int, *, path: str | None = None, config: dict | None = None, head: str | None = None,
          labels: int | None = None, dropout: float | None = None,
          dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none", scan: bool = True,
          attention: str = "auto") -> Model:
  """The model that a config.json describes.

  Args:
    path: the folder that holds it.
    config: its content, instead of a folder.
    head: another head than its own: lm, sequence, token, question, none.
    labels: number of labels of that head.
    dropout: rate, instead of its own.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes.
    scan: one compiled layer run in a loop; False unrolls.
    attention: implementation behind the attention door.
  """
  if (path is None) == (config is None):
    raise ConfigError("config.model.path", "give either path or config", accepted="a Hugging Face folder")
  family, said = read_config(pathlib.Path(path) / "config.json") if path else config_of(config, "config.model.config")
  fields = {f.name for f in dataclasses.fields(said)}
  knobs: dict[str, Any] = dict(head=head, labels=labels, dtype=dtype, remat=remat, scan=scan, attention=attention)
  knobs |= {k: dropout for k in DROPOUTS if k in fields} or dict(dropout=dropout)
  for knob in knobs.keys() - fields:
    if knobs[knob] != PLAIN.get(knob):
      raise ConfigError(f"config.model.{knob}", f"got {knobs[knob]!r}, and this architecture has no such setting",
                        accepted="nothing")
  said = dataclasses.replace(said, **{k: v for k, v in knobs.items() if k in fields and v is not None})
  if getattr(said, "vocab_size", vocab_size) < vocab_size:
    raise ConfigError("config.model", f"a vocabulary of {said.vocab_size}, smaller than the tokenizer's {vocab_size}",
                      accepted="the folder's own tokenizer: --config.data.tokenizer.name=hub "
                               "--config.data.tokenizer.path=FOLDER")
  return family.build(said)
