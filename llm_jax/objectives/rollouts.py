"""Rollouts: completions that the policy writes to the prompts of a batch, with what they earned, inside the train step.

The batch holds prompts, so it stays a function of (seed, step, plan); the completions are drawn with the step's key, so
a resume repeats them, and no second program runs beside the step. With `updates` above 1 the rollouts of a step serve
the next ones too: they lie in the train state's carry, rows first, with the log-probabilities of the policy that wrote
them, and every `updates`-th step draws new ones (those of the prompts of that step; the steps between read no prompts).

Rows: B prompts, G completions of each; a row holds prompt and completion without a gap, padding at its end.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.output import Output
from llm_jax.core.row_parts import COMPLETION, ends_of, joined
from llm_jax.core.types import Batch, Key, Losses, Mean, Metrics, Params, Sampler, Vocabulary
from llm_jax.objectives.knob_ranges import check_positive
from llm_jax.objectives.rewards import Sum
from llm_jax.objectives.text_rows import row_keys
from llm_jax.objectives.token_logprobs import scored, token_logprobs

EARNED = "reward_"  # before the name of one of several rewards
Rollout = dict[str, Any]
"""tokens, parts (B, G, L) int32 as in token_logprobs.py; rewards (B, G); left (B,): steps that they will still serve;
weights (B,): 0 for a row that fills up a batch; where there are several rewards, each as 'reward_NAME' (B, G), before
its weight; and, where asked for, old and reference (B, G, L - 1): log-probabilities of tokens 1 .. L-1 under the policy
that wrote them and under the reference model; values (B, G, L - 1): what that policy's critic expected before each."""


@dataclasses.dataclass(frozen=True)
class Rollouts:
  """How they are made. group: G; temperature: of the policy, in sampling and in its log-probabilities; updates: steps
  on the same ones; refers: whether a reference model scores them; values: (params, output) -> (N, L - 1), a critic's;
  ends: ids that end a completion."""

  reward: Sum
  group: int
  temperature: float
  updates: int
  refers: bool
  chunk: int | str
  values: Callable[[Params, Output], jax.Array] | None = None
  ends: tuple[int, ...] = ()
  sampler: Sampler | None = None
  reference: Callable | None = None

  @property
  def fields(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("prompt", "prompt_length", "weights", *self.reward.fields)))

  @property
  def keeps_old(self) -> bool:
    """Whether what the policy that wrote them thought of them is asked for: it, or its critic, may have changed."""
    return self.updates > 1 or self.values is not None

  def for_tokenizer(self, tokenizer: Vocabulary) -> "Rollouts":
    """With the ids that end a completion.

    Raises:
      ConfigError: there is none.
    """
    ends = ends_of(tokenizer.special)
    if not ends:
      raise ConfigError("config.data.tokenizer", "has neither an 'eod' nor an 'eos' token, which ends a completion",
                        accepted="a tokenizer with one of these roles")
    return dataclasses.replace(self, ends=ends, reward=self.reward.for_tokenizer(tokenizer))

  def room(self, batch: Batch) -> int:
    """Tokens that a completion may have: what a row has left behind the longest prompt."""
    return int(batch["weights"].shape[1] - batch["prompt"].shape[1])

  def memory(self, batch: Batch) -> Rollout:
    """No rollouts: the first step draws them."""
    (B, L), G = batch["weights"].shape, self.group
    ids, numbers = jnp.zeros((B, G, L), jnp.int32), jnp.zeros((B, G, L - 1), jnp.float32)
    names = ("rewards", *(EARNED + name for name in self.reward.several))
    earned = dict.fromkeys(names, jnp.zeros((B, G), jnp.float32))
    return {"tokens": ids, "parts": ids, "left": jnp.zeros(B, jnp.int32), "weights": jnp.zeros(B, jnp.float32),
            "old": numbers} | earned | ({"reference": numbers} if self.refers else {}) | (
                {"values": numbers} if self.values else {})

  def current(self, apply: Callable, params: Params, batch: Batch, key: Key | None) -> Rollout:
    """Those of this step: new ones, or those in batch['carry'] while they last; nothing of them has a gradient."""
    params = jax.lax.stop_gradient(params)
    if "carry" not in batch:
      return self.draw(apply, params, batch, key)
    kept = batch["carry"]
    again = lambda: kept | {"left": kept["left"] - 1}
    new = lambda: self.draw(apply, params, batch, key) | {"left": jnp.full_like(kept["left"], self.updates - 1)}
    found: Rollout = jax.lax.cond(kept["left"].max() > 0, again, new)
    return found

  def draw(self, apply: Callable, params: Params, batch: Batch, key: Key | None) -> Rollout:
    """New ones. key: of the step; None: the prompts themselves are the dice."""
    assert self.sampler is not None
    (B, P), G, L = batch["prompt"].shape, self.group, batch["weights"].shape[1]
    each = lambda x: jnp.broadcast_to(x[:, None], (B, G, *x.shape[1:])).reshape(B * G, *x.shape[1:])
    gap_N = each(P - batch["prompt_length"])
    left_NP = _turned(each(batch["prompt"]), gap_N)
    real_NP = jnp.arange(P) >= gap_N[:, None]
    keys_N = jax.vmap(lambda k: jax.random.split(k, G))(row_keys(key, batch["prompt"])).reshape(B * G)
    written_NT, on_NT = self.sampler(params, left_NP, real_NP, keys_N, room=L - P, temperature=self.temperature,
                                     eos_ids=self.ends)
    told = {name: each(batch[name]) for name in self.reward.fields}
    earned = self.reward.given(params).apart(told, written_NT, on_NT)
    rows_NL, parts_NL = joined(each(batch["prompt"]), P - gap_N, written_NT, on_NT)
    fold = lambda x: x.reshape(B, G, *x.shape[1:])
    found = {"tokens": fold(rows_NL), "parts": fold(parts_NL), "rewards": fold(self.reward.total(earned)),
             "weights": (batch["weights"].sum(1) > 0).astype(jnp.float32)}
    found |= {EARNED + name: fold(earned[name]) for name in self.reward.several}
    if self.keeps_old:
      old_NT, output = self.logprobs(apply, params, found)
      found["old"] = fold(old_NT)
      found |= {"values": fold(self.values(params, output))} if self.values else {}
    if self.refers:
      assert self.reference is not None
      found["reference"] = fold(self.logprobs(self.reference, params, found)[0])
    return found

  def logprobs(self, apply: Callable, params: Params, rollout: Rollout) -> tuple[jax.Array, Output]:
    """-> (log-probabilities of tokens 1 .. L-1 (N, L - 1), 0 outside the completions; the model's output), without
    dropout, so that a policy and its copy agree."""
    return token_logprobs(apply, params, flat(rollout["tokens"]), flat(rollout["parts"]), chunk=self.chunk,
                          temperature=self.temperature)


def checked(group: int, temperature: float, updates: int, least: int) -> None:
  """Raises ConfigError for a knob of rollouts outside its range. least: completions of a prompt."""
  for name, value, low in (("group", group, least), ("updates", updates, 1)):
    if value < low:
      raise ConfigError(f"config.objective.{name}", f"got {value}", accepted=f"a whole number from {low}")
  check_positive("temperature", temperature)


def flat(x_BG: jax.Array) -> jax.Array:
  """(B, G, ...) -> (B G, ...)."""
  return x_BG.reshape(-1, *x_BG.shape[2:])


def by_prompt(x_NT: jax.Array, rollout: Rollout) -> jax.Array:
  """(N, T) -> (B, G T): a row for each row of the batch, as losses have it."""
  return x_NT.reshape(rollout["rewards"].shape[0], -1)


def earned(rollout: Rollout) -> Losses:
  """What an evaluation measures: the loss is minus the mean reward."""
  rewards_BG = rollout["rewards"]
  return Losses(-rewards_BG, jnp.broadcast_to(rollout["weights"][:, None], rewards_BG.shape), report(rollout))


def mask(rollout: Rollout) -> jax.Array:
  """(N, L - 1) float32: 1 for tokens of the completions."""
  return scored(flat(rollout["parts"])).astype(jnp.float32)


def report(rollout: Rollout) -> Metrics:
  """`reward`, `reward_std` (the mean of the groups' deviations), `reward_NAME` of each of several, `completion_length`
  in tokens."""
  rewards_BG, weights_B = rollout["rewards"], rollout["weights"]
  lengths_BG = (rollout["parts"] == COMPLETION).sum(-1)
  mean = lambda x_B: Mean((x_B * weights_B).sum(), weights_B.sum())
  each = {name: mean(rollout[name].mean(1)) for name in rollout if name.startswith(EARNED)}
  return each | {"reward": mean(rewards_BG.mean(1)), "reward_std": mean(rewards_BG.std(1)),
          "completion_length": mean(lengths_BG.astype(jnp.float32).mean(1))}


def per_token(values: Mapping[str, jax.Array], weights: jax.Array) -> Metrics:
  """Means over the tokens of completions."""
  return {name: Mean(jax.lax.stop_gradient((v * weights).sum()), weights.sum()) for name, v in values.items()}


def _turned(x_NL: jax.Array, by_N: jax.Array) -> jax.Array:
  """Every row turned to the right by its own number of places."""
  L = x_NL.shape[1]
  return jnp.take_along_axis(x_NL, (jnp.arange(L) - by_N[:, None]) % L, axis=1)
