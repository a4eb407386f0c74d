"""Our side of the training benchmark: the train step that `python -m llm_jax.train` jits, on one fixed batch."""

import pathlib
import sys

import worker

if __name__ == "__main__":
  SPEC = worker.read_spec()
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import optax

from llm_jax.models import gpt
from llm_jax.objectives.cross_entropy import token_cross_entropy


def make_step(spec):
  """One train step -> its loss: forward, backward, clip to norm 1, AdamW."""
  model = gpt.build(spec["vocab"], spec["length"], width=spec["width"], depth=spec["depth"], heads=spec["heads"],
                    positions=spec["length"], dtype=spec["dtype"], scan=spec.get("scan", True),
                    act="gelu_new" if spec["gelu"] == "tanh" else "gelu", attention=spec.get("attention", "auto"))
  params = jax.jit(model.init)(jax.random.key(0))
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(
      1e-3, b2=0.99, weight_decay=0.1, mask={name: shape.ndim >= 2 for name, shape in model.shapes.items()}))
  state = params, jax.jit(optimizer.init)(params)
  batch = jax.random.randint(jax.random.key(1), (spec["batch"], spec["length"] + 1), 0, spec["vocab"])

  def train_step(state, batch):
    params, opt_state = state
    def loss_fn(params):
      output = model.apply(params, input_ids=batch[:, :-1])
      return token_cross_entropy(output.hidden, output.unembed, batch[:, 1:])[0].mean()
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  compiled = jax.jit(train_step, donate_argnums=0)

  def step() -> float:
    nonlocal state
    state, loss = compiled(state, batch)
    return float(jax.block_until_ready((state, loss))[1])
  return step


if __name__ == "__main__":
  worker.serve(make_step(SPEC), {"jax": jax.__version__, "jaxlib": jax.lib.__version__})
