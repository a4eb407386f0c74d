"""Recorded cases of networks that transformers does not have: their config.json in the words of our own folders."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]


def deberta_emd(config: Config) -> dict[str, Any]:
  """DeBERTa with the enhanced mask decoder."""
  return dict(config, model_type="deberta-v2", architectures=["DebertaV2ForMaskedLM"], legacy=False,
              enhanced_mask_decoder=True)


def deberta_rtd(config: Config) -> dict[str, Any]:
  """DeBERTa with the head for replaced tokens."""
  return dict(config, model_type="deberta-v2", architectures=["DebertaV2ForReplacedTokenDetection"])


CONFIGS: dict[str, Callable[[Config], dict[str, Any]]] = {"DebertaEMD": deberta_emd, "DebertaRTD": deberta_rtd}


def translated(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path | None:
  """The case with its config.json translated, below `to`; None where it needs no translation."""
  config = json.loads((folder / "config.json").read_text())
  if config.get("model") not in CONFIGS:
    return None
  made = to / folder.name
  made.mkdir()
  for file in folder.iterdir():
    (made / file.name).symlink_to(file.resolve())
  (made / "config.json").unlink()
  (made / "config.json").write_text(json.dumps(CONFIGS[config.pop("model")](config)))
  return made
