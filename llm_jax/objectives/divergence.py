"""How far a student's distribution over the next token is from its teacher's, in chunks that never hold (B, L, V).

    D_0 = KL(teacher || student)      D_1 = KL(student || teacher)
    D_beta = beta KL(teacher || M) + (1 - beta) KL(student || M),   M = beta teacher + (1 - beta) student

in nats: the generalised Jensen-Shannon divergence of Agarwal et al. 2024 (GKD, section 2), whose ends are the two
Kullback-Leibler divergences: forward, which covers what the teacher may say, and reverse, which keeps to what it does.
"""

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.objectives.knob_ranges import check_positive


def divergence(student: jax.Array, teacher: jax.Array, *, beta: float = 0.0, temperature: float = 1.0,
               vocab: int | None = None) -> jax.Array:
  """D_beta of the distributions at a temperature: logits (..., V) of both -> (...), float32. Only `student` is
  differentiated. vocab: of a table that was padded beyond the tokenizer's ids, how many count; None: all."""
  log_s, log_t = (jax.nn.log_softmax(logits[..., :vocab].astype(jnp.float32) / temperature)
                  for logits in (student, teacher))
  log_t = jax.lax.stop_gradient(log_t)
  if beta == 0.0:
    return _kl(log_t, log_s)
  if beta == 1.0:
    return _kl(log_s, log_t)
  log_m = jnp.logaddexp(log_t + jnp.log(beta), log_s + jnp.log1p(-beta))
  return beta * _kl(log_t, log_m) + (1.0 - beta) * _kl(log_s, log_m)


def _kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def check(beta: float, temperature: float) -> None:
  """Raises:
    ConfigError: no such divergence.
  """
  if not 0.0 <= beta <= 1.0:
    raise ConfigError("config.objective.beta", f"got {beta:g}", accepted="a number from 0 to 1")
  check_positive("temperature", temperature)
