"""Cached generation: `Generator(model, params).generate(prompts, max_new_tokens=...)`, or token by token with `stream`.

Prompts are read in chunks of a few sizes, then one compiled step makes a token for every row; its cache has a size of
a few. So the number of compiled programs does not grow with the number of prompts. A whole generation runs as one
program on the device; `stream` runs the same step from Python and gives the same tokens. Where the model has an
encoder, that reads the prompts, and the decoder begins a text of its own.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.model import Model
from llm_jax.core.types import Params
from llm_jax.inference import prompts as prompt_rows
from llm_jax.inference import weights
from llm_jax.inference.programs import Chosen, Programs, State
from llm_jax.inference.prompts import Prompts
from llm_jax.inference.sampling import Sampling, Settings, settings
from llm_jax.inference.text_stream import TextStream
from llm_jax.layers import doors
from llm_jax.parallel import rules as sharding

CONTINUES = frozenset({"causal", "encoder_decoder"})  # of core/offers.py: what it takes to generate
SEEDS = 2**32  # how many there are
Reason = Literal["eos", "length", "stop"]
Decode = Callable[[Sequence[int]], str]


@dataclasses.dataclass(frozen=True)
class Generated:
  """One row's result. tokens: new ids, the eos that ended them included; logprobs: of each under the model itself;
  reason: 'eos', 'stop' (a stop string) or 'length'; text: cut before the stop string, when stop strings were given."""

  tokens: list[int]
  logprobs: list[float]
  reason: Reason
  text: str | None = None


class Generator:
  """A model and its parameters, ready to generate; keep it, since it holds the compiled programs.

  Args of the constructor:
    model, params: as from `experiment` or `hub.load`; params may be sharded over a mesh.
    max_length: most tokens of a row, prompt included; None takes the model's number of positions, if it has one.
    rules: sharding rules of the mesh that params lie on; None takes those in force.
    unrolled: one array per layer and unrolled layers: faster on a CPU, see weights.py; None chooses by platform.
    start: token that begins the decoder's text where the model has an encoder and its config does not say.
    programs: those of another Generator of this model, so that other weights need no compilation.

  Raises (constructor):
    ConfigError: a model that scores tokens from both sides, or no tokens.
  """

  def __init__(self, model: Model, params: Params, *, max_length: int | None = None,
               rules: sharding.ShardingRules | None = None, unrolled: bool | None = None,
               start: int | None = None, programs: Programs | None = None):
    if not model.offers & CONTINUES:
      raise ConfigError("model", f"{type(model.config).__name__} with these heads continues no text",
                        accepted="a causal language model, or an encoder with a decoder")
    self.rules = sharding.active() if rules is None else rules
    if unrolled is None:
      with sharding.use(self.rules):
        unrolled = doors.platform() == "cpu" and not doors.partitioned()
    self.model = model
    self.max_length = getattr(model.config, "positions", None) if max_length is None else max_length
    self.vocab_size = getattr(model.config, "vocab_size", None)
    params = {name: jnp.asarray(a) for name, a in params.items()}
    self.params = weights.split_layers(model, params) if unrolled else params
    self.programs = Programs(model, self.rules, unrolled) if programs is None else programs
    self.begins = _start_token(model, start) if self.programs.encodes else None

  def generate(self, prompts: Prompts, *, max_new_tokens: int, sampling: Sampling = Sampling(greedy=True),  # noqa: B008
               eos_ids: Sequence[int] = (), seed: int = 0, stop: Sequence[str] = (), decode: Decode | None = None,
               slide: bool = False, loop: Literal["device", "python"] = "device") -> list[Generated]:
    """Continues every prompt.

    Args:
      prompts: lists of token ids, or (input_ids (B, L), attention_mask (B, L)).
      max_new_tokens: most new tokens of a row.
      sampling: how a token is chosen; greedy by default.
      eos_ids: tokens that end a row.
      seed: of the random numbers; a row's depend on it, on the row's number and on the count of its tokens only.
      stop: strings that end a row; they need `decode`, and the steps then run from Python.
      decode: token ids to text.
      slide: a row that has filled the model's positions goes on with the last half of them as its prompt.
      loop: 'device': one program makes all steps; 'python': one call a step. The tokens are the same.

    Raises:
      ConfigError: an empty prompt, a token outside the vocabulary, more tokens than the model has positions, settings
        outside their range.
    """
    rows = prompt_rows.rows(prompts, self.vocab_size)
    if stop and decode is None:
      raise ConfigError("stop", "stop strings need a tokenizer to decode with")
    arguments = dict(max_new_tokens=max_new_tokens, sampling=sampling, eos_ids=eos_ids, seed=seed)
    if loop == "device" and not stop and not slide:
      tokens, logprobs = self._on_device(rows, **arguments)
      return [_cut(tokens[:, i], logprobs[:, i], eos_ids) for i in range(len(rows))]
    return self._from_python(rows, stop, decode, dict(arguments, slide=slide))

  def stream(self, prompts: Prompts, *, max_new_tokens: int, sampling: Sampling = Sampling(greedy=True),  # noqa: B008
             eos_ids: Sequence[int] = (), seed: int = 0, slide: bool = False) -> Iterator[list[int | None]]:
    """Yields one token per row as soon as it is there, None for rows that have ended; arguments as for `generate`."""
    rows = prompt_rows.rows(prompts, self.vocab_size)
    for tokens, _ in self._steps(rows, max_new_tokens=max_new_tokens, sampling=sampling, eos_ids=eos_ids, seed=seed,
                                 slide=slide):
      yield tokens

  def stream_text(self, prompt: Sequence[int], decode: Decode, *, max_new_tokens: int,
                  sampling: Sampling = Sampling(greedy=True), eos_ids: Sequence[int] = (), seed: int = 0,  # noqa: B008
                  stop: Sequence[str] = (), slide: bool = False) -> Iterator[str]:
    """Yields pieces of complete text as they come, ending before the first stop string; arguments as for `generate`."""
    text = TextStream(decode, stop)
    for token, in self.stream([prompt], max_new_tokens=max_new_tokens, sampling=sampling, eos_ids=eos_ids, seed=seed,
                              slide=slide):
      piece = "" if token is None or token in eos_ids else text.push(token)
      if piece:
        yield piece
      if text.stopped:
        return
    rest = text.finish()
    if rest:
      yield rest

  def prefill(self, rows: list[list[int]], cache_length: int, seed: int) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
    """Reads the prompts -> (cache, tokens seen (B, V), scores of the next token (B, V), random keys (B,)).

    The batch is filled up with copies of the last row to what the mesh divides.

    Raises:
      ConfigError: a seed that does not fit 32 bits.
    """
    if not 0 <= seed < SEEDS:
      raise ConfigError("seed", f"got {seed}", accepted="a whole number from 0 to 2**32 - 1")
    rows = rows + rows[-1:] * (-len(rows) % self._batch_ways())
    if self.begins is None:
      cache, seen, keys = self.programs.start(self.params, np.uint32(seed), len(rows), cache_length)
      parts = prompt_rows.chunks(rows)
    else:
      cache, seen, keys = self.programs.encode(self.params, np.uint32(seed), *prompt_rows.whole(rows), cache_length)
      begins = np.full((len(rows), 1), self.begins, np.int32)
      parts = [(begins, np.ones_like(begins))]
    for ids, mask in parts:
      cache, seen, logits = self.programs.read(self.params, cache, seen, ids, mask)
    return cache, seen, logits, keys

  def cache_length(self, rows: list[list[int]], new: int) -> int:
    """Slots for these prompts and `new` tokens each.

    Raises:
      ConfigError: more tokens than the model can hold.
    """
    self.check_count(new)
    longest = max(map(len, rows)) if self.begins is None else 1
    if self.max_length is not None and longest + new > self.max_length:
      raise ConfigError("max_new_tokens", f"{longest} prompt tokens and {new} new ones are more than the "
                        f"{self.max_length} that the model can hold",
                        accepted=f"at most {max(self.max_length - longest, 0)} new tokens for this prompt")
    read = prompt_rows.padded_length(longest) if self.begins is None else 1
    return prompt_rows.power_of_two(read + new, prompt_rows.SHORTEST_CACHE)

  def check_count(self, new: int) -> None:
    """Raises ConfigError when `new` is no number of tokens to generate."""
    if not 1 <= new < 2**31:
      raise ConfigError("max_new_tokens", f"got {new}", accepted="at least 1" if new < 1 else "less than 2**31")

  def _on_device(self, rows, *, max_new_tokens, sampling, eos_ids, seed) -> tuple[np.ndarray, np.ndarray]:
    length = self.cache_length(rows, max_new_tokens)
    state, chosen, options = self._begin(rows, length, sampling, eos_ids, seed)
    _, tokens, logprobs = self.programs.all_steps(self.params, state, chosen, options, np.int32(max_new_tokens),
                                                  np.zeros(length, bool))
    return np.asarray(tokens)[:max_new_tokens], np.asarray(logprobs)[:max_new_tokens]

  def _steps(self, rows, *, max_new_tokens, sampling, eos_ids, seed, slide) -> Iterator[tuple[list, list[float]]]:
    """(tokens of the step, log-probabilities), one entry a row. The next step is under way before one is read."""
    self.check_count(max_new_tokens)
    limit = self.max_length if slide and self.begins is None else None
    state, rows, ended, left = None, [list(row) for row in rows], [False] * len(rows), max_new_tokens
    while left:
      if limit is not None:
        rows = [row[-max(limit // 2, 1):] if len(row) >= limit else row for row in rows]
      new = left if limit is None else min(left, limit - max(map(len, rows)))
      state, chosen, options = self._begin(rows, self.cache_length(rows, new), sampling, eos_ids, seed, state)
      for i in range(new):
        read = chosen
        if i + 1 < new:
          state, chosen = self.programs.step(self.params, state, options)
        tokens, logprobs, done = (np.asarray(a).tolist() for a in read)
        yield [None if over else token for over, token in zip(ended, tokens)], logprobs
        for row, token, over in zip(rows, tokens, ended):
          row.extend([] if over else [token])
        ended = done[:len(rows)]
        if all(ended):
          return
      left -= new

  def _begin(self, rows, length, sampling, eos_ids, seed, before: State | None = None
             ) -> tuple[State, Chosen, Settings]:
    """Reads the prompts and chooses the first token; `before`: the state that this one goes on from."""
    cache, seen, logits, keys = self.prefill(rows, length, seed)
    B = logits.shape[0]
    options = settings(sampling, eos_ids, keys)
    done, count = (np.arange(B) >= len(rows), np.int32(0)) if before is None else (before.done, before.made)
    seen = seen if before is None else seen | before.seen
    state, chosen = self.programs.first(options, cache, seen, logits, done, count)
    return state, chosen, options

  def _from_python(self, rows, stop, decode, arguments) -> list[Generated]:
    """`generate` by single steps: for stop strings, whose end only the text shows, and for sliding."""
    texts = [TextStream(decode, stop) if stop else None for _ in rows]
    eos_ids = set(arguments["eos_ids"])
    tokens: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    reasons: list[Reason | None] = [None] * len(rows)
    for step_tokens, step_logprobs in self._steps(rows, **dict(dict(slide=False), **arguments)):
      for i, (token, logprob, text) in enumerate(zip(step_tokens, step_logprobs, texts)):
        if token is None or reasons[i] is not None:
          continue
        tokens[i].append(token)
        logprobs[i].append(logprob)
        if token in eos_ids:
          reasons[i] = "eos"
        elif text is not None:
          text.push(token)
          reasons[i] = "stop" if text.stopped else None
      if all(reasons):
        break
    for text in texts:
      if text is not None:
        text.finish()
    return [Generated(t, p, r or "length", None if text is None else text.text)
            for t, p, r, text in zip(tokens, logprobs, reasons, texts)]

  def _batch_ways(self) -> int:
    """How many parts the mesh splits a batch into."""
    if self.rules is None:
      return 1
    devices = self.rules.mesh.size
    return devices // self.rules.sharding(("batch",)).shard_shape((devices,))[0]


def _start_token(model: Model, given: int | None) -> int:
  """The token that begins a decoder's text: the config's, the one that is given, or padding.

  Raises:
    ConfigError: none of them is there.
  """
  start, pad = (getattr(model.config, name, None) for name in ("start_token", "pad_token"))
  found = next((i for i in (start, given, pad) if i is not None), None)
  if found is None:
    raise ConfigError("start", "the model does not say with which token its decoder begins", accepted="a token id")
  return found


def _cut(tokens: np.ndarray, logprobs: np.ndarray, eos_ids: Sequence[int]) -> Generated:
  ends = np.flatnonzero(np.isin(tokens, list(eos_ids)))
  count = ends[0] + 1 if len(ends) else len(tokens)
  return Generated(tokens[:count].tolist(), logprobs[:count].tolist(), "eos" if len(ends) else "length")


def generate(model: Model, params: Params, prompts: Prompts, *, max_length: int | None = None,
             **options: Any) -> list[Generated]:
  """`Generator(model, params).generate(prompts, ...)` for a single use: it compiles anew each time."""
  return Generator(model, params, max_length=max_length).generate(prompts, **options)
