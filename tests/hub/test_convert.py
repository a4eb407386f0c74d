"""The convert door: folders and workdirs into each other, with equal weights, and mistakes named in a line."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import convert, doors, hub, pretrained
from llm_jax.core.types import TrainState
from llm_jax.data.tokenizers.bytes import ByteTokenizer
from llm_jax.models import decoder
from llm_jax.peft import dora
from llm_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp("source")
  tokenizer = ByteTokenizer(("eod",))
  model = decoder.build(tokenizer.vocab_size, 16, variant="debug", width=16, hidden=24, depth=2, heads=2, head_width=8)
  hub.save(folder, model, model.init(jax.random.key(0)), tokenizer)
  return folder


def door(capsys, *arguments):
  """(exit code, output) of `python -m llm_jax.convert ARGUMENTS`."""
  with pytest.raises(SystemExit) as stopped:
    doors.run(convert.main, convert.define, ["convert", *map(str, arguments)])
  captured = capsys.readouterr()
  return stopped.value.code, captured.out + captured.err


def test_a_folder_is_written_again_and_checked(source, tmp_path, capsys):
  code, said = door(capsys, f"--from={source}", f"--to={tmp_path / 'half'}", "--dtype=bfloat16", "--check")
  assert code == 0 and "DIFFERENT" not in said and said.count(" equal ") >= 3
  assert (tmp_path / "half" / "tokenizer.json").is_file()


def test_a_folder_becomes_a_workdir_and_a_folder_again(source, tmp_path, capsys):
  code, said = door(capsys, f"--from={source}", f"--to={tmp_path / 'run'}", "--format=workdir", "--check")
  assert code == 0, said
  _, params, tokenizer = pretrained.from_workdir(tmp_path / "run")
  _, want, _ = hub.load(source)
  assert all(np.array_equal(params[n], want[n]) for n in want) and tokenizer.decode(tokenizer.encode("text")) == "text"
  code, said = door(capsys, f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'back'}")
  assert code == 0, said
  assert (tmp_path / "back" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_what_a_run_trained_becomes_an_adapter_of_its_base(source, tmp_path, capsys):
  assert door(capsys, f"--from={source}", f"--to={tmp_path / 'run'}", "--format=workdir")[0] == 0
  base, weights, _ = hub.load(source)
  model = dora.build(rank=2, targets="query").adapt(base)
  made = {n: p + 0.1 for n, p in model.init(jax.random.key(1)).items()} | weights
  config = tmp_path / "run" / "config.json"
  said = json.loads(config.read_text()) | dict(peft=dict(name="dora", rank=2, targets="query"))
  config.write_text(json.dumps(said))
  shutil.rmtree(tmp_path / "run" / "checkpoints")
  state = TrainState(step=jnp.zeros((), jnp.int32), key=jax.random.key(0), params=made, frozen={}, opt_state=(), ema={},
                     guard={})
  with Checkpoints(tmp_path / "run" / "checkpoints", asynchronous=False) as checkpoints:
    checkpoints.save(0, state, {})
  arguments = [f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'adapter'}", "--format=adapter", f"--base={source}"]
  code, printed = door(capsys, *arguments)
  assert code == 0, printed
  again, found, tokenizer = hub.load(tmp_path / "adapter")
  assert again.made_of[0].name == "dora" and tokenizer is not None
  assert found.keys() == made.keys() and all(np.array_equal(found[n], made[n]) for n in made)
  assert door(capsys, *arguments, "--check")[0] == 2


@pytest.mark.parametrize("arguments, named", [
    (["--from=/nowhere", "--to=x"], "--from"), (["--to=x"], "--from"), (["--from=SOURCE"], "--to"),
    (["--from=SOURCE", "--to=SOURCE"], "--to"), (["--from=SOURCE", "--to=TARGET", "--dtype=int4"], "--dtype"),
    (["--from=SOURCE", "--to=TARGET", "--config.x=1"], "--config.x"), (["--from=SOURCE", "--to="], "--to"),
    (["--from=SOURCE", "--to=TARGET", "--max_shard_mb=0"], "--max_shard_mb"),
    (["--from=SOURCE", "--to=TARGET", "--max_shard_mb=-1"], "--max_shard_mb"),
    (["--from=SOURCE", "--to=TARGET", "--format=workdir", "--dtype=int4"], "--dtype: given, and --format=workdir"),
    (["--from=SOURCE", "--to=TARGET", "--format=workdir", "--max_shard_mb=7"], "--max_shard_mb"),
    (["--from=SOURCE", "--to=TARGET", "--base=foo"], "accepted: with --format=adapter"),
    (["--from=SOURCE", "--to=TARGET", "--step=7"], "--step: given, and"),
    (["--from=SOURCE", "--to=TARGET", "--ema"], "accepted: with a run as --from"),
    (["--from=SOURCE", "--to=/proc/foo/bar"], "--to: '/proc/foo/bar' cannot be written"),
    (["--from=SOURCE", "--to=/proc/foo/bar", "--format=workdir"], "cannot be written"),
])
def test_mistakes_are_named(source, tmp_path, capsys, arguments, named):
  given = [a.replace("SOURCE", str(source)).replace("TARGET", str(tmp_path / "target")) for a in arguments]
  code, said = door(capsys, *given)
  assert code == 2 and named in said and "Traceback" not in said and len(said.splitlines()) <= 10
  assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("format", ["hf", "workdir", "adapter"])
@pytest.mark.parametrize("held", ["config.json", "model.safetensors", "checkpoints/0/x", "tokenizer.json", ""])
def test_what_a_folder_holds_is_never_replaced(source, tmp_path, capsys, format, held):
  target = tmp_path / "target"
  file = target / held if held else target
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text("{}")
  code, said = door(capsys, f"--from={source}", f"--to={target}", f"--format={format}")
  assert code == 2 and "--to" in said and ("is not empty" in said or "is a file" in said), said
  assert file.read_text() == "{}" and [p for p in tmp_path.rglob("*") if p.is_file()] == [file]


@pytest.mark.parametrize("format, code", [("hf", 4), ("workdir", 3)])
def test_a_damaged_tokenizer_is_told_before_anything_is_written(source, tmp_path, capsys, format, code):
  broken = shutil.copytree(source, tmp_path / "broken")
  (broken / "tokenizer.json").write_text('{"version": ')
  found, said = door(capsys, f"--from={broken}", f"--to={tmp_path / 'target'}", f"--format={format}")
  assert found == code and "tokenizer.json" in said and not (tmp_path / "target").exists(), said
