"""Text beside episodes: there may be more rows than tasks or fewer, and both must split into micro-batches."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratic import SIZE, context, loss_fn, tasks

from llm_jax import experiment
from llm_jax.core.errors import ConfigError
from llm_jax.meta_learning import maml, meta_weight_net, reptile, reweight
from llm_jax.training.step import knobs_of

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "laws"))

import in_process

TEXT = pathlib.Path(__file__).resolve().parents[2] / "llm_jax/data/fallback/king_james_bible.txt"
GPT = dict(name="gpt", variant="debug", width=16, depth=1, heads=2)
FOMAML = dict(name="fomaml", inner_lr=0.1)


def config(batch_size: int = 4, length: int = 16, accumulate: int = 1, tasks: int = 4, **changes):
  """A run over text and episodes of masked words; `tasks` is the data's own number."""
  text = dict(name="text_folder", path=str(TEXT), tokenizer=dict(name="bytes"), domains="one")
  return dict(
      model=GPT, meta_learning=FOMAML, mesh=dict(data=1, fsdp=1),
      data=dict(name="masked_words", text=text, tasks=tasks, ways=2, shots=1, query=1, eval_tasks=4),
      optimizer=dict(name="adamw", peak=1e-3), log=dict(tensorboard=False, report=False),
      train=dict(steps=8, batch_size=batch_size, length=length, accumulate=accumulate)) | changes


def build(monkeypatch, **changes) -> experiment.Run:
  return in_process.build_from(monkeypatch, config(**changes))


def traced(run: experiment.Run, step: int) -> set[str]:
  """Metrics of the step on the batch that is served, without a compilation."""
  knobs = knobs_of(run.curriculum.plan(step, run.curriculum.init()))
  return set(jax.eval_shape(run.train_step, run.abstract_state, run.batch(step), knobs)[1])


@pytest.mark.parametrize("make", [maml.build, reptile.build, reweight.build, meta_weight_net.build])
def test_rows_beside_the_episodes_change_nothing(make):
  learner, (batch, *_) = make(context()), tasks(3)
  params = {"theta": jnp.ones(SIZE)} | {n: e.init(jax.random.key(1)) for n, e in learner.extras.items()}
  grad_fn = jax.jit(learner(loss_fn, 0))
  want = grad_fn(params, batch, jax.random.key(0))
  got = grad_fn(params, {"centre": jnp.ones((7, SIZE)), **batch}, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("changes", [
    dict(batch_size=8, accumulate=2), dict(curriculum=dict(name="batch_size", start=2)),
    *(pytest.param(changes, marks=pytest.mark.slow) for changes in (
        dict(batch_size=8), dict(curriculum=dict(name="sequence_length", start=8)),
        dict(batch_size=6, meta_learning=dict(name="mixed", meta=FOMAML)))),
], ids=["micro-batches", "batches that grow", "more rows", "rows that grow", "mixed"])
def test_steps_are_made_of_any_number_of_rows(changes, monkeypatch):
  run = build(monkeypatch, **changes)
  plans = [run.curriculum.plan(step, run.curriculum.init()) for step in (0, 7)]
  assert plans[0].batch != 4 or len({p.length for p in plans}) == 2
  assert all("gradient_norm" in traced(run, step) for step in (0, 7))
  assert all(in_process.shapes(run.abstract_batch(plan)) == in_process.shapes(run.batch(step))
             for step, plan in zip((0, 7), plans))


@pytest.mark.parametrize("meta", [FOMAML, dict(name="mixed", meta=FOMAML)])
def test_tasks_that_do_not_divide_into_micro_batches_are_refused(meta, monkeypatch):
  with pytest.raises(ConfigError, match=r"config\.data\.tasks: 3 tasks .* 2 micro-batches\n.*a multiple of 2"):
    build(monkeypatch, accumulate=2, tasks=3, meta_learning=meta)


def test_rows_that_do_not_divide_over_the_devices_are_refused():
  with pytest.raises(ConfigError, match=r"config\.train\.batch_size: 6 examples do not divide over 8 devices"):
    experiment.build(config(batch_size=6, tasks=2, mesh=dict(data=2, fsdp=4)))


@pytest.mark.slow  # see tests/layers/test_grouped.py for the quick part of it
@pytest.mark.parametrize("name, mesh", [("maml", dict(data=2, fsdp=2, expert=2)), ("fomaml", dict(data=1, fsdp=8))])
def test_experts_of_each_task_are_its_own(name, mesh):
  """MAML's second derivatives go through products of rows by expert, see layers/grouped.py."""
  decoder = dict(name="decoder", variant="debug-mixtral", width=16, depth=1, heads=2, hidden=16)
  data = config()["data"] | dict(shots=4, query=4)
  run = experiment.build(config(batch_size=8, model=decoder, data=data, mesh=mesh,
                                meta_learning=dict(name=name, inner_lr=0.1)))
  assert {"balance_loss", "gradient_norm"} <= set(run.metric_names)
