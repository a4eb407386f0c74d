"""Reads folders that this project saved with transformers, adapters with peft: `python read_back.py SAVED RECORDED`.

SAVED holds what `compare.py RECORDED --save SAVED` left. Every tensor has to be a parameter there, none may be missing,
and all have to equal those of the recorded folder by name, as have the outputs. Needs torch and transformers. Prints a
row per case; exits 1 if any failed.
"""

import json
import pathlib
import sys

import torch
import transformers


def read(folder: pathlib.Path) -> tuple[torch.nn.Module, list[str]]:
  """The model of a folder and the names that were missing or unexpected."""
  if (folder / "adapter_config.json").is_file():
    return adapter(folder)
  architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
  model, report = getattr(transformers, architecture).from_pretrained(
      folder, output_loading_info=True, attn_implementation="eager")
  return model.eval(), [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]


def adapter(folder: pathlib.Path) -> tuple[torch.nn.Module, list[str]]:
  """The adapted model of an adapter folder, and what peft says that it lacks or does not know."""
  import peft

  said = json.loads((folder / "adapter_config.json").read_text())
  base = read((folder / said["base_model_name_or_path"]).resolve())[0]
  held = peft.utils.load_peft_weights(str(folder))
  model = peft.PeftModel.from_pretrained(base, folder)
  if model.active_peft_config.is_prompt_learning:  # its tensor has no name in the network
    same = torch.equal(model.prompt_encoder["default"].embedding.weight, held["prompt_embeddings"])
    return model.eval(), [] if same else ["prompt_embeddings differ"]
  result = peft.set_peft_model_state_dict(model, held)
  own = [n for n in model.state_dict() if ".default" in n and "ranknum" not in n]
  missing = [n for n in result.missing_keys if ".default" in n and "ranknum" not in n]
  lacking = [] if len(held) >= len(own) else [f"{len(held)} tensors, {len(own)} here"]
  return model.eval(), [*missing, *result.unexpected_keys, *lacking]


def unknown_to_peft(folder: pathlib.Path) -> bool:
  """Does it hold bottleneck adapters? compare.py alone reads those back."""
  file = folder / "adapter_config.json"
  return file.is_file() and "peft_type" not in json.loads(file.read_text())


@torch.no_grad()
def check(saved: pathlib.Path, recorded: pathlib.Path) -> list[str]:
  """What differs; [] when nothing does."""
  (ours, problems), (theirs, _) = read(saved), read(recorded)
  got, want = ours.state_dict(), theirs.state_dict()
  if got.keys() != want.keys():
    return [*problems, f"names differ: {sorted(got.keys() ^ want.keys())[:3]}"]
  problems = [*problems, *(f"{n} differs" for n in want if not torch.equal(got[n], want[n]))]
  ids = torch.arange(5, 14)[None]
  ids = ids[None] if type(ours).__name__.endswith("ForMultipleChoice") else ids
  ids[..., -1] = getattr(ours.config, "eos_token_id", None) or 14  # T5 reads a sequence there
  written = dict(decoder_input_ids=ids) if type(ours).__name__.endswith("ForConditionalGeneration") else {}
  close = lambda a, b: torch.allclose(a, b, rtol=1e-5, atol=1e-6)  # a convolution rounds by where its memory lies
  if type(ours) is not type(theirs) or not close(ours(ids, **written)[0], theirs(ids, **written)[0]):
    problems.append("outputs differ")
  return problems


def main() -> None:
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  saved, recorded = map(pathlib.Path, sys.argv[1:])
  failed = 0
  names = sorted(p.name for p in saved.iterdir() if not unknown_to_peft(p))
  for name in names:
    problems = check(saved / name, recorded / name)
    failed += bool(problems)
    print(f"{name:28s} {'FAILED' if problems else 'ok'}", *problems[:4], flush=True)
  print(f"{len(names) - failed} passed, {failed} failed")
  sys.exit(1 if failed or not names else 0)


if __name__ == "__main__":
  main()
