"""Recorded cases of adapter folders: outputs, loss, gradients by peft's names, the merged model, and a saved folder.

Gradients are taken with respect to the folder's own tensors, through the reading: so that a tensor that several of our
arrays copy has the sum of theirs. An adapter's folder may say more than the outputs do (`Adapter.found`).
"""

import json
import pathlib
import re
import tempfile
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import recorded
from losses import LOSSES, cross_entropy
from safetensors.numpy import load_file

from llm_jax import hub
from llm_jax.hub import adapters


class Adapter:
  """One recorded case, and the base model that it names."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.kind, self.config = adapters.kind_of(folder)
    self.format = adapters.format_of(self.kind)
    self.meta = json.loads((folder / "meta.json").read_text())
    self.inputs, self.expected = recorded.parts(folder / "reference.npz", "in.", "out.")
    self.tensors = {n: jnp.asarray(a) for n, a in load_file(folder / adapters.TENSORS).items()}
    self.base_folder = folder / self.config["base_model_name_or_path"]
    self.base_config = json.loads((self.base_folder / "config.json").read_text())
    model, params, _ = hub.load(self.base_folder)
    self.base = adapters.base_of(model, params)

  def outputs(self, model, params) -> dict[str, jax.Array]:
    """Logits and loss, by the class of the base."""
    inputs = {k: jnp.asarray(v) for k, v in self.inputs.items() if k != "labels"}
    if self.expected["logits"].shape[1] > self.inputs["labels"].shape[1]:
      inputs["virtual_tokens"] = True
    output = model.apply(params, **inputs)
    virtual = output.logits.shape[1] - self.inputs["labels"].shape[1]
    labels = jnp.pad(jnp.asarray(self.inputs["labels"]), ((0, 0), (virtual, 0)), constant_values=-100)
    rule = next((r for ending, r in LOSSES.items() if self.base_config["architectures"][0].endswith(ending)), None)
    found = rule(output, self.inputs | dict(labels=labels), self.base_config) if rule else dict(
        loss=cross_entropy(output.logits, labels))
    added = output.auxiliary if isinstance(output.auxiliary, jax.Array) else 0.0
    return dict(logits=output.logits, loss=found["loss"] + added)

  def error(self, name: str, got: np.ndarray, want: np.ndarray) -> float:
    """The largest error at a valid position, in units of the tolerance."""
    if want.ndim != 3:
      return recorded.error(got, want)
    mask = self.inputs["attention_mask"] > 0
    front = np.ones((mask.shape[0], want.shape[1] - mask.shape[1]), bool)
    return recorded.error(got, want, np.concatenate([front, mask], 1))


def check_adapter(folder: pathlib.Path, keep: pathlib.Path | None = None) -> tuple[list[str], float | None]:
  """(what is wrong, largest error in units of the tolerance). keep: where to leave a saved folder for read_back.py."""
  kind, _ = adapters.kind_of(folder)
  known = [t for module in adapters.formats() for t in module.PEFT_TYPES]
  if kind not in known:
    return [f"peft type {kind} is not supported (known: {', '.join(known)})"], None
  case = Adapter(folder)
  model, params, _ = hub.load(folder)
  method = model.made_of[0]

  def loss(tensors):
    arrays = case.format.read(case.config, tensors, case.base)[1]
    found = case.outputs(model, {**case.base.params, **arrays})
    return found["loss"], found
  found, grads = jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(case.tensors)[::-1])
  if "merged_logits" in case.expected:
    plain = jax.jit(lambda params: case.outputs(case.base.model, method.merge(params))["logits"])
    found["merged_logits"] = plain(params)
  errors = {n: case.error(n, found[n], want) for n, want in case.expected.items() if n in found}
  problems = [f"{n}: not produced" for n in case.expected.keys() - found.keys()]
  problems += [f"{n}: off by {e:.3g} times the tolerance" for n, e in errors.items() if not e <= 1]
  return [*problems, *gradients(case, grads), *round_trip(case, model, params, keep)], max(errors.values())


def gradients(case: Adapter, grads: dict[str, np.ndarray]) -> Iterator[str]:
  """Norms of the loss's gradient by peft's names, of every parameter that the folder holds."""
  norms = {n: float(np.linalg.norm(np.asarray(g, np.float64))) for n, g in grads.items()}
  compared = 0
  for name, want in case.meta["grad_norm"].items():
    ours = re.sub(r"(\.modules_to_save)?\.default", "", name)
    if ours == "prompt_encoder.embedding.weight" and len(case.meta["grad_norm"]) == 1:  # and no network makes it
      ours = "prompt_embeddings"
    ours = ours if ours in norms else ours.removesuffix(".weight")
    if ours not in norms:
      continue  # a parameter that the folder does not hold, such as the network that made a prompt
    compared += 1
    if abs(norms[ours] - want) > 1e-4 + 1e-3 * want:
      yield f"gradient of {name}: norm {norms[ours]:.6f}, expected {want:.6f}"
  if not compared and any(name.startswith("base_model") for name in grads):
    yield "gradient: none was compared"


def round_trip(case: Adapter, model, params, keep: pathlib.Path | None) -> Iterator[str]:
  """Saved again: the same tensors by name; loaded again: the same parameters."""
  with tempfile.TemporaryDirectory() as temporary:
    target = pathlib.Path(temporary) if keep is None else keep / case.folder.name
    hub.save_adapter(target, model, params, base=str(case.base_folder.resolve()))
    got, want = load_file(target / adapters.TENSORS), load_file(case.folder / adapters.TENSORS)
    again = hub.load(target)[1]
  if got.keys() != want.keys():
    yield f"saved: names differ by {sorted(got.keys() ^ want.keys())[:3]}"
  elif wrong := [n for n in want if not np.array_equal(got[n], want[n])]:
    yield f"saved: {len(wrong)} tensors differ, such as {wrong[0]}"
  if again.keys() != params.keys() or any(not np.array_equal(again[k], params[k]) for k in params):
    yield "saved: loads differently"
