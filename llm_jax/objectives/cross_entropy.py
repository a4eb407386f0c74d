"""Cross-entropy over a vocabulary that never holds the logits of all tokens.

The hidden states go through the unembedding in chunks along the length, and the backward pass computes each chunk's
logits again, so that the memory is that of one chunk, not of (B, L, V). Chunks run along the length because the batch
axis may be split over devices. Everything is plain JAX under `jax.checkpoint`: any `unembed` works, closures over
parameters that are being differentiated included, in any mode and to any order.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llm_jax.core import devices
from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Mean, Metrics

CHUNK_BYTES = 256 * 2**20  # float32 logits that one device may hold at once under chunk='auto'
HELD_BYTES = 2**31  # the same of 16-bit logits, which the backward pass reads instead of computing them again


def token_cross_entropy(hidden_BLD: jax.Array, unembed: Callable[[jax.Array], jax.Array], targets_BL: jax.Array, *,
                        z_loss: float = 0.0, chunk: int | str = "auto", label_smoothing: float = 0.0,
                        accuracy: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
  """-> (loss in nats per token (B, L), float32; extras, each (B, L), float32).

  Args:
    hidden_BLD: hidden states after the final norm.
    unembed: (..., D) -> (..., V) logits of any float dtype; the loss is computed in float32.
    targets_BL: integer class of each token. One outside 0 .. V-1 gives a finite value: weigh it with zero.
    z_loss: adds z_loss * log(Z)^2 (Chowdhery et al. 2022, section 5).
    chunk: tokens of the global batch whose logits are held at once; 'auto' holds CHUNK_BYTES per device (HELD_BYTES of
      16-bit logits), and all of them, computed once, when they fit.
    label_smoothing: mass spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
    accuracy: adds extras['accuracy'], 1 where the target has the highest logit.

  extras: 'nll', the cross-entropy alone, when z_loss or label_smoothing is not zero; 'z_loss', its term, when not zero.

  Raises:
    ConfigError: chunk is neither 'auto' nor a positive number.
  """
  def losses(hidden: jax.Array, targets: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    return of_logits(unembed(hidden), targets, z_loss, label_smoothing, accuracy)
  found: tuple[jax.Array, dict[str, jax.Array]] = in_chunks(losses, unembed, hidden_BLD, targets_BL, chunk=chunk)
  return found


def in_chunks(function: Callable, unembed: Callable[[jax.Array], jax.Array], hidden_BLD: jax.Array,
              *others: jax.Array, chunk: int | str) -> Any:
  """`function(hidden_BLD, *others)`, whose results are (B, L), computed for a part of the length at a time.

  others: (B, L, ...). The backward pass computes every chunk again. unembed: what the chunk's size is reckoned by.
  """
  B, L, _ = hidden_BLD.shape
  logits = jax.eval_shape(unembed, jax.ShapeDtypeStruct((B, 1, hidden_BLD.shape[-1]), hidden_BLD.dtype))
  columns = _columns(chunk, B, L, logits)
  if columns >= L:
    return function(hidden_BLD, *others)
  count = math.ceil(L / columns)
  def fold(x: jax.Array) -> jax.Array:  # (B, L, ...) -> (chunks, B, columns, ...), the last chunk padded
    x = jnp.pad(x, ((0, 0), (0, count * columns - L)) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(B, count, columns, *x.shape[2:]).swapaxes(0, 1)
  def unfold(x: jax.Array) -> jax.Array:
    return x.swapaxes(0, 1).reshape(B, count * columns)[:, :L]

  body = jax.checkpoint(function, prevent_cse=False)  # inside a scan nothing can be merged with the forward pass
  _, parts = jax.lax.scan(lambda _, xs: (None, body(*xs)), None, tuple(map(fold, (hidden_BLD, *others))))
  return jax.tree.map(unfold, parts)


def wide(unembed: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
  """The same scores in float32: what chunks are reckoned by where a loss holds float32 arrays of (..., V)."""
  return lambda hidden: unembed(hidden).astype(jnp.float32)


def means(extras: Mapping[str, jax.Array], weights: jax.Array) -> Metrics:
  """Each extra as a mean over the weights, of which nothing is differentiated."""
  return {n: Mean(jax.lax.stop_gradient((v * weights).sum()), weights.sum()) for n, v in extras.items()}


def _columns(chunk: int | str, batch: int, length: int, logits: Any) -> int:
  """Tokens of each row in one chunk, evenly spread over the chunks. logits: shape and dtype of one column's."""
  if chunk == "auto":
    held = CHUNK_BYTES if logits.dtype.itemsize > 2 else HELD_BYTES
    tokens = held * devices.count() // (logits.dtype.itemsize * logits.shape[-1])
  elif isinstance(chunk, int) and not isinstance(chunk, bool) and chunk > 0:
    tokens = chunk
  else:
    raise ConfigError("config.objective.chunk", f"got {chunk!r}", accepted="'auto' or a positive number of tokens")
  most = min(max(tokens // batch, 1), length)
  return math.ceil(length / math.ceil(length / most))


def of_logits(logits: jax.Array, targets: jax.Array, z_loss: float = 0.0, label_smoothing: float = 0.0,
              accuracy: bool = False) -> tuple[jax.Array, dict[str, Any]]:
  """(..., V) logits and (...) targets -> loss and extras of `token_cross_entropy`, each (...)."""
  if logits.dtype.itemsize > 2:
    return _in_float32(logits, targets, z_loss, label_smoothing, accuracy)
  def body(logits: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    return _in_float32(logits, targets, z_loss, label_smoothing, accuracy)
  # The backward pass starts from the 16-bit logits and log Z: no float32 array of (..., V) lives in between.
  policy = jax.checkpoint_policies.save_only_these_names(LOG_Z)
  return jax.checkpoint(body, policy=policy, prevent_cse=False)(logits)


LOG_Z = "log_z of the loss"


@jax.custom_jvp
def _log_sum_exp(logits: jax.Array) -> jax.Array:
  """(..., V) float32 -> (...); its derivative is exp(logits - log Z), which needs no second sum."""
  return jax.nn.logsumexp(logits, axis=-1)


@_log_sum_exp.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
  (logits,), (direction,) = primals, tangents
  log_z = checkpoint_name(_log_sum_exp(logits), LOG_Z)
  return log_z, (jnp.exp(logits - log_z[..., None]) * direction).sum(-1)


def _in_float32(logits: jax.Array, targets: jax.Array, z_loss: float, label_smoothing: float,
                accuracy: bool) -> tuple[jax.Array, dict[str, Any]]:
  logits = logits.astype(jnp.float32)
  log_z = _log_sum_exp(logits)
  # A comparison fused into a sum: no one-hot array, no gather across a split vocabulary, no scatter in the gradient.
  is_target = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]
  hit = jnp.where(is_target, logits, 0.0).sum(-1)
  nll = loss = log_z - hit
  extras = {}
  if label_smoothing:
    loss = (1.0 - label_smoothing) * nll + label_smoothing * (log_z - logits.mean(-1))
  if z_loss:
    extras["z_loss"] = z_loss * jnp.square(log_z)
    loss = loss + extras["z_loss"]
  if z_loss or label_smoothing:
    extras["nll"] = nll
  if accuracy:
    extras["accuracy"] = (logits.argmax(-1) == targets).astype(jnp.float32)
  return loss, extras
