"""The compiled programs of generation: read a chunk of the prompt, choose a token, make one step, make all steps.

They know of the model only `init_cache(batch, length)` and that a call takes and returns a cache, so that a recurrent
carry serves as well as keys and values. Of an encoder-decoder they also know `encode`: the prompt is what the encoder
reads, and the cache that comes of it is the decoder's. A step reads the token chosen last and chooses the next one: the
model and the sampling are one program, with the cache donated.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.core.model import Model
from llm_jax.core.types import Params
from llm_jax.inference import weights
from llm_jax.inference.sampling import Settings, choose
from llm_jax.layers import stack as layer_stack
from llm_jax.parallel import rules as sharding


class State(NamedTuple):
  """What goes from step to step.

  cache: the model's; token (B,): chosen last; done (B,): the row has ended; seen (B, V): tokens of the row's prompt and
  text; made: number of tokens generated.
  """

  cache: Any
  token: jax.Array
  done: jax.Array
  seen: jax.Array
  made: jax.Array


class Chosen(NamedTuple):
  """One step's result, each (B,): token int32; logprob float32, under the model; done: has ended."""

  token: jax.Array
  logprob: jax.Array
  done: jax.Array


class Programs:
  """Jitted functions of one model; each compiles once for a batch size and a cache length. `traces` counts."""

  def __init__(self, model: Model, rules: sharding.ShardingRules | None, unrolled: bool):
    self.model, self.unrolled = model, unrolled
    # With one token to each row a weight is more than the rows: the compiler chooses which of them moves.
    self.rules = None if rules is None else dataclasses.replace(rules, gather_weights="compiler")
    self.traces: collections.Counter[str] = collections.Counter()
    self.encodes = "encoder_decoder" in model.offers
    self.start = self.jit(self._start, static_argnums=(2, 3))
    self.encode = self.jit(self._encode, static_argnums=4)
    self.read = self.jit(self._read, donate_argnums=(1, 2))
    self.first = self.jit(self._first, donate_argnums=(1, 2))
    self.step = self.jit(self._step, donate_argnums=1)
    self.all_steps = self.jit(self._all_steps, donate_argnums=1)

  def jit(self, function: Callable, **options: Any) -> Any:
    """`jax.jit` of a function that is traced under this model's sharding rules, layers unrolled or not, and counted."""
    return jax.jit(self._counted(function), **options)

  def cache_shapes(self, params: Params, batch: int, length: int) -> Any:
    """The cache's abstract arrays. For use while tracing."""
    return jax.eval_shape(lambda: self._empty_cache(params, batch, length))

  def _counted(self, function: Callable) -> Callable:
    @functools.wraps(function)
    def traced(*args: Any) -> Any:
      self.traces[function.__name__.removeprefix("_")] += 1
      with sharding.use(self.rules), layer_stack.unrolled(self.unrolled):
        return function(*args)
    return traced

  def _start(self, params: Params, seed: jax.Array, batch: int, length: int) -> tuple[Any, jax.Array, jax.Array]:
    """-> (empty cache, no tokens seen (B, V), a random key for each row (B,))."""
    return self._begin(params, self._empty_cache(params, batch, length), seed, batch)

  def _encode(self, params: Params, seed: jax.Array, ids_BM: jax.Array, mask_BM: jax.Array,
              length: int) -> tuple[Any, jax.Array, jax.Array]:
    """What `_start` returns, with a cache that holds what the encoder makes of the prompts."""
    cache = self.model.apply(weights.join_layers(params), ids_BM, mask_BM, method="encode", length=length)
    return self._begin(params, cache, seed, ids_BM.shape[0])

  def _begin(self, params: Params, cache: Any, seed: jax.Array, batch: int) -> tuple[Any, jax.Array, jax.Array]:
    _, logits_BV = jax.eval_shape(lambda: self.extend(params, cache, jnp.zeros((batch, 1), jnp.int32)))
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(batch))
    return cache, sharding.constrain(jnp.zeros(logits_BV.shape, bool), "batch", None), keys_B

  def _empty_cache(self, params: Params, batch: int, length: int) -> Any:
    return self.model.apply(weights.join_layers(params), method="init_cache", batch=batch, length=length)

  def _read(self, params: Params, cache: Any, seen_BV: jax.Array, ids_BL: jax.Array,
            mask_BL: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
    """A chunk of the prompt -> (cache, tokens seen, scores of the last position (B, V))."""
    cache, logits_BV = self.extend(params, cache, ids_BL, mask_BL)
    rows = jnp.arange(ids_BL.shape[0])[:, None]
    return cache, seen_BV.at[rows, ids_BL].max(mask_BL.astype(bool)), logits_BV

  def _first(self, settings: Settings, cache: Any, seen_BV: jax.Array, logits_BV: jax.Array, done_B: jax.Array,
             made: jax.Array) -> tuple[State, Chosen]:
    return self._choose(State(cache, jnp.zeros_like(logits_BV[:, 0], jnp.int32), done_B, seen_BV, made), logits_BV,
                        settings)

  def _step(self, params: Params, state: State, settings: Settings) -> tuple[State, Chosen]:
    cache, logits_BV = self.extend(params, state.cache, state.token[:, None])
    return self._choose(state._replace(cache=cache), logits_BV, settings)

  def _all_steps(self, params: Params, state: State, chosen: Chosen, settings: Settings, limit: jax.Array,
                 room_T: jax.Array) -> tuple[State, jax.Array, jax.Array]:
    """Steps until every row is done or `limit` tokens are generated -> (state, tokens (T, B), logprobs (T, B)).

    room_T: any array as long as the number of tokens there may be.
    """
    T, (B,) = room_T.shape[0], state.token.shape
    tokens = jnp.full((T, B), -1, jnp.int32).at[0].set(chosen.token)
    logprobs = jnp.zeros((T, B), jnp.float32).at[0].set(chosen.logprob)
    def going(carry: Any) -> jax.Array:
      state, _, _ = carry
      return (state.made < limit) & ~state.done.all()
    def body(carry: Any) -> Any:
      state, tokens, logprobs = carry
      at = state.made
      state, chosen = self._step(params, state, settings)
      return state, tokens.at[at].set(chosen.token), logprobs.at[at].set(chosen.logprob)
    return jax.lax.while_loop(going, body, (state, tokens, logprobs))

  def sample(self, params: Params, ids_NP: jax.Array, mask_NP: jax.Array, settings: Settings,
             room: int) -> tuple[jax.Array, jax.Array]:
    """Prompts padded on the left -> (tokens (N, room), log-probabilities (N, room)); -1 where nothing was made, since
    every row had ended. For use while tracing."""
    N, P = ids_NP.shape
    cache, logits_NV = self.extend(params, self._empty_cache(params, N, P + room), ids_NP, mask_NP)
    seen_NV = jnp.zeros(logits_NV.shape, bool).at[jnp.arange(N)[:, None], ids_NP].max(mask_NP.astype(bool))
    state, chosen = self._first(settings, cache, seen_NV, logits_NV, jnp.zeros(N, bool), jnp.zeros((), jnp.int32))
    _, tokens_TN, logprobs_TN = self._all_steps(params, state, chosen, settings, jnp.asarray(room, jnp.int32),
                                                jnp.zeros(room, bool))
    return tokens_TN.T, logprobs_TN.T

  def _choose(self, state: State, logits_BV: jax.Array, settings: Settings) -> tuple[State, Chosen]:
    token_B, logprob_B = choose(logits_BV, state.seen, state.made, settings)
    done_B = state.done | (token_B[:, None] == settings.eos).any(-1)
    seen_BV = state.seen.at[jnp.arange(token_B.shape[0]), token_B].set(True)
    pin = lambda x: sharding.constrain(x, "batch", *(None,) * (x.ndim - 1))  # the same layout after every program
    chosen = Chosen(pin(token_B), pin(logprob_B), pin(done_B))
    return State(state.cache, chosen.token, chosen.done, pin(seen_BV), state.made + 1), chosen

  def extend(self, params: Params, cache: Any, ids_BL: jax.Array,
             mask_BL: jax.Array | None = None) -> tuple[Any, jax.Array]:
    """Reads tokens -> (cache, scores of the last position (B, V)). For use while tracing."""
    side = "decoder_" if self.encodes else ""
    read: dict[str, Any] = {f"{side}input_ids": ids_BL, f"{side}attention_mask": mask_BL}
    output = self.model.apply(weights.join_layers(params), **read, cache=cache)
    return output.cache, output.unembed(output.hidden[:, -1])
