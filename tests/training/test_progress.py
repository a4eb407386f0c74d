"""The progress line says where the run is, on a terminal and in a log, and the throughput behind it adds up."""

import io
import re

import numpy as np
import pytest

from llm_jax.models import bert, decoder, gpt
from llm_jax.training import flops, formats
from llm_jax.training.progress import Progress
from llm_jax.training.throughput import Throughput, peak_flops_per_second


class Screen(io.StringIO):
  encoding = "utf-8"

  def __init__(self, terminal):
    super().__init__()
    self.terminal = terminal

  def isatty(self):
    return self.terminal


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


VALUES = {"train/loss": 1.93214, "train/tokens_per_second": 41_234.0, "train/flops_per_second": 3.1e12}


def run(terminal, seconds_per_step=1.0, steps=40, start=0, values=VALUES, **options):
  screen, clock = Screen(terminal), Clock()
  with Progress(100, start, stream=screen, clock=clock, **options) as progress:
    for step in range(start + 1, start + steps + 1):
      clock.now += seconds_per_step if step > start + 1 else 60.0  # the first step holds the compilation
      progress.update(step, values)
    eta = progress.eta()
  return screen.getvalue(), eta


def test_a_log_gets_a_plain_line_every_ten_seconds():
  text, _ = run(terminal=False)
  lines = text.splitlines()
  assert len(lines) == 4 and "\r" not in text and "\x1b" not in text
  assert lines[1] == "step 11/100 | loss 1.9321 | 41.2k tokens/s | 3.10 TFLOP/s | ETA 1:29"


def test_the_last_step_is_always_shown():
  text, _ = run(terminal=False, steps=100, every=1e9)
  assert [line.split(" |")[0] for line in text.splitlines()] == ["step 1/100", "step 100/100"]


def test_the_eta_leaves_out_the_compilation_and_knows_of_the_resume():
  _, eta = run(terminal=False, seconds_per_step=0.5, steps=20, start=60)
  assert eta == pytest.approx(0.5 * 20)


def test_a_terminal_gets_one_line_that_fits(monkeypatch):
  for columns in (20, 60, 200):
    monkeypatch.setenv("COLUMNS", str(columns))
    text, _ = run(terminal=True, values=VALUES | {"train/mfu": 0.4132})
    frames = text.rstrip("\n").split("\r\x1b[2K")
    assert text.count("\n") == 1 and all(len(frame) < columns for frame in frames)
  assert "MFU 41.3%" in frames[-1] and "FLOP/s" not in frames[-1] and "━" in frames[-1]


def test_an_event_stands_above_the_bar():
  screen, clock = Screen(True), Clock()
  progress = Progress(10, stream=screen, clock=clock)
  progress.update(1, VALUES)
  progress.event("step 1: eval loss 2.0")
  clock.now = 5.0
  progress.update(2, {})
  shown = re.sub(r"[^\n]*\r\x1b\[2K", "", screen.getvalue())
  assert shown.startswith("step 1: eval loss 2.0\n2/10")


def test_other_hosts_show_nothing():
  assert run(terminal=False, enabled=False)[0] == ""


def test_a_missing_or_diverged_number_does_not_stop_the_run():
  assert "loss nan" in run(terminal=False, values={"train/loss": float("nan")})[0]
  assert "ETA" in run(terminal=False, values={})[0]


@pytest.mark.parametrize("value, unit, text", [
    (41_234, "", "41.2k"), (999.96, "", "1.00k"), (999_960, "", "1.00M"), (3.1e12, "FLOP/s", "3.10 TFLOP/s"),
    (0, "", "0"), (0.5, "", "0.5"), (float("nan"), "", "nan"), (123.4e9, "B", "123 GB")])
def test_si(value, unit, text):
  assert formats.si(value, unit) == text


def test_numbers_and_durations():
  assert [formats.duration(s) for s in (42, 725, 11_229, 184_031, float("nan"))] == [
      "0:42", "12:05", "3:07:09", "2 d 03:07", "?"]
  assert [formats.number(v) for v in (1200, 1.932144, 6e-5, None, 2.0, 12345.678)] == [
      "1,200", "1.9321", "6.00e-05", "none", "2", "12,345.7"]


@pytest.mark.parametrize("kind, peak", [
    ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5e", 197e12), ("TPU v5p", 459e12), ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12), ("TPU7x", 1153.5e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756.5e12),
    ("NVIDIA H100 80GB HBM3", 989.5e12), ("NVIDIA H200", 989.5e12), ("NVIDIA B200", 2_250e12),
    ("NVIDIA GB200", 2_500e12), ("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("cpu", None),
    ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("NVIDIA GeForce RTX 9999", None)])
def test_the_peak_of_a_device_is_known_or_absent_never_guessed(kind, peak):
  assert peak_flops_per_second(kind) == peak


def test_mfu_is_the_share_of_all_devices_peak():
  measured = Throughput("NVIDIA H100 80GB HBM3", 8).measure(tokens=1e6, seconds=2.0, flops_per_token=6e9)
  assert measured == {"train/tokens_per_second": 5e5, "train/flops_per_second": 3e15,
                      "train/mfu": pytest.approx(3e15 / (8 * 989.5e12))}
  assert "train/mfu" not in Throughput("cpu", 1).measure(tokens=1, seconds=1, flops_per_token=1)


def test_flops_of_gpt3_175b_as_published():
  """GPT-3 (arXiv:2005.14165), table D.1: 3.14e23 FLOPs for 300e9 tokens, attention left out."""
  model = gpt.build(50_257, 2048, variant="gpt3-175b")
  head = 6 * 50_257 * 12_288
  assert (flops.per_token(model, 0) - head) * 300e9 == pytest.approx(3.14e23, rel=0.01)


def test_attention_costs_what_its_queries_see():
  """12 * width for each position that a query sees: counted for every query of a row, and not only by the formula."""
  def seen(model, length, sees):
    each = [[sum(sees(i, j, layer) for j in range(length)) for i in range(length)] for layer in range(layers)]
    return 12 * 64 * np.mean(each) * layers, flops.per_token(model, length) - flops.per_token(model, 0)
  layers, length = 2, 64
  wanted, found = seen(gpt.build(99, length, variant="debug"), length, lambda i, j, layer: j <= i)
  assert found == pytest.approx(wanted, rel=1 / length)
  banded = gpt.build(99, length, variant="debug", band=8)
  wanted, found = seen(banded, length, lambda i, j, layer: j <= i and (layer == 0 or i - j < 8))
  assert found == pytest.approx(wanted, rel=1 / length)
  wanted, found = seen(bert.build(99, length, variant="debug"), length, lambda i, j, layer: True)
  assert found == wanted
  layers = 4
  local = decoder.build(99, length, variant="debug-gemma3")  # local, local, full
  wanted, found = seen(local, length, lambda i, j, layer: j <= i and (layer % 3 == 2 or i - j < 8))
  assert found == pytest.approx(wanted * local.config.heads * local.config.head_width / 64, rel=1 / length)
