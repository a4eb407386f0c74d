"""The position-wise feed-forward block, plain or gated, and the activations by their published names."""

from functools import partial

import jax
from flax import nnx

from llm_jax.core.errors import unknown_name
from llm_jax.layers.linear import Init, Linear
from llm_jax.parallel.rules import constrain

# Names as in Hugging Face configs: 'gelu' is the exact form (erf), 'gelu_new' and 'gelu_pytorch_tanh' the tanh form.
ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False), "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True), "gelu_fast": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu, "silu": jax.nn.silu, "swish": jax.nn.silu, "tanh": jax.nn.tanh,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def activation(name: str, key: str = "activation"):
  """The function of that published name.

  Raises:
    ConfigError: unknown name.
  """
  if name not in ACTIVATIONS:
    raise unknown_name(key, name, list(ACTIVATIONS), what="activation")
  return ACTIVATIONS[name]


class FeedForward(nnx.Module):
  """out(act(in(x))), or out(act(gate(x)) * in(x)) when gated (Shazeer 2020)."""

  def __init__(self, rngs: nnx.Rngs, width: int, hidden: int, *, act: str, gated: bool = False, bias: bool = True,
               init: Init | None = None, out_init: Init | None = None):
    self.act = act
    make = partial(Linear, rngs, {"embed": width}, {"mlp": hidden}, bias=bias, init=init)
    self.gate = make() if gated else None
    self.up = make()
    self.down = Linear(rngs, {"mlp": hidden}, {"embed": width}, bias=bias, init=out_init or init)

  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    act = activation(self.act)
    hidden_BLF = self.up(x_BLD)
    hidden_BLF = act(hidden_BLF) if self.gate is None else act(self.gate(x_BLD)) * hidden_BLF
    return self.down(constrain(hidden_BLF, "batch", "length", "mlp"))
