"""A run's rows do not depend on how many hosts read them, on where it was killed, or on both changing on the way: for
schedules at their borders, and for every curriculum that watches the run.

The loop around a curriculum in miniature (training/loop.py): before step s it has seen the metrics of all steps below
s - 2 and of none after. Here the metrics are made from the rows, so that a wrong row changes every later plan.
"""

import functools
import json

import numpy as np
import pytest

from llm_jax import scoring
from llm_jax.core.types import Plan
from llm_jax.curriculum import (
    batch_size,
    competence,
    doremi,
    exp3s,
    knobs,
    mixture,
    odm,
    self_paced,
    sequence_length,
    teacher_student,
)
from llm_jax.curriculum.composed import compose

BATCH, LENGTH, STEPS = 8, 32, 40
SIZES = STEPS, BATCH, LENGTH
short_first = functools.partial(sequence_length.build, *SIZES, start=8, until=20)
MAKE = {
    "odm": lambda: odm.build(*SIZES),
    "exp3s": lambda: exp3s.build(*SIZES, rate=0.5, draws=4),
    "teacher_student": lambda: teacher_student.build(*SIZES, window=3),
    "doremi": lambda: doremi.build(*SIZES, reference="made below"),
    "self_paced": lambda: self_paced.build(*SIZES, start=1.0, end=4.0),
    "stages": lambda: mixture.build(*SIZES, stages=[(0, {"a": 1}), (13, {"a": 1, "b": 1}), (26, {"b": 1})]),
    "batch": lambda: batch_size.build(*SIZES, start=4, until=20),
    "competence": lambda: competence.build(*SIZES, until=20),
    "length and bandit": lambda: compose([short_first(), odm.build(*SIZES)], BATCH, LENGTH),
    "all at once": lambda: compose([
        short_first(mode="truncate"), competence.build(*SIZES, until=30), teacher_student.build(*SIZES, window=3),
        knobs.build(*SIZES, knobs={"mask_ratio": dict(start=0.1, end=0.3)})], BATCH, LENGTH)}
ADAPTIVE = {"odm", "exp3s", "teacher_student", "doremi", "length and bandit", "all at once"}


def made_metrics(batch, domains, step):
  """What a step would measure of these rows, made from them."""
  found = {}
  for i, domain in enumerate(domains):
    mine = batch["domain"] == i
    loss = 2.0 + np.cos(0.1 * step * (i + 1)) + batch["tokens"][mine].mean() / 255 if mine.any() else 0.0
    for name, value in (("loss", loss), ("excess", 0.1 * loss)):
      found[f"{name}_part/{domain}"] = float(mine.mean() * value)
    found[f"share/{domain}"] = float(mine.mean())
  return found


def run(equipped, hosts_at, kills=()):
  """[(plan, rows)] of every step, read by hosts_at(step) hosts; at a kill everything but JSON is made anew."""
  source, curriculum = equipped()
  state, waiting, found = curriculum.init(), [], []
  for step in range(STEPS):
    if step in kills:
      source, curriculum = equipped()
      state, waiting = json.loads(json.dumps([state, waiting]))
    while waiting and waiting[0][0] < step - 2:
      state = curriculum.observe(state, *waiting.pop(0))
    plan = curriculum.plan(step, state)
    hosts, share = hosts_at(step), plan.batch // hosts_at(step)
    parts = [source.take(step, plan, slice(h * share, (h + 1) * share)) for h in range(hosts)]
    batch = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    waiting.append([step, {**made_metrics(batch, source.domains, step), **plan.knobs}])
    found.append((plan, batch))
  return found, state


def same(one, other):
  """Plans, rows and the last state are equal to the bit."""
  for step, ((plan, batch), (again, rows)) in enumerate(zip(one[0], other[0], strict=True)):
    assert plan == again, step
    assert batch.keys() == rows.keys() and all((batch[n] == rows[n]).all() for n in batch), step
  assert json.dumps(one[1]) == json.dumps(other[1])


@pytest.mark.parametrize("name", MAKE)
def test_rows_do_not_depend_on_hosts_or_kills(corpus, cache_dir, name):
  def equipped():
    made = corpus()
    curriculum = MAKE[name]().for_domains(made.train.domains)
    source = scoring.equip(made, curriculum, 0, cache_dir).train
    return source.serving(label_domains=True), curriculum
  whole = run(equipped, lambda step: 1)
  for hosts in (2, 4):
    same(run(equipped, lambda step, hosts=hosts: hosts), whole)
  same(run(equipped, lambda step: 2, kills=range(STEPS)), whole)
  same(run(equipped, lambda step: (1, 2, 4)[step // 7 % 3], kills=range(0, STEPS, 7)), whole)
  for at in (12, 13, 14, 25, 26, 27):  # before, at and after the border of a stage
    same(run(equipped, lambda step, at=at: 1 if step < at else 4, kills=(at,)), whole)
  if name in ADAPTIVE:
    plans = [plan for plan, _ in whole[0]]
    assert len({str((p.mixture, p.knobs)) for p in plans}) > STEPS / 4  # it does adapt
    wrong, _ = equipped()
    off = wrong.take(3, Plan(BATCH, LENGTH))
    assert made_metrics(off, wrong.domains, 3) != made_metrics({**off, "tokens": off["tokens"] + 1}, wrong.domains, 3)
