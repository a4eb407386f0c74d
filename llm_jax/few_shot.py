"""Few-shot learning between the rooms: what an evaluation measures of held-out tasks, during a run and after it.

A task is learned from its support set by gradient (the learner's own inner loop, or plain descent at
`config.adaptation.lr`) or in context (the support set stands in the row). After training both are measured with no, one
and all support examples, over several draws of held-out tasks: mean and worst.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax

from llm_jax.core.types import Batch, Learner, Loss, LossFn, Mean, Objective
from llm_jax.data.corpus import Corpus
from llm_jax.evaluation import adaptation, choices
from llm_jax.launch_checks import reads_episodes
from llm_jax.parallel import tasks
from llm_jax.run import Run
from llm_jax.training.step import make_eval_step, mean_weighting


def adapts(section: Mapping[str, Any], learner: Learner) -> bool:
  """Whether held-out tasks can be adapted to by gradient. section: config.adaptation."""
  return adaptation.measurable(adaptation.build(**section), learner)


def eval_step(section: Mapping[str, Any], corpus: Corpus, apply: Callable, objective: Objective,
              learner: Learner) -> Callable:
  """(params, frozen, batch) -> {name: Mean}. Of plain rows: their loss. Of rows with every answer of a multiple choice:
  the loss of the right one, and accuracy. Of an episode: the curve of adaptation to it."""
  plain_step = make_eval_step(apply, objective)
  if corpus.few_shot is None or reads_episodes(objective.fields):
    return plain_step
  wanted = adaptation.for_learner(adaptation.build(**section), learner)
  steps = getattr(learner, "inner_steps", 0)
  needed = any(reads_episodes(data.fields) for data in corpus.evals.values())
  rule: Any = adaptation.rule(wanted, learner) if needed or adapts(section, learner) else None

  def step(params: Any, frozen: Any, batch: Batch) -> Any:
    loss_fn = loss_of(apply, objective, frozen)
    if "support" in batch:
      return adaptation.curve(wanted, rule, steps, tasks.map_tasks, loss_fn, params, batch)
    _, loss = loss_fn(params, batch, None)
    return {"loss": Mean(loss.total, loss.weight), **loss.metrics}
  return step


def loss_of(apply: Callable, objective: Objective, frozen: Any) -> LossFn:
  """(params, batch, key) -> (total, Loss) without dropout; with 'answer' in the batch that of a multiple choice."""
  def loss_fn(params: Any, batch: Batch, key: Any) -> tuple[jax.Array, Loss]:
    rows = choices.rows_of(batch) if "answer" in batch else batch
    losses = objective(apply, {**frozen, **params}, rows, None, {})
    loss = choices.judged(losses, batch) if "answer" in batch else mean_weighting(losses, {})
    return loss.total, loss
  return loss_fn


def report(run: Run, params: Any, frozen: Any, seeds: int) -> dict[str, dict[str, Any]]:
  """{'accuracy/in_context/4_shots': {'mean', 'worst', 'values'}, ...} over `seeds` draws of held-out tasks; nothing if
  the data are not for few-shot learning. By gradient only where there is a rule to adapt by."""
  held = run.corpus.few_shot
  if held is None:
    return {}
  whole = reads_episodes(run.objective.fields)
  ways: dict[str, Any] = {"support" if whole else "gradient": held.gradient if whole or run.adapts else None,
                          "in_context": None if whole else held.in_context}
  values: dict[str, list[float]] = {}
  for way, data in ways.items():
    for shots in sorted({0, 1, held.shots}) if data is not None else ():
      for seed in range(seeds):
        drawn = dataclasses.replace(data, seed=seed, knobs={**data.knobs, "k_shot": shots})
        for metric, value in run.measure(drawn, params, frozen).items():
          values.setdefault(f"{metric}/{way}/{shots}_shot{'' if shots == 1 else 's'}", []).append(value)
  worst = lambda name, found: (min if name.startswith("accuracy") else max)(found)
  return {name: {"mean": statistics.fmean(found), "worst": worst(name, found), "values": found}
          for name, found in values.items()}


def table(found: Mapping[str, Mapping[str, Any]], seeds: int) -> str:
  """Lines of name, mean and worst."""
  lines = [f"{'held-out tasks, ' + str(seeds) + ' seeds':<48} {'mean':>10} {'worst':>10}"]
  return "\n".join(lines + [f"{name:<48} {v['mean']:>10.5g} {v['worst']:>10.5g}" for name, v in found.items()])
