"""Our side of the training benchmark for BERT shapes: masked language modelling, masked in the step, on fixed text."""

import dataclasses
import pathlib
import sys

import worker

if __name__ == "__main__":
  SPEC = worker.read_spec()
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from jax_gpt2 import stepper

from llm_jax.models import bert
from llm_jax.objectives import masked_lm


@dataclasses.dataclass(frozen=True)
class Words:
  """A vocabulary of so many ids of which the first is the mask."""

  vocab_size: int
  special: dict[str, int] = dataclasses.field(default_factory=lambda: {"mask": 0})
  sentinels: tuple[int, ...] = ()

  @property
  def word_edges(self) -> np.ndarray:
    return np.ones((self.vocab_size, 2), bool)


def make_step(spec):
  """One train step -> its loss. All tokens are scored, as the peer does, unless the spec says `chosen_only`."""
  model = bert.build(spec["vocab"], spec["length"], variant="base", width=spec["width"], depth=spec["depth"],
                     heads=spec["heads"], hidden=4 * spec["width"], positions=512, dtype=spec["dtype"],
                     scan=spec["scan"], attention=spec["attention"],
                     act="gelu_new" if spec["gelu"] == "tanh" else "gelu")
  objective = masked_lm.build(bound=None if spec.get("chosen_only") else 1.0).for_tokenizer(Words(spec["vocab"]))
  tokens = jax.random.randint(jax.random.key(1), (spec["batch"], spec["length"]), 1, spec["vocab"])
  return stepper(model, objective, {"tokens": tokens, "weights": jnp.ones(tokens.shape)})


if __name__ == "__main__":
  worker.serve(make_step(SPEC), {"jax": jax.__version__, "jaxlib": jax.lib.__version__})
