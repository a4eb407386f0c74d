"""Completions written inside another program: the step of an objective that learns from what its own model writes.

It is the generation of generate.py, traced in place: prompts are read at once, a loop on the device makes the tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from llm_jax.core.model import Model
from llm_jax.core.types import Key, Params
from llm_jax.inference import weights
from llm_jax.inference.programs import Programs
from llm_jax.inference.sampling import Sampling, settings
from llm_jax.layers import doors
from llm_jax.layers import stack as layer_stack
from llm_jax.parallel import rules as sharding


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Samples from a model under the sharding rules in force; nothing of it has a gradient."""

  model: Model

  def __call__(self, params: Params, prompts_NP: jax.Array, mask_NP: jax.Array, keys_N: Key, *, room: int,
               temperature: float, eos_ids: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """-> (tokens (N, room) int32, mask (N, room) bool: 1 up to the token that ends the row, that one included).

    prompts: padded on the left, where mask is 0; keys: one for each row; temperature: the logits are divided by it.
    """
    unrolled = doors.platform() == "cpu" and not doors.partitioned()
    programs = Programs(self.model, sharding.active(), unrolled)
    params = jax.lax.stop_gradient(params)
    with sharding.use(programs.rules), layer_stack.unrolled(unrolled):
      params = weights.split_layers(self.model, params) if unrolled else params
      tokens_NT, _ = programs.sample(params, prompts_NP, mask_NP,
                                     settings(Sampling(temperature=temperature), eos_ids, keys_N), room)
    ends_NT = jnp.isin(tokens_NT, jnp.asarray([-1, *eos_ids], jnp.int32))
    before_NT = jnp.cumsum(ends_NT, 1) - ends_NT  # ends before this token
    mask = (before_NT == 0) & (tokens_NT >= 0)
    return jnp.where(mask, tokens_NT, 0), mask
