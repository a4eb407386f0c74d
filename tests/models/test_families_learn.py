"""Every family's config learns: from scratch, on the embedded text, the held-out loss falls below the entropy of its
targets' frequencies, which is what knowing nothing else gives. The door runs in a process of its own, as for a user."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, ROOT

from llm_jax import experiment
from llm_jax.core import config as configs
from llm_jax.core.output import Output
from llm_jax.core.types import Plan

sys.path.insert(0, str(ROOT / "tests" / "laws"))
import door


def trained(workdir: pathlib.Path, config: str, *more: str) -> dict[str, float]:
  """The last evaluation of the run of a config, compiled for speed, on one device."""
  done = door.spawn(f"--config={ROOT}/configs/{config}", f"--workdir={workdir}", *more, timeout=1800, XLA_FLAGS="")
  assert done.code == 0, done.err
  return [row for row in door.rows(workdir) if "eval/loss" in row][-1]


def target_entropy(config: str) -> float:
  """Nats per held-out target of a config's objective.

  Of a network that looks at nothing and scores every class by a number of its own, the derivative of the loss by these
  numbers, where all are zero, is 1 / classes - frequency of each class among the targets.
  """
  run = experiment.build(configs.load_file(f"{ROOT}/configs/{config}"))
  data, plan = next(iter(run.corpus.evals.values())), Plan(run.train.batch_size, run.train.length)
  classes = getattr(data, "classes", 0) or run.corpus.vocab_size

  def total(scores, batch):
    def blind(params, input_ids, method="", **inputs):
      (B, L), places = input_ids.shape[:2], inputs.get("target_mapping", inputs.get("decoder_input_ids", input_ids))
      others = dict(seq_relationship_logits=jnp.zeros((B, 2)))
      if "entity_mask" in inputs:
        others["entity_logits"] = jnp.zeros((B, L, inputs["entity_mask"].shape[-1]))
      found = jnp.zeros((B, L)) if method == "discriminator" else jnp.broadcast_to(scores, (B, classes))
      return Output(jnp.zeros((*places.shape[:2], 1)), lambda h: jnp.broadcast_to(scores, (*h.shape[:-1], classes)),
                    found, extra=others)
    losses = run.objective(blind, {}, batch, None, {})
    return (losses.values * losses.weights).sum(), losses.weights.sum()

  derivative = jax.jit(jax.grad(total, has_aux=True))
  parts = [derivative(jnp.zeros(classes), run.put(data.take(i, plan)))
           for i in range(min(20, data.batches(plan.batch, plan.length)))]
  slope, weight = (np.sum([np.asarray(part[i], np.float64) for part in parts], 0) for i in (0, 1))
  share = np.clip(1 / classes - slope / weight, 0, 1)
  np.testing.assert_allclose(share.sum(), 1, atol=1e-3)
  return float(-(share[share > 0] * np.log(share[share > 0])).sum())


@pytest.mark.slow
@pytest.mark.parametrize("config, metric", FAMILIES.items(), ids=FAMILIES)
def test_targets_are_predicted_better_than_by_their_frequency(config, metric, tmp_path):
  final, entropy = trained(tmp_path, config)[f"eval/{metric}"], target_entropy(config)
  print(f"\n{config}: {metric} {final:.3f}, entropy of the targets {entropy:.3f}")
  assert final < entropy - 0.1


@pytest.mark.slow
def test_a_student_learns_from_its_teacher(tmp_path):
  """DistilBERT: the teacher is a BERT from the same data."""
  trained(tmp_path / "teacher", "bert.py:debug")
  final = trained(tmp_path / "student", "bert.py:debug-distilbert", "--config.objective.name=distillation",
                  f"--config.objective.teacher={tmp_path / 'teacher'}")
  entropy = target_entropy("bert.py:debug-distilbert")
  print(f"\ndistilbert: masked_lm_loss {final['eval/masked_lm_loss']:.3f}, soft {final['eval/soft_loss']:.3f}, "
        f"cosine {final['eval/cosine_loss']:.3f}, entropy of the targets {entropy:.3f}")
  assert final["eval/masked_lm_loss"] < entropy - 0.1 and final["eval/cosine_loss"] < 0.5
