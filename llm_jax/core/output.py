"""What a network returns: hidden states and a way to unembed them, so that a loss never has to hold (B, L, V).

`output.logits` computes the scores of every position when somebody wants them; a training loss calls `unembed` on
chunks of `hidden` instead. Outputs may leave a `jax.jit`: the scores are then computed inside it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from llm_jax.core.types import Metrics


@dataclasses.dataclass
class Output:
  """The result of a model's call.

  hidden: (B, L, D) after the final norm; unembed: (..., D) -> (..., V) scores; scores: logits when they are not an
  unembedding (classification heads); hidden_states: one (B, L, D) per layer and one more, when asked for; cache: the
  KV cache or recurrent carry after this call; auxiliary: scalar loss of the architecture (MoE balance), already
  weighted; extra: named heads beside the main one, e.g. 'mc_logits'; metrics: numbers of the architecture that are
  worth a curve (expert load), which objectives hand on.
  """

  hidden: jax.Array | None = None
  unembed: Callable[[jax.Array], jax.Array] | None = None
  scores: jax.Array | None = None
  hidden_states: tuple[jax.Array, ...] | None = None
  cache: Any = None
  auxiliary: jax.Array | float = 0.0
  extra: dict[str, Any] = dataclasses.field(default_factory=dict)
  metrics: Metrics = dataclasses.field(default_factory=dict)

  @property
  def logits(self) -> jax.Array:
    """Scores: (B, L, V) of a language model, (B, C) or (B, L, C) of a classification head."""
    if self.scores is None:
      if self.unembed is None or self.hidden is None:
        raise AttributeError("this model has no head: use output.hidden")
      self.scores = self.unembed(self.hidden)
    return self.scores

  def __getitem__(self, name: str) -> jax.Array:
    """`output['logits']`, or one of the named extra heads."""
    return self.extra[name] if name in self.extra else getattr(self, name)


def _flatten(output: Output) -> tuple[tuple, None]:
  scores = output.logits if output.unembed is not None else output.scores
  return (output.hidden, scores, output.hidden_states, output.cache, output.auxiliary, output.extra,
          output.metrics), None


def _unflatten(_: None, children: tuple) -> Output:
  hidden, scores, *rest = children
  return Output(hidden, None, scores, *rest)


jax.tree_util.register_pytree_node(Output, _flatten, _unflatten)
