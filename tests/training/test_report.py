"""The report is one page that opens anywhere, of any run at any time, and shows what the files say."""

import os
import pathlib
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from llm_jax.training import metrics, panels, plots, report, run_directory, summary
from llm_jax.training.metrics import MetricsWriter
from tests.training.run_fixture import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp("runs") / "quickstart")


def page_of(workdir) -> str:
  return report.write(workdir).read_text("utf-8")


def test_the_page_shows_every_part_of_the_run(run):
  page = page_of(run)
  for text in ("quickstart", "Best eval loss", "Best bits per byte", "Learning rate", "Gradient norm", "Throughput",
               "Step time", "Planned mixture", "The function", "returns the number of items at step 200.", "betas",
               "standard_library", "blocks.query.kernel", "2,654,208 parameters", "Finished", "jaxlib"):
    assert text in page, text


def test_the_page_needs_no_network_and_runs_nothing(run):
  page = page_of(run)
  assert "default-src 'none'" in page
  assert not re.search(r"<script|<link|<img|<iframe|@import|\ssrc=|url\((?!#)|href=\"(?!#)|\son\w+=", page)


def test_the_drawings_are_well_formed_and_the_page_always_the_same(run):
  page = page_of(run)
  drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
  assert len(drawings) >= 7
  for drawing in drawings:
    xml.etree.ElementTree.fromstring(drawing)
  identities = [i for drawing in drawings for i in set(re.findall(r'id="([^"]+)"', drawing))]
  assert len(identities) == len(set(identities)), "two drawings share an id, so one shows the other's parts"
  assert page_of(run) == page


def test_text_of_others_stays_text(tmp_path):
  bad = '</pre><script>alert(1)</script>\x00\x1b[31m \ud800 "&'
  with MetricsWriter(tmp_path, tensorboard=False) as writer:
    writer.write_sample(1, bad, bad)
    writer.write(1, {"train/<i>$x_{$": 1.0})
  for name in (run_directory.CONFIG, run_directory.DATA, run_directory.MACHINE):
    run_directory.write_document(tmp_path, name, {"<b>": {"<u>": "<script>"}, "list": ["<script>", [1, None]]})
  run_directory.write_document(tmp_path, run_directory.PARAMETERS, [{"<b>": "<script>"}])
  run_directory.write_document(tmp_path, run_directory.STATUS, {"state": "stopped", "reason": "<script>"})
  page = page_of(tmp_path)
  assert not re.search(r"<script|<b>|<u>|<i>|\x00|\x1b", page) and "&lt;script&gt;alert(1)" in page


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
  assert "no rows yet" in page_of(tmp_path)
  run_directory.write_document(tmp_path, run_directory.CONFIG, {"seed": 0})
  with MetricsWriter(tmp_path, tensorboard=False) as writer:
    writer.write(1, {"train/loss": 5.0, "time/data": 0.0, "time/dispatch": 0.0, "time/device": 0.0, "eval/loss": 5.0})
  assert page_of(tmp_path).count("<svg") == 2


def test_a_crashed_run_has_a_page_that_says_what_is_wrong(tmp_path):
  write_run(tmp_path)
  os.truncate(tmp_path / "metrics.jsonl", (tmp_path / "metrics.jsonl").stat().st_size - 9)
  (tmp_path / "machine.json").write_text('{"devices": ')
  (tmp_path / "samples.jsonl").write_text('{"step": 1, "prom\n{"step": 2}\n')
  run_directory.write_document(tmp_path, run_directory.STATUS, {"state": "stopped", "reason": "loss is not finite"})
  page = page_of(tmp_path)
  assert "machine.json: not a JSON document" in page and "samples.jsonl:1" in page
  assert "Stopped: loss is not finite" in page and "<svg" in page


def test_numbers_that_are_not_finite_are_marked_and_counted(tmp_path):
  with MetricsWriter(tmp_path, tensorboard=False) as writer:
    for step in range(1, 9):
      writer.write(step, {"train/loss": float("nan") if step > 4 else 2.0, "train/gradient_norm": float("inf"),
                          "train/skipped_updates": max(0, step - 4), "eval/loss": float("nan")})
  page = page_of(tmp_path)
  assert "train/loss is not finite at 4 logged steps, first at step 5." in page
  assert "skipped 4 updates" in page and "8 not finite" in page and "Best eval loss" not in page


def test_a_plan_lies_behind_what_happened_and_every_metric_is_drawn_once(run):
  found = panels.panels(metrics.rows(run) + [{"step": 1, "train/my_own_number": 2.0, "eval/loss/code": 1.0}],
                        run_directory.read_document(run, run_directory.SCHEDULES))
  titles = [p.title for p in found]
  assert len(titles) == len(set(titles))
  lines = {p.title: [line.label for line in p.lines] for p in found}
  assert lines["Loss"] == ["train", "eval"] and lines["Learning rate"] == ["planned", "train"]
  assert lines["Planned mixture"] == ["prose", "code"] and lines["My own number"] == ["train"]
  assert lines["Loss by part"] == ["eval code"] and "Planned learning rate" not in lines
  happened = [line for p in found if not p.title.startswith("Planned") for line in p.lines if line.kind != "plan"]
  assert len(happened) == len([n for n in panels.series(metrics.rows(run)) if n not in panels.NO_PANEL]) + 2


def test_thinning_keeps_the_ends_and_every_spike():
  values = np.random.default_rng(0).normal(size=100_000)
  values[[12_345, 70_001]] = 50.0, -50.0
  steps, thinned = plots.thin(np.arange(100_000), values)
  assert len(steps) <= plots.MOST_POINTS and {0, 12_345, 70_001, 99_999} <= set(steps.tolist())
  assert np.array_equal(values[steps], thinned) and (np.diff(steps) > 0).all()


def test_the_moving_average_keeps_a_straight_line_and_does_not_end_in_a_single_value():
  assert np.allclose(plots.moving_average(np.arange(200.0), 9)[:-4], np.arange(196.0))
  assert plots.moving_average(np.eye(200)[-1], 9)[-1] == pytest.approx(1 / 5)


@pytest.mark.parametrize("value, text", [(0, "0"), (6e-4, "6e-4"), (1.5e-5, "1.5e-5"), (0.25, "0.25"), (35_000, "35k"),
                                         (5e11, "500G"), (2.5e12, "2.5T"), (-2_000, "-2k"), (300, "300")])
def test_ticks(value, text):
  assert plots.tick(value) == text


def test_the_best_knows_which_way_is_better_and_time_adds_up_over_restarts():
  rows = [{"step": s, "eval/loss": v, "eval/accuracy": v, "train/learning_rate": v, "time/elapsed": t}
          for s, v, t in ((1, 3.0, 10.0), (2, 1.0, 20.0), (3, float("nan"), 5.0), (4, 2.0, 15.0))]
  assert summary.best(rows, "eval/loss") == (2, 1.0) and summary.best(rows, "eval/accuracy") == (1, 3.0)
  assert summary.best(rows, "train/learning_rate") is None
  assert {t.name: t.value for t in summary.tiles(rows, {}, [])}["Training time"] == "0:35"


def test_a_long_run_makes_a_page_of_bearable_size(tmp_path):
  write_run(tmp_path, steps=20_000, every=2)
  assert len(page_of(tmp_path)) < 2_500_000


def test_the_command_line_makes_the_page_again(run, tmp_path, capsys):
  assert report.main([str(run)]) == 0 and capsys.readouterr().out.strip() == str(run / "report.html")
  assert report.main([str(tmp_path / "nothing")]) == 2 and "not a run directory" in capsys.readouterr().err
  assert not (tmp_path / "nothing").exists()


def test_the_documentation_lists_every_known_name():
  page = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"
  assert metrics.table() in page.read_text("utf-8"), "paste what `python -m llm_jax.training.metrics` prints"
