"""Compares this project with recorded outputs of Hugging Face models: `python tests/parity/compare.py FOLDER...`.

A FOLDER holds one folder per case: config.json, model.safetensors, reference.npz (in.*, out.*, valid.*) and meta.json
(gradient norms); config_v4.json is the same config in the keys of transformers 4. A folder with encodings.json is a
tokenizer, one with adapter_config.json an adapter, one with losses.npz many cases of losses. For every model: load with
hub.load, outputs and hidden states, loss, gradients, greedy generation, the older config, and a saved folder whose
tensors equal the loaded ones by name. Prints a row per case; exits 1 if any failed.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import networks
import numpy as np
import recorded
from continuations import generation
from losses import LOSSES, shifted
from other_formats import translated
from safetensors.numpy import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from adapter_cases import check_adapter
from loss_cases import check_loss
from loss_cases import names as losses_in

from llm_jax import hub
from llm_jax.core import hugging_face
from llm_jax.core.errors import LlmJaxError
from llm_jax.hub import folder as hub_folder
from llm_jax.hub import tensor_names

# Networks that transformers does not have, by their class: called with the recorded inputs, answering by their names.
OTHERS = {"RNNLM": networks.recurrent, "BiRNN": networks.recurrent,
          "ZhangCharCNN": networks.characters, "KimCharLM": networks.characters}
# What a case folder is, by a file that it has.
KINDS = {"tokenizer": "encodings.json", "adapter": "adapter_config.json", "losses": "losses.npz",
         "model": "config.json"}
NOT_MODEL_INPUTS = ("labels", "mc_labels", "start_positions", "end_positions", "next_sentence_label",
                    "masked_lm_labels", "ent_labels")


class Case:
  """One recorded case: `inputs`, `expected` and `valid` are the parts of reference.npz, without their prefixes."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.name = folder, folder.name
    self.meta = json.loads((folder / "meta.json").read_text()) if (folder / "meta.json").is_file() else {}
    file = folder / self.meta.get("reference", "reference.npz")
    self.inputs, self.expected, self.valid = recorded.parts(file, "in.", "out.", "valid.")
    real = {k: self.inputs["attention_mask"].reshape(-1) > 0 for k in self.expected if k.startswith("router_logits")}
    self.valid |= real
    if not self.valid and "attention_mask" in self.inputs:  # a case that says no more than its mask
      mask = self.inputs["attention_mask"] > 0
      self.valid = {k: mask for k, a in self.expected.items() if a.shape[:mask.ndim] == mask.shape}
    self.config = json.loads((folder / "config.json").read_text())

  @property
  def architecture(self) -> str:
    return (self.config.get("architectures") or [self.meta.get("class", "")])[0]

  def error(self, name: str, got: np.ndarray) -> float:
    """The largest error of an output at a valid position, in units of the tolerance; inf if it is not finite."""
    return recorded.error(got, self.expected[name], self.valid.get(name, ...))


def differences(case: Case, got: dict[str, np.ndarray]) -> Iterator[str]:
  """A line for every output that is absent, has another shape, or is out of tolerance at a valid position."""
  for name, want in case.expected.items():
    if name.startswith("generate."):
      continue
    if name not in got:
      yield f"{name}: not produced"
    elif np.shape(got[name]) != want.shape:
      yield f"{name}: shape {np.shape(got[name])}, expected {want.shape}"
    elif (error := case.error(name, got[name])) > 1:
      yield f"{name}: off by {error:.3g} times the tolerance"


# Where our name is another.
OURS = {"last_hidden_state": "hidden", "decoder_state": "hidden", "prediction_logits": "logits"}
LOSS_NAMES = ("loss", "lm_loss", "mc_loss", "masked_lm_loss", "next_sentence_loss", "entity_loss")


def outputs(case: Case, model, params) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """(every recorded output, gradient of the loss or {}), from one call of the model."""
  wanted = [name for name in case.expected if not name.startswith("generate.")]
  rule = next((r for ending, r in LOSSES.items() if case.architecture.endswith(ending)), None)
  if "loss" in wanted and rule is None:
    raise LookupError(f"no loss rule for {case.architecture}")

  def forward(params):
    output = call(case, model, params)
    found = rule(output, case.inputs, case.config) if "loss" in wanted else {}
    for name in set(wanted) - set(LOSS_NAMES):
      stem, _, index = name.partition(".")
      value = output[OURS.get(stem, stem)]
      found[name] = value[int(index)] if index else value
    return found.get("loss", 0.0), found
  if "loss" not in wanted:
    return jax.device_get(jax.jit(forward)(params)[1]), {}
  (_, found), grads = jax.device_get(jax.jit(jax.value_and_grad(forward, has_aux=True))(params))
  return found, grads


def call(case: Case, model, params):
  """The model's output for the recorded inputs."""
  inputs = {k: jnp.asarray(v) for k, v in case.inputs.items() if k not in NOT_MODEL_INPUTS}
  if any("hidden_states" in name for name in case.expected):
    inputs["output_hidden_states"] = True
  if any(name.startswith("router_logits") for name in case.expected):
    inputs["output_router_logits"] = True
  if case.architecture in OTHERS:
    return OTHERS[case.architecture](model, params, inputs)
  if case.architecture.endswith("ForConditionalGeneration") and "decoder_input_ids" not in inputs:
    inputs["decoder_input_ids"] = shifted(case.inputs["labels"], case.config)
  if "first_ids" in inputs:
    first = model.apply(params, inputs.pop("first_ids"), use_mems=True)
    inputs |= dict(mems=jax.lax.stop_gradient(first["mems"]), use_mems=True)
  output = model.apply(params, **inputs)
  if "first_mems.0" in case.expected:
    output.extra["first_mems"] = inputs["mems"]
  return output


def gradients(case: Case, model, grads: dict[str, np.ndarray]) -> Iterator[str]:
  """Norms of the loss's gradient, by their parameter names."""
  want = case.meta.get("grad_norm") or {}
  if not want:
    return
  if not all(np.isfinite(g).all() for g in grads.values()):
    yield "gradient: not finite"
  norms = in_memory(hub_tensors(model, grads, lambda array: float(np.linalg.norm(array.astype(np.float64)))))
  for copy, original in hugging_face.family_of_config(model.config).tied(model.config).items():
    if copy in want and original not in want:  # recorded under the other of its two names
      want[original] = want.pop(copy)
  for name, norm in norms.items():
    if name not in want:
      if norm > 0:  # the loss reads what it did not read there
        yield f"gradient of {name}: recorded nowhere"
    elif abs(norm - want.pop(name)) > 1e-4 + 1e-3 * norm:
      yield f"gradient of {name}: norm {norm:.6f} differs"
  yield from (f"gradient of {name}: not produced" for name in want)


def in_memory(norms: dict[str, float]) -> dict[str, float]:
  """Norms by the names of transformers' parameters: experts, a tensor each in files, are fused there."""
  fused: dict[str, float] = {}
  for name, norm in norms.items():
    name = name.replace(".block_sparse_moe.", ".mlp.")
    name = re.sub(r"experts\.\d+\.(w1|w3|gate_proj|up_proj)\.weight$", "experts.gate_up_proj", name)
    name = re.sub(r"experts\.\d+\.(w2|down_proj)\.weight$", "experts.down_proj", name)
    fused[name] = float(np.hypot(fused.get(name, 0.0), norm))
  return fused


def hub_tensors(model, params, f: Callable[[np.ndarray], object]) -> dict[str, object]:
  """f of each tensor under the name that a saved folder gives it."""
  family = hugging_face.family_of_config(model.config)
  wanted = tensor_names.places(family.names(model.config), model.shapes)
  prefix = family.prefix(model.config)
  return {hub_folder.as_saved(name, prefix, family): f(tensor_names.to_tensor(name, params, wanted)) for name in wanted}


def older_config(case: Case) -> Iterator[str]:
  """config_v4.json says the same architecture."""
  if (case.folder / "config_v4.json").is_file():
    newer, older = (hugging_face.read_config(case.folder / name)[1] for name in ("config.json", "config_v4.json"))
    for field in dataclasses.fields(newer):
      if getattr(newer, field.name) != getattr(older, field.name):
        yield f"config_v4.json: {field.name} is {getattr(older, field.name)}, not {getattr(newer, field.name)}"


def round_trip(case: Case, model, params) -> Iterator[str]:
  """Saved again, whole, in shards and in bfloat16: the same tensors by name; loaded again: the same parameters."""
  want = tensors_of(case.folder)
  for settings in (dict(), dict(max_shard_bytes=60_000), dict(dtype="bfloat16")):
    with tempfile.TemporaryDirectory() as temporary:
      hub.save(temporary, model, params, **settings)
      got = tensors_of(pathlib.Path(temporary))
      again = hub.load(temporary)[1]
    stored = jnp.dtype(settings.get("dtype", "float32"))
    if got.keys() != want.keys():
      yield f"saved {settings}: names differ by {sorted(got.keys() ^ want.keys())[:3]}"
    elif any(not np.array_equal(got[k], want[k].astype(stored)) for k in want):
      yield f"saved {settings}: tensors differ"
    if any(not np.array_equal(again[k], np.asarray(params[k]).astype(stored)) for k in params):
      yield f"saved {settings}: loads differently"


def tensors_of(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """By name, of all files: a folder's weights may lie in shards."""
  return {name: array for file in folder.glob("*.safetensors") for name, array in load_file(file).items()}


def tokenizer(folder: pathlib.Path) -> Iterator[str]:
  """Recorded encodings and decodings."""
  found = hub.find_tokenizer(folder)
  if found is None:
    yield "no tokenizer.json"
    return
  for row in json.loads((folder / "encodings.json").read_text("utf-8")):
    text, pair, ids = row["text"], row["pair"], row["ids"]
    checks = {"ids": (found.encode(text, pair, special=True).tolist(), ids),
              "plain ids": (found.encode(text, pair).tolist(), row["ids_plain"]),
              "text": (found.decode(ids, special=True), row["decoded"]),
              "text without specials": (found.decode(ids), row["decoded_skip"])}
    yield from (f"{what} of {text!r} differ" for what, (got, want) in checks.items() if got != want)


class Verdict(NamedTuple):
  """What is wrong with a case, and the largest error of its outputs in units of the tolerance."""

  problems: list[str]
  error: float | None = None


def kind_of(folder: pathlib.Path) -> str:
  """What a case folder holds: a word of KINDS, '' for none."""
  return next((kind for kind, mark in KINDS.items() if (folder / mark).is_file()), "")


def check(folder: pathlib.Path, part: str | None = None, keep: pathlib.Path | None = None) -> Verdict:
  """A case's verdict. part: which of a folder of losses. keep: where to leave a saved folder for read_back.py."""
  kind = kind_of(folder)
  if part is not None:
    return Verdict(*check_loss(folder, part))
  if kind == "tokenizer":
    return Verdict(list(tokenizer(folder)))
  if kind == "adapter":
    return Verdict(*check_adapter(folder, keep))
  with tempfile.TemporaryDirectory() as temporary:
    other = translated(folder, pathlib.Path(temporary))
    return check_folder(folder, keep) if other is None else check_folder(other)


def check_folder(folder: pathlib.Path, keep: pathlib.Path | None = None) -> Verdict:
  """The verdict on a case in the form of a Hugging Face folder."""
  config = json.loads((folder / "config.json").read_text())
  kind = config.get("model_type") or config.get("model")
  if kind not in [t for family in hugging_face.families() for t in family.model_types]:
    return Verdict([f"architecture {kind} is not supported yet"])
  case = Case(folder)
  model, params, _ = hub.load(folder)
  if keep is not None:
    hub.save(keep / case.name, model, params, max_shard_bytes=60_000)
  found, grads = outputs(case, model, params)
  problems = [*differences(case, found), *gradients(case, model, grads), *generation(case, model, params),
              *older_config(case), *round_trip(case, model, params)]
  same = [name for name in found if name in case.expected and np.shape(found[name]) == case.expected[name].shape]
  return Verdict(problems, max((case.error(name, found[name]) for name in same), default=None))


def cases(folder: pathlib.Path, only: str | None = None,
          kinds: str | None = None) -> list[tuple[str, pathlib.Path, str | None]]:
  """(name, folder, part) of the cases in `folder`, or of `folder` itself; part: which of a folder of losses."""
  found = [folder] if kind_of(folder) else sorted(p for p in folder.iterdir() if p.is_dir() and kind_of(p))
  found = [p for p in found if not kinds or kind_of(p) in kinds.split(",")]
  named = [(p.name if part is None else f"{p.name}/{part}", p, part) for p in found
           for part in (losses_in(p) if kind_of(p) == "losses" else [None])]
  return [case for case in named if not only or case[0].startswith(tuple(only.split(",")))]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("folders", type=pathlib.Path, nargs="+")
  parser.add_argument("--only", help="comma-separated prefixes of case names")
  parser.add_argument("--kinds", help=f"comma-separated, of {', '.join(KINDS)}; all when not given")
  parser.add_argument("--save", type=pathlib.Path, help="leave saved folders here, for read_back.py")
  arguments = parser.parse_args()
  jax.config.update("jax_disable_most_optimizations", True)  # numbers are compared, not speed
  failed = 0
  found = [case for folder in arguments.folders for case in cases(folder, arguments.only, arguments.kinds)]
  print(f"{'case':34s} {'kind':10s} {'':6s} error / tolerance  seconds")
  for name, folder, part in found:
    start = time.time()
    try:
      verdict = check(folder, part, arguments.save)
    except (LlmJaxError, LookupError, OSError, AttributeError, TypeError, ValueError) as e:
      verdict = Verdict([f"{type(e).__name__}: {e}"])
    failed += bool(verdict.problems)
    error = "" if verdict.error is None else f"{verdict.error:.3f}"
    print(f"{name:34s} {kind_of(folder):10s} {'FAILED' if verdict.problems else 'ok':6s} {error:>17s} "
          f"{time.time() - start:8.1f}", flush=True)
    for line in verdict.problems[:6]:
      print(f"    {line}", flush=True)
  print(f"{len(found) - failed} passed, {failed} failed")
  sys.exit(1 if failed or not found else 0)


if __name__ == "__main__":
  main()
