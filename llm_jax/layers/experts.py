"""Mixture of experts in place of a feed-forward block: the router, its losses, and what is worth plotting of it.

A router scores the experts for each token, the best few are computed (layers/expert_compute.py) and added up by their
share. Two losses keep it in order: the balance loss (Fedus et al. 2022, equations 4 to 6; over the tokens of all layers
together, padding left out, as Hugging Face computes it) and the router z-loss (Zoph et al. 2022, equation 5).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llm_jax.core.model import parameter
from llm_jax.core.types import Mean, Metrics
from llm_jax.layers.expert_compute import Kernels, compute
from llm_jax.layers.feed_forward import activation
from llm_jax.layers.linear import Init, normal


class Routing(NamedTuple):
  """Sums over the real tokens of one layer, or of several: they add up. All float32.

  assigned (E,): choices of each expert; probability (E,): sum of its probabilities; squared_log_z: of the router's
  logits; tokens; dropped: choices not served; peak: largest load of an expert, in units of the mean load, summed over
  layers; layers: their number.
  """

  assigned: jax.Array
  probability: jax.Array
  squared_log_z: jax.Array
  tokens: jax.Array
  dropped: jax.Array
  peak: jax.Array
  layers: jax.Array

  @staticmethod
  def zero(experts: int) -> "Routing":
    """Of no layer."""
    return Routing(jnp.zeros(experts), jnp.zeros(experts), *jnp.zeros(5))

  def add(self, other: "Routing") -> "Routing":
    """The sums over both."""
    return Routing(*map(jnp.add, self, other))

  def balance_loss(self) -> jax.Array:
    """E times the sum over experts of (share of choices) x (mean probability): k when all are used alike."""
    tokens = jnp.maximum(self.tokens, 1.0)
    return self.assigned.size * (self.assigned / tokens * self.probability / tokens).sum()

  def z_loss(self) -> jax.Array:
    """Mean over tokens and layers of log(sum of exp(logits))^2."""
    return self.squared_log_z / jnp.maximum(self.tokens, 1.0)

  def metrics(self) -> Metrics:
    """'expert_load_max' (1: all alike), 'balance_loss', 'router_z_loss', and 'dropped_choices' as a share."""
    mean = lambda total, weight: Mean(jax.lax.stop_gradient(total), jax.lax.stop_gradient(weight))
    return {"expert_load_max": mean(self.peak, self.layers),
            "balance_loss": mean(self.balance_loss() * self.tokens, self.tokens),
            "router_z_loss": mean(self.squared_log_z, self.tokens),
            "dropped_choices": mean(self.dropped, self.assigned.sum())}


class Routed(NamedTuple):
  """What a stack of layers collects: their sums, and the router's logits (N, B * L, E) when asked for."""

  total: Routing
  logits: jax.Array | None = None

  @staticmethod
  def start(layers: int, tokens: int, experts: int, logits: bool) -> "Routed":
    """Before the first layer."""
    return Routed(Routing.zero(experts), jnp.zeros((layers, tokens, experts)) if logits else None)

  def add(self, layer: jax.Array | int, sums: Routing, logits_BLE: jax.Array) -> "Routed":
    """With what one layer's `Experts` said."""
    if self.logits is None:
      return Routed(self.total.add(sums))
    return Routed(self.total.add(sums), self.logits.at[layer].set(logits_BLE.reshape(self.logits.shape[1:])))

  def output(self, sparse: Sequence[int], balance_weight: float, z_weight: float) -> dict[str, Any]:
    """The fields of an `Output`: the weighted losses, metrics, and 'router_logits' with 'aux_loss' when asked for.

    sparse: numbers of the layers with experts.
    """
    loss = balance_weight * self.total.balance_loss() + z_weight * self.total.z_loss()
    extra = {}
    if self.logits is not None:
      extra = {"router_logits": self.logits[np.asarray(sparse)], "aux_loss": self.total.balance_loss()}
    return dict(auxiliary=loss, metrics=self.total.metrics(), extra=extra)


class Router(nnx.Module):
  """Scores of the experts (..., E), float32 whatever the dtype of the tokens."""

  def __init__(self, rngs: nnx.Rngs, width: int, experts: int, init: Init | None = None):
    self.kernel = parameter(rngs, (width, experts), ("embed", None), init or normal(0.02))

  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    return x_BLD.astype(jnp.float32) @ self.kernel[...]


class ExpertMatrix(nnx.Module):
  """One matrix per expert (E, I, O)."""

  def __init__(self, rngs: nnx.Rngs, experts: int, inputs: tuple[str, int], outputs: tuple[str, int], init: Init):
    self.kernel = parameter(rngs, (experts, inputs[1], outputs[1]), ("experts", inputs[0], outputs[0]), init)


class Experts(nnx.Module):
  """Sum over a token's best experts of share * gated feed-forward (Shazeer et al. 2017).

  Args of the constructor:
    experts: their number E. per_token: how many a token gets, k. hidden: width of one. act: of the gate.
    normalise: the shares of the k chosen sum to 1 (Mixtral), or stay the softmax over all (Switch).
    capacity: an expert takes at most capacity * L * k / E choices of a row of L; None: all (dropless).
    jitter: inputs are multiplied by uniform(1 - jitter, 1 + jitter) while training (Fedus et al. 2022).
  """

  def __init__(self, rngs: nnx.Rngs, width: int, hidden: int, *, experts: int, per_token: int, act: str = "silu",
               normalise: bool = True, capacity: float | None = None, jitter: float = 0.0, init: Init | None = None,
               out_init: Init | None = None):
    self.per_token, self.act, self.normalise = per_token, act, normalise
    self.capacity, self.jitter = capacity, jitter
    init = init or normal(0.02)
    self.router = Router(rngs, width, experts, init)
    self.gate = ExpertMatrix(rngs, experts, ("embed", width), ("mlp", hidden), init)
    self.up = ExpertMatrix(rngs, experts, ("embed", width), ("mlp", hidden), init)
    self.down = ExpertMatrix(rngs, experts, ("mlp", hidden), ("embed", width), out_init or init)

  def __call__(self, x_BLD: jax.Array, valid_BL: jax.Array | None = None,
               key: jax.Array | None = None) -> tuple[jax.Array, Routing, jax.Array]:
    """-> (output (B, L, D), the sums of this layer, the router's logits (B, L, E)); valid_BL: 1 for real tokens."""
    if key is not None and self.jitter:
      x_BLD = x_BLD * jax.random.uniform(key, x_BLD.shape, x_BLD.dtype, 1.0 - self.jitter, 1.0 + self.jitter)
    logits_BLE = self.router(x_BLD)
    probability_BLE, weight_BLK, choice_BLK = choices(logits_BLE, self.per_token)
    if self.normalise:
      weight_BLK = weight_BLK / weight_BLK.sum(-1, keepdims=True)
    kernels = Kernels(self.gate.kernel[...], self.up.kernel[...], self.down.kernel[...])
    y_BLD, served_BLK = compute(x_BLD, choice_BLK, weight_BLK, kernels, activation(self.act),
                                slots=self._slots(x_BLD.shape[1]), valid_BL=valid_BL)
    return y_BLD, sums(logits_BLE, probability_BLE, choice_BLK, served_BLK, valid_BL), logits_BLE

  def _slots(self, length: int) -> int | None:
    if self.capacity is None:
      return None
    return math.ceil(self.capacity * length * self.per_token / self.router.kernel.shape[-1])


def choices(logits_BLE: jax.Array, per_token: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """-> (probability of each expert (B, L, E); of the best `per_token` (B, L, K); which these are (B, L, K))."""
  probability_BLE = jax.nn.softmax(logits_BLE)
  return probability_BLE, *jax.lax.top_k(probability_BLE, per_token)


def sums(logits_BLE: jax.Array, probability_BLE: jax.Array, choice_BLK: jax.Array, served_BLK: jax.Array,
         valid_BL: jax.Array | None) -> Routing:
  """What one layer adds to the losses and metrics; tokens that are not valid count nowhere."""
  B, L, E = logits_BLE.shape
  counts_BL = (jnp.ones((B, L)) if valid_BL is None else valid_BL).astype(jnp.float32)
  chosen_BLE = jax.nn.one_hot(choice_BLK, E).sum(-2)
  assigned_E = jnp.einsum("ble,bl->e", chosen_BLE, counts_BL)
  log_z_BL = jax.nn.logsumexp(logits_BLE, axis=-1)
  dropped = ((1.0 - served_BLK) * counts_BL[..., None]).sum()
  peak = assigned_E.max() * E / jnp.maximum(assigned_E.sum(), 1.0)
  return Routing(assigned_E, jnp.einsum("ble,bl->e", probability_BLE, counts_BL), (log_z_BL**2 * counts_BL).sum(),
                 counts_BL.sum(), dropped, peak, jnp.ones(()))
