"""Our side of the training benchmark for T5 shapes: an encoder and a decoder on one fixed source and target."""

import dataclasses
import pathlib
import sys

import worker

if __name__ == "__main__":
  SPEC = worker.read_spec()
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
from jax_bert import Words
from jax_gpt2 import stepper

from llm_jax.core.types import Objective
from llm_jax.models import t5
from llm_jax.objectives import source_and_target


@dataclasses.dataclass(frozen=True)
class Given(Objective):
  """The loss of objectives/source_and_target.py on a source and a target that are given."""

  words: Words
  fields: tuple[str, ...] = ("source", "target")
  needs: tuple[str, ...] = ("encoder_decoder",)

  def __call__(self, apply, params, batch, key, knobs):
    sizes = [jnp.full(batch[name].shape[0], batch[name].shape[1]) for name in self.fields]
    made = source_and_target.SourceTarget(batch["source"], sizes[0], batch["target"], sizes[1])
    return source_and_target.losses("encoder_decoder", apply, params, made, self.words, key)


def make_step(spec):
  """One train step -> its loss, the mean over the target's tokens."""
  model = t5.build(spec["vocab"], spec["length"], variant="small", width=spec["width"], depth=spec["depth"],
                   heads=spec["heads"], hidden=4 * spec["width"], dtype=spec["dtype"], scan=spec["scan"],
                   attention=spec["attention"])
  draw = lambda seed, length: jax.random.randint(jax.random.key(seed), (spec["batch"], length), 1, spec["vocab"])
  words = Words(spec["vocab"], {"pad": 0, "eos": 1})
  return stepper(model, Given(words), {"source": draw(1, spec["length"]), "target": draw(2, spec["written"])})


if __name__ == "__main__":
  worker.serve(make_step(SPEC), {"jax": jax.__version__, "jaxlib": jax.lib.__version__})
