"""Beam search as transformers defines it: `BeamSearch(generator).search(prompts, ...)` gives each prompt's best texts.

Every step keeps the `num_beams` best continuations that go on, and the best texts that have ended, by log-probability
divided by length ** length_penalty. The whole search is one program. The beams of a row are neighbours in the batch,
and the cache is reordered with them, whatever arrays it consists of.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.inference import prompts as prompt_rows
from llm_jax.inference.generate import Generator
from llm_jax.inference.prompts import Prompts
from llm_jax.inference.sampling import penalize

WORST = -1e9  # added to the score of what may not be chosen
EarlyStopping = bool | Literal["never"]


@dataclasses.dataclass(frozen=True)
class Beam:
  """A finished text. tokens: new ids, the eos included; score: log-probability / length ** length_penalty."""

  tokens: list[int]
  score: float


class Rules(NamedTuple):
  """Traced settings. eos (E,): ids that end a text; limit: most tokens; the last two say what `early_stopping` is."""

  eos: Any
  limit: Any
  length_penalty: Any
  repetition_penalty: Any
  stop_when_full: Any
  reach_for_limit: Any


class Texts(NamedTuple):
  """K texts of each row. tokens (B, K, T); scores (B, K): best first; lengths (B, K), 0 where there is no text."""

  tokens: jax.Array
  scores: jax.Array
  lengths: jax.Array


class State(NamedTuple):
  """The state of a search.

  cache and seen (B * K, V) belong to the running beams, whose scores are plain log-probabilities. hopeful (B,): a
  running beam may still beat a finished one; stuck: every continuation of the last step ended; made: tokens of a
  running beam.
  """

  cache: Any
  seen: jax.Array
  running: Texts
  finished: Texts
  hopeful: jax.Array
  stuck: jax.Array
  made: jax.Array


class BeamSearch:
  """A search over a `Generator`'s model; keep it, since it holds the compiled program."""

  def __init__(self, generator: Generator):
    self.generator = generator
    self._run = generator.programs.jit(self._search, static_argnums=(5, 6))

  def search(self, prompts: Prompts, *, max_new_tokens: int, num_beams: int = 4, eos_ids: Sequence[int] = (),
             length_penalty: float = 1.0, early_stopping: EarlyStopping = False,
             repetition_penalty: float = 1.0) -> list[list[Beam]]:
    """The `num_beams` best texts of every prompt, best first.

    Args:
      prompts: as for `Generator.generate`.
      max_new_tokens: most new tokens of a row.
      num_beams: beams of each row.
      eos_ids: tokens that end a text.
      length_penalty: exponent of the length that log-probabilities are divided by; above 0 favours long texts.
      early_stopping: True: stop once `num_beams` texts are finished; False: once no running beam, at its present
        length, beats the worst finished one; 'never': at the best length that it could still reach.
      repetition_penalty: as in `Sampling`, applied to log-probabilities.

    Raises:
      ConfigError: settings outside their range, or what `Generator.generate` raises.
    """
    rows = prompt_rows.rows(prompts, self.generator.vocab_size)
    if num_beams < 1:
      raise ConfigError("num_beams", f"got {num_beams}", accepted="at least 1")
    if early_stopping not in (True, False, "never"):
      raise ConfigError("early_stopping", f"got {early_stopping!r}", accepted="True, False, 'never'")
    eos = sorted({int(i) for i in eos_ids})
    length = self.generator.cache_length(rows, max_new_tokens)
    cache, seen, logits_BV, _ = self.generator.prefill(rows, length, 0)
    rules = Rules(np.array(eos or [-1], np.int32), np.int32(max_new_tokens), np.float32(length_penalty),
                  np.float32(repetition_penalty), np.bool_(early_stopping is True),
                  np.bool_(early_stopping == "never" and length_penalty > 0))
    shape = (logits_BV.shape[0], num_beams, length)
    best = self._run(self.generator.params, cache, seen, logits_BV, rules, shape, max(2, 1 + len(eos)))
    tokens, scores, lengths = (np.asarray(a) for a in best)
    return [[Beam(tokens[i, k, :lengths[i, k]].tolist(), float(scores[i, k])) for k in range(num_beams)
             if lengths[i, k]] for i in range(len(rows))]

  def _search(self, params, cache, seen_BV, logits_BV, rules: Rules, shape: tuple[int, int, int], spare: int) -> Texts:
    """The compiled program. spare: continuations kept per beam, so that enough are left when some end."""
    B, K, T = shape
    nothing = jnp.zeros((B, K, T), jnp.int32)
    zeros, worst = jnp.zeros((B, K), jnp.int32), jnp.full((B, K), WORST)
    every = jnp.repeat(jnp.arange(B), K)  # each row's beams begin as copies; all but the first are out of the race
    state = State(self._reorder(params, cache, every, B, T), seen_BV[every],
                  Texts(nothing, worst.at[:, 0].set(0.0), zeros), Texts(nothing, worst, zeros),
                  jnp.ones(B, bool), jnp.bool_(False), jnp.int32(0))
    state = self._select(params, state, logits_BV[every], rules, spare)
    def going(state: State) -> jax.Array:
      full = (state.finished.lengths > 0).all() & rules.stop_when_full
      return state.hopeful.any() & ~full & ~state.stuck
    def body(state: State) -> State:
      last = jax.lax.dynamic_index_in_dim(state.running.tokens, state.made - 1, 2, keepdims=False)
      cache, logits = self.generator.programs.extend(params, state.cache, last.reshape(B * K, 1))
      return self._select(params, state._replace(cache=cache), logits, rules, spare)
    return jax.lax.while_loop(going, body, state).finished

  def _select(self, params, state: State, logits: jax.Array, rules: Rules, spare: int) -> State:
    """One step's choice among all continuations of all beams."""
    B, K, T = state.running.tokens.shape
    V, made = logits.shape[-1], state.made + 1
    logprobs = penalize(jax.nn.log_softmax(logits.astype(jnp.float32)), state.seen, rules.repetition_penalty)
    total = (logprobs.reshape(B, K, V) + state.running.scores[..., None]).reshape(B, K * V)
    scores, chosen = jax.lax.top_k(total, min(spare * K, K * V))
    beam, token = chosen // V, (chosen % V).astype(jnp.int32)
    tokens = jnp.take_along_axis(state.running.tokens, beam[..., None], 1).at[:, :, state.made].set(token)
    ends = (token[..., None] == rules.eos).any(-1) | (made >= rules.limit)

    running, picked = _best(Texts(tokens, scores + ends * WORST, jnp.full(ends.shape, made)), K)
    finished = self._finish(state, Texts(tokens, scores, jnp.where(ends, made, 0)), rules)
    parent = jnp.take_along_axis(beam, picked, 1) + jnp.arange(B)[:, None] * K
    parent, last = parent.reshape(-1), jnp.take_along_axis(token, picked, 1).reshape(-1)
    seen = state.seen[parent].at[jnp.arange(B * K), last].set(True)

    reach = jnp.where(rules.reach_for_limit, rules.limit, made).astype(jnp.float32) ** rules.length_penalty
    bar = jnp.where(finished.lengths > 0, finished.scores.min(-1, keepdims=True), WORST)
    hopeful = state.hopeful & (running.scores[:, :1] / reach > bar).any(-1)
    cache = self._reorder(params, state.cache, parent, B * K, T)
    return State(cache, seen, running, finished, hopeful, ends.all(), made)

  def _finish(self, state: State, new: Texts, rules: Rules) -> Texts:
    """The best finished texts: those before, and those of this step's K best continuations that ended."""
    K = state.running.scores.shape[1]
    among_best = jnp.arange(new.scores.shape[1]) < K
    ended = (new.lengths > 0) & among_best
    full = (state.finished.lengths > 0).all(-1) & rules.stop_when_full
    closed = (full | ~state.hopeful)[:, None]
    length = (state.made + 1).astype(jnp.float32)
    scores = new.scores / length ** rules.length_penalty + (closed * WORST + ~ended * WORST)
    new = Texts(new.tokens, scores, jnp.where(ended & ~closed, new.lengths, 0))
    return _best(Texts(*(jnp.concatenate(pair, 1) for pair in zip(state.finished, new))), K)[0]

  def _reorder(self, params, cache: Any, index: jax.Array, batch: int, length: int) -> Any:
    """The cache with its rows taken by `index`, along whichever axis of each array is the batch's."""
    shapes = [jax.tree.leaves(self.generator.programs.cache_shapes(params, n, length)) for n in (batch, batch + 1)]
    leaves, structure = jax.tree.flatten(cache)
    moved = []
    for leaf, one, more in zip(leaves, *shapes):
      axis = next((i for i, (a, b) in enumerate(zip(one.shape, more.shape)) if a != b), None)
      moved.append(leaf if axis is None else jnp.take(leaf, index, axis=axis))
    return jax.tree.unflatten(structure, moved)


def _best(texts: Texts, count: int) -> tuple[Texts, jax.Array]:
  """The `count` texts with the highest scores, and their places."""
  scores, places = jax.lax.top_k(texts.scores, count)
  pick = lambda a: jnp.take_along_axis(a, places, 1)
  return Texts(jnp.take_along_axis(texts.tokens, places[..., None], 1), scores, pick(texts.lengths)), places


def beam_search(generator: Generator, prompts: Prompts, *, beams: int = 4, **options: Any) -> list[Beam]:
  """The best text of every prompt, by `BeamSearch(generator).search` for a single use: it compiles anew each time."""
  return [row[0] for row in BeamSearch(generator).search(prompts, num_beams=beams, **options)]
