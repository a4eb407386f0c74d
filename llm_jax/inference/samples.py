"""Texts written by a model in training, for the report."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.types import TrainState
from llm_jax.inference.generate import CONTINUES, Generator
from llm_jax.inference.programs import Programs
from llm_jax.inference.sampling import Sampling


class Text(Protocol):
  """What is asked of a tokenizer here (data/tokenizers has it)."""

  special: Any  # {role: id}

  @property
  def begin_of_document(self) -> int | None: ...

  @property
  def end_of_document(self) -> int | None: ...

  def encode(self, text: str) -> np.ndarray: ...

  def decode(self, ids: Any) -> str: ...


@dataclasses.dataclass
class Sampler:
  """sampler(state) -> [(prompt, text)], the same texts for the same weights.

  section: `config.sample`: every, prompts, tokens, temperature, top_k. rules: the mesh's, if any.

  Raises (constructor):
    ConfigError: texts are asked for and the section, or the model, cannot give them.
  """

  model: Model
  tokenizer: Text
  section: Any
  seed: int
  rules: Any = None
  _programs: Programs | None = None  # compiled by the first call; the weights are not kept, training donates them

  def __post_init__(self) -> None:
    if not self.section.every:
      return
    if not self.model.offers & CONTINUES:
      raise ConfigError("config.sample.every", f"got {self.section.every}, but this model continues no text",
                        accepted="0")
    self._how()
    longest, most = max(map(len, self._prompts()), default=0), getattr(self.model.config, "positions", None)
    if most is not None and longest >= most and not self._encodes:
      raise ConfigError("config.sample.prompts", f"a prompt of {longest} tokens, and the model has {most} positions",
                        accepted=f"at most {most - 1} tokens")

  @property
  def _encodes(self) -> bool:
    return "encoder_decoder" in self.model.offers

  def _how(self) -> Sampling:
    return Sampling(greedy=self.section.temperature == 0, temperature=self.section.temperature or 1.0,
                    top_k=self.section.top_k or 0).check("config.sample.", "0 is greedy")

  def _prompts(self) -> list[list[int]]:
    return [(source_ids if self._encodes else prompt_ids)(self.tokenizer, p) for p in self.section.prompts]

  def __call__(self, state: TrainState) -> list[tuple[str, str]]:
    generator = Generator(self.model, {**state.frozen, **state.params}, rules=self.rules, programs=self._programs,
                          start=self.tokenizer.special.get("pad"))
    self._programs = generator.programs
    prompts = self._prompts()
    room = generator.max_length or self.section.tokens + max(map(len, prompts))
    count = min(self.section.tokens, room - max(map(len, prompts)))
    made = generator.generate(prompts, max_new_tokens=count, sampling=self._how(), eos_ids=ends(self.tokenizer),
                              seed=self.seed)
    return [(p, self.tokenizer.decode(g.tokens)) for p, g in zip(self.section.prompts, made)]


def none(state: TrainState) -> list[tuple[str, str]]:
  """The sampler of a run whose data is no text."""
  return []


def prompt_ids(tokenizer: Text, prompt: str) -> list[int]:
  """Token ids of a prompt at the beginning of a document; an empty prompt is that beginning alone."""
  begin = tokenizer.begin_of_document
  ids = ([] if begin is None else [begin]) + [int(i) for i in tokenizer.encode(prompt)]
  if not ids:  # no token marks a beginning: what follows the end of a document is one, or else a line's
    end = tokenizer.end_of_document
    ids = [end] if end is not None else [int(i) for i in tokenizer.encode("\n")]
  return ids


def source_ids(tokenizer: Text, prompt: str) -> list[int]:
  """Token ids of what an encoder reads: the text and the end of a document."""
  ids = [int(i) for i in tokenizer.encode(prompt)] + list(ends(tokenizer))
  return ids or prompt_ids(tokenizer, prompt)


def ends(tokenizer: Text) -> tuple[int, ...]:
  """Ids that end a text."""
  return () if tokenizer.end_of_document is None else (tokenizer.end_of_document,)
