"""A mix is the sum of its parts' means by weight, and says what each part said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_rows_fixture import Shown, batch, table, tokenizer

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Losses
from llm_jax.objectives import mix
from llm_jax.objectives.combined import Part, combine

PARTS = [dict(name="masked_lm", weight=2.0), dict(name="masked_lm", weight=0.5, ratio=0.4), dict(name="sentence_order")]


def test_the_loss_is_the_sum_of_the_parts_means_by_weight():
  rows, params = batch(16), table()
  shown = Shown(seq_relationship_logits=jax.random.normal(jax.random.key(5), (16, 2)))
  objective = mix.build(parts=PARTS).for_tokenizer(tokenizer())
  assert objective.needs == ("masked", "next_sentence") and objective.fields == ("tokens", "weights")
  seen, losses = jax.jit(lambda *given: (objective(shown, *given, {}), [c["input_ids"] for c in shown.calls])[::-1])(
      params, rows, jax.random.key(0))
  means = {name: float(m.total / m.weight) for name, m in losses.metrics.items()}
  want = 2 * means["masked_lm_loss"] + 0.5 * means["masked_lm_2_loss"] + means["sentence_order_loss"]
  np.testing.assert_allclose((losses.values * losses.weights).sum() / losses.weights.sum(), want, rtol=1e-5)
  assert (seen[0] != seen[1]).any()


def test_a_part_without_a_target_counts_as_nothing():
  full = Losses(jnp.array([[2.0, 4.0]]), jnp.ones((1, 2)), {}, 0.25)
  none = Losses(jnp.array([jnp.nan]), jnp.zeros(1), {})
  got = combine([Part("a", 1.0, full), Part("b", 3.0, none)])
  assert (got.values * got.weights).sum() / got.weights.sum() == 3.0
  assert got.weights.sum() == 2 and got.auxiliary == 0.25


@pytest.mark.parametrize("parts, words", [([], "parts"), ([dict(name="masked_lm", weight=0.0)], r"parts\[0\].weight"),
                                          (["masked_lm", "nothing"], r"parts\[1\].name"),
                                          (["prototypical"], "episodes")])
def test_impossible_mixes_are_refused(parts, words):
  with pytest.raises(ConfigError, match=words):
    mix.build(parts=parts)
