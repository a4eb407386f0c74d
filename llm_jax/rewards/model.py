"""The score that a trained reward model gives to prompt and completion: what a policy learns from where preferences are
all that is known of what is wanted (Stiennon et al. 2020, section 3.4; Ouyang et al. 2022, section 3.5).

The model reads the row as the policy wrote it. It is one that the objective `reward` trained, or another network with
one score for a text; its arrays lie frozen in the train state, as a reference model's do.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.reward import Reward
from llm_jax.core.row_parts import PADDING, ends_of, joined
from llm_jax.core.types import Batch, Params, Score


@dataclasses.dataclass(frozen=True)
class Scored(Reward):
  """See `build`. score, params: the model, once it is there; ends: ids that end a completion."""

  clip: float | None
  unfinished: float
  models: tuple[str, ...] = ()
  score: Score | None = None
  params: Params | None = None
  ends: tuple[int, ...] = ()
  fields: tuple[str, ...] = ("prompt", "prompt_length")

  def for_tokenizer(self, tokenizer: Any) -> "Scored":
    return dataclasses.replace(self, ends=ends_of(tokenizer.special))

  def with_models(self, scores: Sequence[Score]) -> "Scored":
    return dataclasses.replace(self, score=scores[0])

  def given(self, params: Params) -> "Scored":
    return dataclasses.replace(self, params=params)

  def __call__(self, batch: Batch, tokens_NT: jax.Array, mask_NT: jax.Array) -> jax.Array:
    assert self.score is not None and self.params is not None
    tokens_NL, parts_NL = joined(batch["prompt"], batch["prompt_length"], tokens_NT, mask_NT)
    scores_N = self.score(self.params, tokens_NL, parts_NL != PADDING)
    scores_N = scores_N if self.clip is None else jnp.clip(scores_N, -self.clip, self.clip)
    ended_N = (jnp.isin(tokens_NT, jnp.asarray(self.ends)) & mask_NT).any(1)
    return jnp.where(ended_N, scores_N, scores_N - self.unfinished)


def build(*, folder: str, clip: float | None = None, unfinished: float = 0.0) -> Scored:
  """A reward model's score.

  Args:
    folder: the workdir of a run with the objective 'reward', or a Hugging Face folder for sequence classification with
      one label; with the same tokenizer.
    clip: scores are cut to -clip .. clip; None leaves them as they are.
    unfinished: what is taken off the score of a completion that was cut short.

  Raises:
    ConfigError: a number out of its range.
  """
  key = "config.objective.reward"
  if clip is not None and clip <= 0:
    raise ConfigError(f"{key}.clip", f"got {clip:g}", accepted="a number above 0, or None")
  if unfinished < 0:
    raise ConfigError(f"{key}.unfinished", f"got {unfinished:g}", accepted="a number from 0")
  return Scored(clip, unfinished, (folder,))
