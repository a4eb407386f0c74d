"""Policies in whole runs: what is sampled, what it earns, rollouts that serve several steps, resumes, meshes."""

import door
import in_process
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.core.row_parts import COMPLETION
from llm_jax.inference.generate import Generator
from llm_jax.objectives import rewards
from llm_jax.training.checkpoint import Checkpoints

MODEL = dict(name="gpt", variant="debug", width=16, depth=1, heads=2, positions=16)


slow = lambda *case: pytest.param(*case, marks=pytest.mark.slow)


def config(accumulate=1, length=12, model=MODEL, **objective):
  return {
      "model": model, "data": dict(name="problems", task="copy", digits=2, eval_rows=40),
      "objective": dict(name="grpo", group=4, reward=dict(name="length", target=3)) | objective,
      "optimizer": dict(name="sgd", peak=0.5, decay="constant", momentum=0.0), "guard": dict(window=0),
      "train": dict(steps=8, batch_size=8, length=length, accumulate=accumulate),
      "mesh": dict(data=-1), "log": dict(tensorboard=False, report=False)}


def build(monkeypatch, devices=1, mesh=None, **changes):
  return in_process.build_from(monkeypatch, config(**changes) | ({"mesh": mesh} if mesh else {}), devices)


def split(run, rollout, batch):
  """[(prompt, completion)] as ids, one for each completion."""
  found = []
  for i, (rows, parts) in enumerate(zip(np.asarray(rollout["tokens"]), np.asarray(rollout["parts"]))):
    count = int(batch["prompt_length"][i])
    found += [(row[:count].tolist(), row[part == COMPLETION].tolist()) for row, part in zip(rows, parts)]
  return found


@pytest.mark.parametrize("model", [MODEL, slow(dict(name="decoder", variant="debug")),
                                   slow(dict(name="lstm", variant="debug"))], ids=lambda m: m["name"])
def test_a_cold_policy_writes_what_the_generator_writes(monkeypatch, model):
  """Prompts of several lengths side by side, against each of them alone."""
  run = build(monkeypatch, group=2, temperature=1e-8, model=model)
  state = run.init_state()
  batch = run.batch(0)
  rollout = jax.jit(lambda p: run.objective.rollouts.draw(run.model.apply, p, batch, jax.random.key(0)))(state.params)
  assert len(set(np.asarray(batch["prompt_length"]).tolist())) > 1
  pairs = split(run, rollout, batch)[::2]
  want = Generator(run.model, state.params).generate([p for p, _ in pairs], max_new_tokens=4,
                                                     eos_ids=run.objective.rollouts.ends)
  for (prompt, completion), generated, i in zip(pairs, want, range(8)):
    assert prompt == batch["prompt"][i][:len(prompt)].tolist() and completion == generated.tokens


def test_old_log_probabilities_are_those_of_the_completions_and_the_dice_are_the_steps(monkeypatch):
  run = build(monkeypatch, updates=2, temperature=0.7, group=8)
  state, end = run.init_state(), run.corpus.tokenizer.end_of_document
  batch, draw = run.batch(0), jax.jit(lambda p, key: run.objective.rollouts.draw(run.model.apply, p, run.batch(0), key))
  rollout, again, other = (draw(state.params, jax.random.key(i)) for i in (0, 0, 1))
  np.testing.assert_array_equal(again["tokens"], rollout["tokens"])
  assert not np.array_equal(other["tokens"], rollout["tokens"])
  read = jax.jit(lambda ids: run.model.apply(state.params, input_ids=ids[None]).logits[0])
  pairs = split(run, rollout, batch)
  assert all(0 < len(c) <= 4 and (c[-1] == end or len(c) == 4) and end not in c[:-1] for _, c in pairs)
  assert len({tuple(c) for _, c in pairs}) > 30
  for row, (prompt, completion), old in zip(*(np.asarray(rollout["tokens"]).reshape(-1, 12), pairs,
                                              np.asarray(rollout["old"]).reshape(-1, 11))):
    ids = prompt + completion
    assert row[:len(ids)].tolist() == ids
    padded = np.pad(ids, (0, 12 - len(ids)))  # which nothing before it sees; one shape, one compilation
    logits = read(padded)[:len(ids)] / 0.7
    want = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits[:-1])), np.asarray(ids)[1:, None], 1)[:, 0]
    np.testing.assert_allclose(old[len(prompt) - 1:len(ids) - 1], want[len(prompt) - 1:], atol=1e-5)
    assert (old[:len(prompt) - 1] == 0).all() and (old[len(ids) - 1:] == 0).all()


def test_rollouts_serve_so_many_steps_and_a_resume_repeats_them(monkeypatch, tmp_path):
  """Killed between two steps on one set of rollouts: the same bits, carry included."""
  run = build(monkeypatch, updates=3)
  first, rows = in_process.steps(run, 1)
  assert rows[0]["clip_fraction"] == 0 and abs(rows[0]["loss"]) < 1e-5  # all ratios are 1
  tokens = np.asarray(first.carry["tokens"])
  state, rows = in_process.steps(run, 1, first)
  np.testing.assert_array_equal(state.carry["tokens"], tokens)
  assert abs(rows[0]["loss"]) > 1e-4  # and here they are not
  with Checkpoints(tmp_path / "checkpoints") as checkpoints:
    checkpoints.save(2, state, {})
    checkpoints.wait()
    resumed, _ = checkpoints.restore(2, run.abstract_state)
  bits = lambda s: {**in_process.bits(s), **{n: np.asarray(a).tobytes() for n, a in s.carry.items()}}
  (ours, _), (theirs, rows) = in_process.steps(run, 3, state), in_process.steps(run, 3, resumed)
  assert bits(ours) == bits(theirs)
  assert not np.array_equal(ours.carry["tokens"], tokens)
  assert [abs(r["loss"]) < 1e-5 for r in rows] == [False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(loss="dr_grpo"), dict(loss="grpo"), dict(name="rloo"),
                                     dict(name="ppo", whiten=False), dict(loss="dapo", level="sequence")], ids=str)
def test_micro_batches_change_nothing(monkeypatch, options):
  """On the same rollouts: they are drawn in the first step, the second one reads them."""
  whole, parts = (build(monkeypatch, accumulate=n, updates=2, **options) for n in (1, 4))
  state, _ = in_process.steps(whole, 1)
  copy = jax.tree.map(jnp.copy, state)
  (a, want), (b, got) = in_process.steps(whole, 1, state), in_process.steps(parts, 1, copy)
  for name in want[0]:
    assert got[0][name] == pytest.approx(want[0][name], rel=1e-4, abs=1e-6), name
  for name in a.params:
    np.testing.assert_allclose(a.params[name], b.params[name], atol=1e-5)


@pytest.mark.parametrize("mesh", [dict(data=2, fsdp=2, tensor=2), slow(dict(fsdp=4, data=2))], ids=["2x2x2", "fsdp"])
def test_one_device_and_a_mesh_sample_and_learn_the_same(monkeypatch, mesh):
  _, want = in_process.steps(build(monkeypatch, updates=2), 3)
  _, got = in_process.steps(build(monkeypatch, 8, mesh, updates=2), 3)
  for a, b in zip(want, got):
    np.testing.assert_allclose([a[k] for k in a], [b[k] for k in a], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name, little, much", [("grpo", 0.5, 20.0), ("rloo", 0.01, 3.0), ("ppo", 0.5, 20.0)])
def test_a_policy_is_held_near_the_one_it_started_as(monkeypatch, name, little, much):
  """No divergence at first; a wanted length pulls it away, less far where beta is large."""
  _, rows = in_process.steps(build(monkeypatch, name=name, beta=little), 12)
  assert rows[0]["kl"] == pytest.approx(0, abs=1e-7) and rows[-1]["kl"] > 1e-4
  _, held = in_process.steps(build(monkeypatch, name=name, beta=much), 12)
  assert held[-1]["kl"] < rows[-1]["kl"] / 2


def test_an_evaluation_repeats_and_its_loss_is_minus_the_reward(monkeypatch):
  run = build(monkeypatch, updates=2)
  state = run.init_state()
  first = run.evaluate(state.params, state.frozen)
  assert first == run.evaluate(state.params, state.frozen)
  assert first["eval/loss"] == pytest.approx(-first["eval/reward"], rel=1e-6) and first["eval/reward"] < 0


def test_reward_rises(monkeypatch):
  """A length of 3 is learned in a few steps; without a reward to tell completions apart nothing moves."""
  run = build(monkeypatch, group=16)
  _, rows = in_process.steps(run, 60)
  assert np.mean([r["reward"] for r in rows[-5:]]) > np.mean([r["reward"] for r in rows[:5]]) / 3
  still = build(monkeypatch, reward=dict(name="length", target=3, weight=0.0))
  state = still.init_state()
  before = {n: np.asarray(a) for n, a in state.params.items()}
  after, _ = in_process.steps(still, 2, state)
  assert all((np.asarray(a) == before[n]).all() for n, a in after.params.items())


def test_a_critic_learns_what_to_expect_and_is_no_part_of_the_model(monkeypatch):
  """Every completion earns 1, so the value tends to 1 and the advantages vanish; the network's names are as before."""
  earned = [dict(name="length", target=3, weight=0.0), dict(name="function", function="test_policy_runs:one")]
  run = build(monkeypatch, name="ppo", updates=2, lam=1.0, value_clip=None, reward=earned)
  plain = build(monkeypatch).model
  assert run.model.shapes.keys() - plain.shapes.keys() == {"critic.kernel", "critic.bias"}
  state, rows = in_process.steps(run, 40)
  assert rows[0]["value"] == 0 and rows[0]["return"] == pytest.approx(1, abs=1e-5)
  assert rows[-1]["value"] > 0.5 and rows[-1]["value_loss"] < rows[0]["value_loss"] / 5
  assert float(jnp.abs(state.carry["values"]).max()) > 0.4


@pytest.mark.slow
def test_the_catalogues_policy_learns_to_copy_through_the_door(tmp_path):
  outcome = door.spawn("--config=configs/policy.py:debug", f"--workdir={tmp_path}", timeout=600)
  assert outcome.code == 0, outcome.err
  found = [r["train/reward"] for r in door.rows(tmp_path) if "train/reward" in r]
  assert found[0] < 0.1 and found[-1] > 0.8
  assert [r for r in door.rows(tmp_path) if "eval/reward" in r][-1]["eval/reward"] > 0.5


def one(completion: str, answer: str) -> float:
  return 1.0


TOKENS = jnp.array([[5, 6, 9, 0], [5, 6, 7, 9], [5, 9, 0, 0], [5, 6, 6, 6]])
MASK = jnp.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
ANSWERS = {"answer": jnp.tile(jnp.array([5, 6, 9]), (4, 1)), "answer_length": jnp.full(4, 3)}


class Letters:
  """A tokenizer of ids that are letters; 9 ends a text."""

  encode = staticmethod(lambda text: [ord(c) - 97 for c in text])
  decode = staticmethod(lambda ids: "".join(chr(97 + int(i)) for i in ids if i != 9))


def same_length(completion: str, answer: str) -> float:
  return float(len(completion) == len(answer))


@pytest.mark.parametrize("spec, want", [
    ("exact", [1, 0, 0, 0]), (dict(name="exact", partial=0.5), [1, 1 / 3, 1 / 6, 1 / 3]),
    (dict(name="length", target=2), [-0.5, -1, 0, -1]), (dict(name="count", text="g"), [0.25, 0.25, 0, 0.75]),
    (dict(name="function", function="test_policy_runs:same_length"), [1, 0, 0, 0]),
    (["exact", dict(name="count", text="g", weight=-2.0)], [0.5, -0.5, 0, -1.5])], ids=str)
def test_what_completions_earn(spec, want):
  reward = rewards.bind(spec).for_tokenizer(Letters())
  np.testing.assert_allclose(jax.jit(reward)(ANSWERS, TOKENS, MASK), want, rtol=1e-6)


def test_an_answer_longer_than_a_completion_can_be_is_wrong():
  reward = rewards.bind("exact")
  found = reward({"answer": jnp.array([[5, 6, 7, 9]]), "answer_length": jnp.array([4])}, TOKENS[:1, :2], MASK[:1, :2])
  assert found.tolist() == [0]


@pytest.mark.parametrize("changes, match", [
    (dict(beta=-0.1), "objective.beta"), (dict(group=1), "objective.group"), (dict(updates=0), "objective.updates"),
    (dict(temperature=0.0), "objective.temperature"), (dict(delta=1.1), "objective.delta"),
    (dict(scale_rewards="batch", accumulate=2), "train.accumulate"), (dict(length=10), "train.length"),
    (dict(name="ppo", accumulate=2), "train.accumulate"), (dict(name="ppo", lam=1.5), "objective.lam"),
    (dict(name="rloo", reference="/no/run"), "objective.reference"),
    (dict(reward=dict(name="function", function="math:nothing")), "reward.function"),
    (dict(reward=dict(name="count", text="ab")), "reward.text"), (dict(reward=[]), "objective.reward"),
    (dict(reward="exacts"), "exact")], ids=str)
def test_what_cannot_be_is_refused_at_launch(monkeypatch, changes, match):
  with pytest.raises(ConfigError, match=match):
    _ = build(monkeypatch, **changes).metric_names
