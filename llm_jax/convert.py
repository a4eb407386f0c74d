"""Door: weights between runs and Hugging Face folders.

    python -m llm_jax.convert --from=runs/quickstart --to=exported --check
    python -m llm_jax.convert --from=some_folder --to=smaller --dtype=bfloat16
    python -m llm_jax.convert --from=some_folder --to=runs/start --format=workdir
    python -m llm_jax.convert --from=runs/lora --to=adapter --format=adapter --base=../some_folder
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from absl import flags

from llm_jax import doors
from llm_jax.core.errors import ConfigError, unknown_name

READ_BY = {"dtype": "hf", "max_shard_mb": "hf", "base": "adapter"}  # flags of one format


def define(values: flags.FlagValues) -> None:
  """The flags of this door."""
  flags.DEFINE_string("from", None, "Workdir of a run, or a Hugging Face folder.", flag_values=values)
  flags.DEFINE_string("to", None, "Folder to write, new or empty.", flag_values=values)
  flags.DEFINE_enum("format", "hf", ["hf", "workdir", "adapter"], "What to write: a Hugging Face folder, a run's "
                    "workdir, or what a run's PEFT method trained alone, as peft reads it.", flag_values=values)
  flags.DEFINE_string("base", "", "Of an adapter: what it calls its base model, a folder seen from its own or a name.",
                      flag_values=values)
  flags.DEFINE_string("dtype", "float32", "Of the stored tensors: float32, bfloat16, float16.", flag_values=values)
  flags.DEFINE_integer("max_shard_mb", 5000, "Largest weight file.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("step", None, "Checkpoint of the run; default the newest good one.", lower_bound=0,
                       flag_values=values)
  flags.DEFINE_bool("ema", False, "The averaged weights of the run.", flag_values=values)
  flags.DEFINE_bool("check", False, "Read the result back and print what agrees.", flag_values=values)


def main(values: Any, overrides: doors.Overrides) -> int:
  """Reads, writes, and checks if asked to. 0 if all is equal."""
  if overrides:
    raise ConfigError(f"--config.{overrides[0][0]}", "this door takes no config", accepted="--from and --to")
  source, target = folders(values)
  check_flags(source, values)
  if values.format == "adapter":
    write_adapter(target, source, values)
    print(f"wrote {target}")
    return 0
  trained = read(source, values.step, values.ema)
  if trained[0].made_of is not None:
    raise ConfigError("--format", f"got {values.format!r}, but {source} has an adapter that cannot be merged "
                      f"({trained[0].made_of[0].name})", accepted="--format=adapter")
  if values.format == "workdir":
    write_workdir(target, source, *trained)
  else:
    from llm_jax import hub

    hub.save(target, *trained, dtype=values.dtype, max_shard_bytes=values.max_shard_mb * 1_000_000)
  print(f"wrote {target}")
  if not values.check:
    return 0
  agreed = True
  for folder, *part in written(target, *trained, split=values.format == "hf"):
    for name, equal, detail in checks(folder, *part, dtype=values.dtype if values.format == "hf" else "float32"):
      print(f"{name:<24} {'equal' if equal else 'DIFFERENT':<10} {detail}")
      agreed &= equal
  return 0 if agreed else 1


def folders(values: Any) -> tuple[pathlib.Path, pathlib.Path]:
  """The folder to read and the one to write.

  Raises:
    ConfigError: one is not given, there is nothing to read, or the other holds something or cannot be written.
  """
  from llm_jax.training import given_paths

  for flag in ("from", "to"):
    if not values[flag].value:
      raise ConfigError(f"--{flag}", "required but not given", accepted="a folder")
  source, target = pathlib.Path(values["from"].value), pathlib.Path(values.to)
  if not source.is_dir():
    raise ConfigError("--from", f"no such folder {str(source)!r}", accepted="a run, or a Hugging Face folder")
  if target.resolve() == source.resolve():
    raise ConfigError("--to", f"{str(target)!r} is the folder that is read", accepted="another folder")
  given_paths.check_empty(target, "--to")
  given_paths.check_folder(target, "--to")
  return source, target


def check_flags(source: pathlib.Path, values: Any) -> None:
  """Raises ConfigError for a flag that this format or this source does not read, or a dtype that is not known."""
  from llm_jax import pretrained
  from llm_jax.hub.folder import DTYPES

  for flag, reader in READ_BY.items():
    if values[flag].value != values[flag].default and values.format != reader:
      raise ConfigError(f"--{flag}", f"given, and --format={values.format} does not read it",
                        accepted=f"with --format={reader}")
  for flag in ("step", "ema"):
    if values[flag].value != values[flag].default and not pretrained.is_workdir(source):
      raise ConfigError(f"--{flag}", f"given, and {str(source)!r} is no run", accepted="with a run as --from")
  if values.dtype not in DTYPES:
    raise unknown_name("--dtype", values.dtype, DTYPES, what="dtype")
  if values.check and values.format == "adapter":
    raise ConfigError("--check", "compares whole models", accepted="--format=hf or --format=workdir")


def written(target: pathlib.Path, model: Any, params: dict[str, Any], tokenizer: Any,
            *, split: bool) -> Iterator[tuple[pathlib.Path, Any, dict[str, Any], Any]]:
  """(folder, model, parameters, tokenizer) of what was written: one folder, or one for each half of a pair."""
  from llm_jax.core.pair import halves

  parts = halves(model, params) if split else None
  if parts is None:
    yield target, model, params, tokenizer
    return
  for name, (half, own) in parts.items():
    yield target / name, half, own, tokenizer


def read(source: pathlib.Path, step: int | None, ema: bool) -> tuple[Any, dict[str, Any], Any]:
  """Model, parameters and tokenizer of a run or a Hugging Face folder.

  Raises:
    ConfigError: the folder holds neither. DataError, CheckpointError: it is damaged.
  """
  from llm_jax import hub, pretrained

  if pretrained.is_workdir(source):
    return pretrained.from_workdir(source, step=step, ema=ema, key="--from")
  if not (source / "config.json").is_file():
    raise ConfigError("--from", f"{str(source)!r} holds neither a run nor a model",
                      accepted="a folder with checkpoints/, or with config.json and *.safetensors")
  return hub.load(source)


def write_adapter(target: pathlib.Path, source: pathlib.Path, values: Any) -> None:
  """The adapter of a run, alone.

  Raises:
    ConfigError: the source is no run, or its model has no adapter.
  """
  from llm_jax import hub, pretrained

  model, params, _ = pretrained.from_workdir(source, step=values.step, ema=values.ema, key="--from", merged=False)
  if model.made_of is None:
    raise ConfigError("--format", f"got 'adapter', but {source} has none", accepted="--format=hf, or a run with PEFT")
  hub.save_adapter(target, model, params, base=values.base)


def write_workdir(target: pathlib.Path, source: pathlib.Path, model: Any, params: dict[str, Any],
                  tokenizer: Any) -> None:
  """A workdir that `generate` reads and that training can start from: config, tokenizer, checkpoint 0.

  Raises:
    ConfigError: no tokenizer to write. DataError: a damaged one. Nothing is written then.
  """
  import json

  import jax
  import jax.numpy as jnp

  from llm_jax.core.hugging_face import family_of_config
  from llm_jax.core.types import TrainState
  from llm_jax.data.tokenizers import hub as hub_tokenizer
  from llm_jax.training.checkpoint import Checkpoints

  if tokenizer is None or not (source / "tokenizer.json").is_file():
    raise ConfigError("--from", f"{str(source)!r} has no tokenizer.json, which a workdir needs",
                      accepted="a Hugging Face folder with its tokenizer, or --format=hf")
  said = family_of_config(model.config).config_to_hf(model.config)
  made = hub_tokenizer.build(None, path=str(source)).train([])
  (target / "tokenizer").mkdir(parents=True)
  made.save(target / "tokenizer")
  state = TrainState(step=jnp.zeros((), jnp.int32), key=jax.random.key(0), params=params, frozen={}, opt_state=(),
                     ema={}, guard={})
  with Checkpoints(target / "checkpoints", asynchronous=False) as checkpoints:
    checkpoints.save(0, state, {})
  length = getattr(model.config, "positions", 1024)
  config = {"model": {"name": "hugging_face", "config": said}, "train": {"length": length}}
  (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def checks(target: pathlib.Path, model: Any, params: dict[str, Any], tokenizer: Any,
           *, dtype: str) -> Iterator[tuple[str, bool, str]]:
  """(what, equal, detail) of the written folder: read back, and read by transformers where that is installed."""
  import importlib.util

  import jax.numpy as jnp
  import numpy as np

  again, found, read_tokenizer = read(target, None, False)
  stored = {n: np.asarray(jnp.asarray(a).astype(dtype).astype(jnp.float32)) for n, a in params.items()}
  unequal = [n for n in stored if n not in found or not np.array_equal(stored[n], np.asarray(found[n]))]
  yield "parameters by name", not unequal and found.keys() == stored.keys(), f"{len(found)} parameters, as {dtype}"
  if not unequal:
    inputs = example(model)
    hidden = [np.asarray(m.apply(p, **inputs).hidden, np.float32) for m, p in ((model, stored), (again, found))]
    error = float(np.abs(hidden[0] - hidden[1]).max())
    yield "hidden states", error <= 1e-4, f"off by {error:.1e} at most, random inputs"
  if tokenizer is not None and read_tokenizer is not None:
    text = "The quick brown fox, 3 times.\n"
    same = list(tokenizer.encode(text)) == list(read_tokenizer.encode(text))
    yield "token ids", same, repr(text)
  if (target / "config.json").is_file() and not (target / "checkpoints").is_dir():
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
      yield read_by_transformers(target)
    else:
      print("read by transformers     not checked: torch and transformers are not installed here")


def example(model: Any) -> dict[str, Any]:
  """Random inputs in the form that the model reads: tokens, words of characters, or a text of characters."""
  import inspect

  import numpy as np

  draw, config = np.random.default_rng(0), model.config
  if "spelled" in model.offers:
    return dict(input_ids=draw.integers(1, config.characters, (1, 16, 8)))
  if not hasattr(config, "vocab_size"):
    return dict(input_ids=draw.integers(0, config.alphabet, (1, config.length)))
  read = inspect.signature(type(model.bind(model.shapes)).__call__).parameters
  return {name: draw.integers(0, config.vocab_size, (1, 16)) for name in ("input_ids", "decoder_input_ids")
          if name in read}


def read_by_transformers(target: pathlib.Path) -> tuple[str, bool, str]:
  """Whether every tensor of the folder is a parameter there, with the same values, and none is missing."""
  import json

  import transformers
  from safetensors.torch import load_file

  name = json.loads((target / "config.json").read_text())["architectures"][0]
  model, report = getattr(transformers, name).from_pretrained(target, output_loading_info=True)
  state = model.state_dict()
  tensors = {k: v for file in target.glob("*.safetensors") for k, v in load_file(file).items()}
  wrong = [k for k, v in tensors.items() if k not in state or not bool((state[k] == v.to(state[k].dtype)).all())]
  wrong += list(report["missing_keys"]) + list(report["unexpected_keys"])
  return "read by transformers", not wrong, f"{name}, {len(tensors)} tensors" + (f"; not {wrong[0]}" if wrong else "")


if __name__ == "__main__":
  doors.run(main, define)
