"""Recorded cases of networks that transformers does not have, in the words of our own folders and arrays."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

Config = dict[str, Any]
Arrays = dict[str, np.ndarray]


def deberta_emd(config: Config, arrays: Arrays) -> tuple[Config, Arrays]:
  """DeBERTa with the enhanced mask decoder."""
  return config | dict(model_type="deberta-v2", architectures=["DebertaV2ForMaskedLM"], legacy=False,
                       enhanced_mask_decoder=True), arrays


def deberta_rtd(config: Config, arrays: Arrays) -> tuple[Config, Arrays]:
  """DeBERTa with the head for replaced tokens."""
  return config | dict(model_type="deberta-v2", architectures=["DebertaV2ForReplacedTokenDetection"]), arrays


def tsinghua_ernie(config: Config, arrays: Arrays) -> tuple[Config, Arrays]:
  """ERNIE with knowledge: there each token has a vector of its own, so that the slots are the tokens."""
  names = {"in.input_ent": "in.entity_vectors", "in.ent_mask": "in.entity_mask", "in.candidate": "in.candidates",
           "out.prediction_scores": "out.logits", "out.seq_relationship_score": "out.seq_relationship_logits",
           "out.prediction_scores_ent": "out.entity_logits"}
  states = {f"{p}.states.{i}": f"{p}.hidden_states.{i + 1}" for p in ("out", "valid") for i in range(99)}
  valid = {n.replace("out.", "valid."): to.replace("out.", "valid.") for n, to in names.items()}
  found = {(names | states | valid).get(n, n): a for n, a in arrays.items()}
  mask = arrays["in.ent_mask"]
  found["in.entity_alignment"] = np.where(mask > 0, np.arange(mask.shape[1]), -1)
  return config | dict(model_type="ernie-knowledge", architectures=["ErnieKnowledgeForPreTraining"]), found


KINDS: dict[str, Callable[[Config, Arrays], tuple[Config, Arrays]]] = {
    "DebertaEMD": deberta_emd, "DebertaRTD": deberta_rtd, "TsinghuaErnie": tsinghua_ernie}


def translated(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path | None:
  """The case in our words, below `to`; None where it needs no translation."""
  config = json.loads((folder / "config.json").read_text())
  if config.get("model") not in KINDS:
    return None
  made = to / folder.name
  made.mkdir()
  for name in ("model.safetensors", "meta.json"):
    (made / name).symlink_to((folder / name).resolve())
  with np.load(folder / "reference.npz") as file:
    config, arrays = KINDS[config.pop("model")](config, dict(file))
  np.savez(made / "reference.npz", **arrays)
  (made / "config.json").write_text(json.dumps(config))
  return made
