"""metrics.jsonl is the source of truth: every row readable, no gap and no duplicate after a kill, no NaN lost."""

import json
import math
import os
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.training import metrics, run_directory
from llm_jax.training.metrics import MetricsWriter
from llm_jax.training.run_directory import JsonLines


def write_rows(workdir, first, last):
  with MetricsWriter(workdir, tensorboard=False) as writer:
    for step in range(first, last + 1):
      writer.write(step, {"train/loss": 1 / step, "time/data": 0.1})


def test_a_row_comes_back_bit_for_bit(tmp_path):
  values = {"train/loss": np.float32(0.1), "eval/loss": 1 / 3, "train/tokens": np.int64(2**40), "note/stage": "warm"}
  with MetricsWriter(tmp_path, tensorboard=False) as writer:
    writer.write(7, values | {"train/accuracy": np.array(0.5)})
  [row] = metrics.rows(tmp_path)
  assert row == {"step": 7, **values, "train/accuracy": 0.5}
  assert np.float32(row["train/loss"]) == np.float32(0.1)


def test_a_row_is_there_for_others_as_soon_as_it_is_written(tmp_path):
  with MetricsWriter(tmp_path, tensorboard=False) as writer:
    for step in (1, 2):
      writer.write(step, {"train/loss": 1.0})
      assert len(metrics.rows(tmp_path)) == step


def test_a_number_that_json_has_no_word_for_is_null_for_others_and_itself_for_us(tmp_path):
  with MetricsWriter(tmp_path, tensorboard=False) as writer:
    writer.write(1, {"train/loss": float("nan"), "eval/loss": -math.inf, "train/mfu": 0.5})
  line = (tmp_path / "metrics.jsonl").read_text()
  raw = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
  assert raw["train/loss"] is None and raw["nonfinite"] == {"train/loss": "nan", "eval/loss": "-inf"}
  [row] = metrics.rows(tmp_path)
  assert math.isnan(row["train/loss"]) and row["eval/loss"] == -math.inf and "nonfinite" not in row


@pytest.mark.parametrize(
    "bad", [{"loss": 1.0}, {"train/loss": [1.0]}, {"train/loss": None}, {"train/loss": np.zeros(2)}])
def test_what_is_not_a_named_number_is_refused_and_writes_nothing(tmp_path, bad):
  with MetricsWriter(tmp_path, tensorboard=False) as writer:
    with pytest.raises(TypeError):
      writer.write(1, bad)
  assert metrics.rows(tmp_path) == []


@pytest.mark.parametrize("cut", range(1, 60, 3))
def test_however_the_last_line_is_torn_resuming_leaves_no_gap_and_no_duplicate(tmp_path, cut):
  write_rows(tmp_path / "whole", 1, 10)
  write_rows(tmp_path / "torn", 1, 8)
  path = tmp_path / "torn" / "metrics.jsonl"
  os.truncate(path, path.stat().st_size - cut)
  left = metrics.rows(tmp_path / "torn")
  assert left == metrics.rows(tmp_path / "whole")[: len(left)]
  with MetricsWriter(tmp_path / "torn", tensorboard=False) as writer:
    writer.truncate_after(5)
    for step in range(6, 11):
      writer.write(step, {"train/loss": 1 / step, "time/data": 0.1})
  assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_torn_line_is_repaired_even_if_nobody_truncates(tmp_path):
  write_rows(tmp_path, 1, 3)
  path = tmp_path / "metrics.jsonl"
  os.truncate(path, path.stat().st_size - 5)
  write_rows(tmp_path, 3, 4)
  assert [row["step"] for row in metrics.rows(tmp_path)] == [1, 2, 3, 4]


def test_a_damaged_line_in_the_middle_is_named_not_skipped(tmp_path):
  write_rows(tmp_path, 1, 5)
  path = tmp_path / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join([*lines[:2], '{"step": 3, "tra\n', *lines[3:]]))
  with pytest.raises(DataError, match=r"metrics\.jsonl:3"):
    metrics.rows(tmp_path)


def test_truncation_takes_samples_too_and_counts_rows(tmp_path):
  with MetricsWriter(tmp_path, tensorboard=False) as writer:
    for step in (1, 2, 3):
      writer.write(step, {"train/loss": 1.0})
      writer.write(step, {"eval/loss": 1.0})
      writer.write_sample(step, "To be", " or not\nto be \u2028 \x00 ü")
    assert writer.truncate_after(1) == 4
  assert [row["step"] for row in metrics.rows(tmp_path)] == [1, 1]
  assert metrics.samples(tmp_path) == [{"step": 1, "prompt": "To be", "text": " or not\nto be \u2028 \x00 ü"}]


def test_side_work_that_is_done_again_at_a_resume_is_not_there_twice(tmp_path):
  def side_work(writer):
    writer.write(2, {"eval/loss": 1.0, "time/eval": 0.1})
    writer.write_sample(2, "a", "b")

  with MetricsWriter(tmp_path, tensorboard=False) as writer:
    writer.write(1, {"eval/loss": 2.0})
    writer.write(2, {"train/loss": 1.0})
    for _ in range(3):  # killed after the side work, twice
      writer.truncate_after(2, again=["evaluate", "sample"])
      side_work(writer)
    writer.truncate_after(2)
  assert [list(row)[1] for row in metrics.rows(tmp_path)] == ["eval/loss", "train/loss", "eval/loss"]
  assert len(metrics.samples(tmp_path)) == 1


def test_a_full_disk_is_named_and_leaves_a_file_that_can_go_on(tmp_path):
  limited = """
import resource, signal, sys
from llm_jax.core.errors import LlmJaxError
from llm_jax.training.metrics import MetricsWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with MetricsWriter(sys.argv[1], tensorboard=False) as writer:
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    for step in range(1, 100): writer.write(step, {"train/loss": 1 / step})
  except LlmJaxError as e:
    print(e)
  resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
  for step in range(step, 100): writer.write(step, {"train/loss": 1 / step})
"""
  done = subprocess.run([sys.executable, "-c", limited, str(tmp_path)], capture_output=True, text=True, check=True)
  assert "metrics.jsonl" in done.stdout and "could not be written" in done.stdout
  assert [row["step"] for row in metrics.rows(tmp_path)] == list(range(1, 100))


WRITER_IN_A_LOOP = """
import sys
from llm_jax.training import metrics
with metrics.MetricsWriter(sys.argv[1], tensorboard=False) as writer:
  rows = metrics.rows(sys.argv[1])
  step = rows[-1]["step"] // 50 * 50 if rows else 0  # as if every 50th step had a checkpoint
  writer.truncate_after(step)
  print("ready", flush=True)
  while True:
    step += 1
    writer.write(step, {"train/loss": 1 / step, "eval/loss": float("nan") if step % 7 == 0 else 0.5})
"""


def test_kill_9_at_any_instant_loses_nothing_that_was_written(tmp_path):
  for kill in range(4):
    process = subprocess.Popen([sys.executable, "-c", WRITER_IN_A_LOOP, str(tmp_path)], stdout=subprocess.PIPE,
                               env=os.environ | {"JAX_PLATFORMS": "cpu"})
    process.stdout.readline()
    try:
      process.wait(timeout=0.05 + 0.037 * kill)
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGKILL)
    process.communicate()
  steps = [row["step"] for row in metrics.rows(tmp_path)]
  assert len(steps) > 50 and steps == list(range(1, len(steps) + 1))
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_name_alone_says_what_the_clock_decides():
  row = {"step": 1, "train/loss": 1.0, "train/mfu": 0.4, "train/tokens_per_second": 3.0, "eval/tokens_per_second": 3.0,
         "train/flops_per_second": 2.0, "time/data": 0.1, "memory/device_peak": 5, "train/tokens": 4}
  assert metrics.deterministic(row) == {"step": 1, "train/loss": 1.0, "train/tokens": 4}
  assert not metrics.is_wall_clock("curriculum/time") and not metrics.is_wall_clock("eval/loss/time")


def test_other_hosts_write_nothing(tmp_path):
  with MetricsWriter(tmp_path / "run", primary=False) as writer:
    writer.write(1, {"train/loss": 1.0})
    writer.write_sample(1, "a", "b")
    writer.truncate_after(0)
    writer.sync()
  assert not (tmp_path / "run").exists()


def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path):
  loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  for first, last in ((1, 8), (6, 10)):
    with MetricsWriter(tmp_path) as writer:
      writer.truncate_after(first - 1)
      for step in range(first, last + 1):
        writer.write(step, {"train/loss": float(10 * first + step), "note/text": "skipped"})
  events = loader.EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
  assert [(e.step, e.value) for e in events] == [(s, 10.0 + s if s < 6 else 60.0 + s) for s in range(1, 11)]


def test_tensorboard_files_appear(tmp_path):
  with MetricsWriter(tmp_path) as writer:
    writer.write(1, {"train/loss": 1.0})
    writer.sync()
  assert len(list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))) == 1


def test_wandb_that_is_not_installed_is_a_config_error(tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(ConfigError, match="wandb is not installed"):
    MetricsWriter(tmp_path, wandb={"project": "x"})


def test_wandb_keeps_its_identity_over_a_resume(tmp_path, monkeypatch):
  calls = []
  run = types.SimpleNamespace(id="abc", define_metric=lambda *a, **k: None, finish=lambda: None,
                              log=lambda values: calls.append(values))
  module = types.SimpleNamespace(init=lambda **options: calls.append(options) or run)
  monkeypatch.setitem(sys.modules, "wandb", module)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: module)
  for step in (1, 2):
    with MetricsWriter(tmp_path, tensorboard=False, wandb={"project": "x"}) as writer:
      writer.write(step, {"train/loss": 1.0})
  assert [c["id"] for c in calls if "project" in c] == [None, "abc"]
  assert calls[-1] == {"train/loss": 1.0, "step": 2}


def test_a_document_is_old_or_new_and_damage_is_named(tmp_path):
  assert run_directory.read_document(tmp_path, "data.json") is None
  run_directory.write_document(tmp_path, "data.json", {"a": float("nan"), "b": [1, math.inf]})
  assert run_directory.read_document(tmp_path, "data.json") == {"a": "nan", "b": [1, "inf"]}
  with pytest.raises(TypeError):
    JsonLines(tmp_path / "x.jsonl").append({"step": 1, "a": object()})
  (tmp_path / "data.json").write_text("{")
  with pytest.raises(DataError, match=r"data\.json"):
    run_directory.read_document(tmp_path, "data.json")
