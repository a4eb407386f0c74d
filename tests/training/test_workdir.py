"""A folder is taken for what it is, and a path that cannot be written is told before the work, at every door."""

import json
import pathlib

import pytest

from llm_jax import convert, doors, evaluate, hub, plan, pretrained, score, train
from llm_jax.core.errors import ConfigError, DataError, LlmJaxError
from llm_jax.training import given_paths, workdir
from llm_jax.training.run_lock import RunLock

DAMAGED = {"torn": b'{"model": {"na', "not text": b"\xff\xfe\x00", "a list": b"[]", "nothing": b"{}",
           "of no run": b'{"steps": 3}'}
MODEL = b'{"model_type": "gpt2", "activation_function": "gelu"}'


def door(module, capsys, *arguments):
  """(exit code, what it said) of a door."""
  with pytest.raises(SystemExit) as stopped:
    doors.run(module.main, module.define, [module.__name__, *map(str, arguments)])
  said = capsys.readouterr()
  assert len(said.err.splitlines()) <= 10
  return stopped.value.code, said.err


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_config_is_named_by_all_that_read_it(damage, tmp_path, capsys):
  (tmp_path / "checkpoints").mkdir()
  (tmp_path / "config.json").write_bytes(DAMAGED[damage])
  for read in (workdir.saved_config, pretrained.from_workdir):
    with pytest.raises(DataError, match=r"config\.json"):
      read(tmp_path)
  for module, flag in ((evaluate, "--workdir"), (convert, "--from")):
    code, said = door(module, capsys, f"{flag}={tmp_path}", *([f"--to={tmp_path / 'to'}"] if module is convert else []))
    assert code == 3 and str(tmp_path / "config.json") in said
  (tmp_path / "checkpoints").rmdir()
  with pytest.raises(DataError, match=r"config\.json"):
    workdir.check_workdir(tmp_path)


def test_a_config_without_its_length_is_named(tmp_path):
  with pytest.raises(DataError, match=r"train\.length"):
    pretrained._length({"model": {"name": "gpt"}, "train": None}, tmp_path)


@pytest.mark.parametrize("module", [evaluate, plan])
def test_a_folder_that_is_no_run_is_told_for_what_it_is(module, tmp_path, capsys):
  more = ["--topology=local"] if module is plan else []
  code, said = door(module, capsys, f"--workdir={tmp_path / 'nowhere'}", *more)
  assert code == 2 and "--workdir: no such folder" in said
  code, said = door(module, capsys, f"--workdir={tmp_path}", *more)
  assert code == 2 and "holds no run" in said
  (tmp_path / "config.json").write_bytes(MODEL)
  code, said = door(module, capsys, f"--workdir={tmp_path}", *more)
  assert code == 2 and "is a Hugging Face folder, not the workdir of a run" in said


def test_an_empty_workdir_is_not_this_folder(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for module in (train, evaluate, plan):
    code, said = door(module, capsys, "--workdir=")
    assert code == 2 and "--workdir" in said
  assert not list(tmp_path.iterdir())


def test_a_run_may_go_on_where_one_is(tmp_path):
  workdir.check_workdir(tmp_path / "new")
  (tmp_path / "log.txt").write_text("of a launcher")
  (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "gpt"}}))
  workdir.check_workdir(tmp_path)
  (tmp_path / "checkpoints").mkdir()
  (tmp_path / "config.json").write_text("{")  # written anew by the run
  workdir.check_workdir(tmp_path)
  (tmp_path / "samples.jsonl").mkdir()
  with pytest.raises(DataError, match=r"samples\.jsonl"):
    workdir.check_workdir(tmp_path)


@pytest.mark.parametrize("check, name", [(given_paths.check_file, "new/folder/x.json"),
                                         (given_paths.check_folder, "new/folder")])
def test_a_path_is_tried_and_nothing_is_left(check, name, tmp_path):
  check(tmp_path / name, "--out")
  (tmp_path / "old.json").write_text("kept")
  if check is given_paths.check_file:
    check(tmp_path / "old.json", "--out")
  for bad in (tmp_path / "old.json" / name, tmp_path / ("n" * 300) / name, pathlib.Path("/proc/zz") / name):
    with pytest.raises(ConfigError, match=r"--out: .* cannot be written"):
      check(bad, "--out")
  assert [p.name for p in tmp_path.iterdir()] == ["old.json"] and (tmp_path / "old.json").read_text() == "kept"


@pytest.mark.parametrize("module, arguments", [
    (evaluate, ["--workdir=RUN"]), (plan, ["--config=RUN/c.py", "--schedule"]),
    (plan, ["--config=RUN/c.py", "--topology=local"]), (score, ["--config=RUN/c.py", "--scorer=rarity"]),
])
def test_an_output_that_cannot_be_written_is_told_before_the_work(module, arguments, tmp_path, capsys):
  (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "gpt"}}))
  (tmp_path / "c.py").write_text("def get_config(arg=''):\n  return {'model': {'name': 'gpt'}}\n")
  given = [a.replace("RUN", str(tmp_path)) for a in arguments]
  ending = ".svg" if "--schedule" in given else ".json"
  code, said = door(module, capsys, *given, f"--out=/proc/zz/a{ending}")
  assert code == 2 and "--out: '/proc/zz/a" in said and "cannot be written" in said


def test_a_refused_start_takes_its_lock_along(tmp_path):
  with RunLock(tmp_path / "a" / "run") as lock:
    lock.withdraw()
    with RunLock(tmp_path / "a" / "run") as second:  # another file of the name
      assert second.path.is_file()
  (tmp_path / "b").mkdir()
  (tmp_path / "b" / "run.lock").write_text("")
  with RunLock(tmp_path / "b") as lock:
    lock.withdraw()
  assert (tmp_path / "b" / "run.lock").is_file()


def test_a_source_is_looked_at_without_its_weights(tmp_path, monkeypatch):
  monkeypatch.setattr(hub, "load", None)
  for made, words in ((None, "no such folder"), ("", "neither checkpoints/ nor config.json"), ("{", "not readable"),
                      ('{"model_type": "gpt2"}', "model.safetensors")):
    if made is not None:
      (tmp_path / "x").mkdir(exist_ok=True)
    if made:
      (tmp_path / "x" / "config.json").write_text(made)
    with pytest.raises(LlmJaxError, match=words):
      pretrained.check_source(str(tmp_path / "x"))
