"""The sections of a config that are not plug-ins: each function's keyword arguments are the section's knobs."""

import dataclasses
from typing import Any, Literal

from llm_jax.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Train:
  """`config.train`."""

  steps: int
  batch_size: int
  length: int
  seed: int
  accumulate: int
  workers: int
  prefetch: int
  split_state: bool


def train(*, steps: int, batch_size: int, length: int, seed: int = 0, accumulate: int = 1, workers: int = 0,
          prefetch: int = 2, split_state: bool = False) -> Train:
  """How long, how much at once, from which seed.

  Args:
    steps: parameter updates in the run.
    batch_size: examples in the global batch, over all devices and hosts.
    length: tokens per example.
    seed: of parameters, dropout and the order of the data.
    accumulate: micro-batches that one update is made of; they divide the batch.
    workers: processes that prepare batches; 0 is a thread of this one.
    prefetch: batches prepared ahead, per worker.
    split_state: copies of the model share the optimizer state and averages, each updates its part of the parameters
      and gathers the rest (ZeRO-1): for models that fit a device, where fsdp would gather at every layer.
  """
  for name, value in dict(steps=steps, batch_size=batch_size, length=length, accumulate=accumulate).items():
    if value < 1:
      raise ConfigError(f"config.train.{name}", f"got {value}", accepted="a whole number from 1")
  _at_least("config.train.workers", workers, 0)
  _at_least("config.train.prefetch", prefetch, 1)
  if batch_size % accumulate:
    raise ConfigError("config.train.accumulate", f"{accumulate} micro-batches do not divide the batch of {batch_size}",
                      accepted=f"a divisor of {batch_size}")
  return Train(steps, batch_size, length, seed, accumulate, workers, prefetch, split_state)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """`config.evaluation`."""

  every: int
  batches: int | None
  batch_size: int | None


def evaluation(*, every: int = 500, batches: int | None = None, batch_size: int | None = None) -> Evaluation:
  """When and how much is evaluated.

  Args:
    every: updates between evaluations; 0 never; the last update always counts.
    batches: at most so many batches per evaluation set; None is the whole set.
    batch_size: examples per batch; None takes the training batch.
  """
  for name, value in dict(batches=batches, batch_size=batch_size).items():
    _at_least(f"config.evaluation.{name}", 1 if value is None else value, 1)
  return Evaluation(_at_least("config.evaluation.every", every, 0), batches, batch_size)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """`config.checkpoint`."""

  every: int
  keep: int | None
  best: tuple[str, Literal["min", "max"]] | None
  asynchronous: bool
  verify: Literal["auto", "full", "size"]
  on_error: Literal["stop", "warn"]


def checkpoint(*, every: int = 1000, keep: int | None = 3, best: str | None = "eval/loss",
               best_mode: Literal["min", "max"] = "min", asynchronous: bool = True,
               verify: Literal["auto", "full", "size"] = "auto",
               on_error: Literal["stop", "warn"] = "stop") -> Checkpoint:
  """When a checkpoint is written and which ones stay.

  Args:
    every: updates between checkpoints; 0 only the last.
    keep: how many of the newest stay; None keeps all.
    best: evaluation metric whose best checkpoint stays too; None keeps no best.
    best_mode: is smaller ('min') or larger ('max') better.
    asynchronous: write in the background.
    verify: how much is hashed before a checkpoint is used: all of it ('full'), only sizes, or by its size ('auto').
    on_error: a failed write stops the run or only warns.
  """
  _at_least("config.checkpoint.keep", 1 if keep is None else keep, 1)
  return Checkpoint(_at_least("config.checkpoint.every", every, 0), keep, (best, best_mode) if best else None,
                    asynchronous, verify, on_error)


@dataclasses.dataclass(frozen=True)
class Log:
  """`config.log`."""

  every: int
  tensorboard: bool
  wandb: dict[str, Any] | None
  report: bool


def log(*, every: int = 10, tensorboard: bool = True, wandb: dict | None = None, report: bool = True) -> Log:
  """Where numbers go.

  Args:
    every: updates between rows of metrics.jsonl.
    tensorboard: also write TensorBoard event files.
    wandb: keyword arguments of wandb.init, or None for no Weights & Biases.
    report: also write report.html, at the end and now and then before it.
  """
  return Log(_at_least("config.log.every", every, 1), tensorboard, wandb, report)


@dataclasses.dataclass(frozen=True)
class Sample:
  """`config.sample`."""

  every: int
  prompts: tuple[str, ...]
  tokens: int
  temperature: float
  top_k: int | None


def sample(*, every: int = 0, prompts: tuple[str, ...] = ("",), tokens: int = 128, temperature: float = 0.8,
           top_k: int | None = 50) -> Sample:
  """Texts written during training, for the report.

  Args:
    every: updates between samples; 0 never; the last update always counts.
    prompts: one text is written for each; '' starts from the beginning of a document.
    tokens: length of each.
    temperature: of sampling; 0 is greedy.
    top_k: sample among so many most probable tokens; None is all.
  """
  _at_least("config.sample.tokens", tokens, 1)
  _at_least("config.sample.top_k", 1 if top_k is None else top_k, 1)
  if temperature < 0:
    raise ConfigError("config.sample.temperature", f"got {temperature}", accepted="0 (greedy) or above")
  return Sample(_at_least("config.sample.every", every, 0), tuple(prompts), tokens, temperature, top_k)


@dataclasses.dataclass(frozen=True)
class Ema:
  """`config.ema`."""

  decay: float
  start: Literal["warmup", "debias", "none"]


def ema(*, decay: float = 0.999, start: Literal["warmup", "debias", "none"] = "warmup") -> Ema:
  """Average of the weights, evaluated and saved beside them.

  Args:
    decay: of the exponential moving average.
    start: how early averages forget the random start, see optimizers/ema.py.
  """
  if not 0 <= decay < 1:
    raise ConfigError("config.ema.decay", f"got {decay}", accepted="0 <= decay < 1")
  return Ema(decay, start)


def _at_least(key: str, value: int, least: int) -> int:
  if value < least:
    raise ConfigError(key, f"got {value}", accepted=f"a whole number from {least}")
  return value
