"""Policies that a trained model rewards: a completion earns what the model alone says of its text, the model stays as
it is on every mesh and after every resume, and a folder that holds no reward model is refused at launch.
"""

import in_process
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import experiment, hub, pretrained
from llm_jax.core.errors import ConfigError
from llm_jax.core.row_parts import COMPLETION, PADDING, PROMPT, joined
from llm_jax.data.tokenizers.bytes import ByteTokenizer
from llm_jax.frozen_models import JUDGE
from llm_jax.models import gpt
from llm_jax.rewards import model as reward_model
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.session import Session

SIZES = dict(width=16, depth=1, heads=2)
MODEL = dict(name="gpt", variant="debug", positions=16, **SIZES)
BYTES = ByteTokenizer(("eod", "pad"))
ARRAYS = f"{JUDGE}0."

slow = lambda case: pytest.param(case, marks=pytest.mark.slow)


def config(objective, data="problems", tokenizer=None, model=MODEL, mesh=None, length=12):
  return {
      "model": model, "objective": objective, "mesh": mesh or dict(data=-1), "guard": dict(window=0),
      "data": dict(name=data, task="copy", digits=2, eval_rows=16, tokenizer=tokenizer),
      "optimizer": dict(name="sgd", peak=0.5, decay="constant", momentum=0.0),
      "train": dict(steps=2, batch_size=8, length=length), "log": dict(tensorboard=False, report=False)}


def policy(folder, name="grpo", **changes):
  """A policy that a model and the known answer reward, the second of them as a measure alone."""
  return dict(name=name, group=4, reward=[dict(name="model", folder=str(folder)), dict(name="exact", weight=0.0)]
              ) | changes


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run with the objective 'reward'."""
  folder = tmp_path_factory.mktemp("reward")
  made = config(dict(name="reward"), "problem_pairs", model=MODEL | dict(head="sequence", labels=1))
  Session(experiment.build(made), folder, lambda state: [], lambda length: 0.0).train()
  return folder


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
  """A Hugging Face folder whose head knows padding by a token."""
  return saved(tmp_path_factory.mktemp("hub"), head="sequence", labels=1)


def saved(folder, positions=16, **knobs):
  model = gpt.build(BYTES.vocab_size, positions, variant="debug", positions=positions, **SIZES, **knobs)
  hub.save(folder, model, model.init(jax.random.key(1)), BYTES)
  return folder


@pytest.fixture(scope="module")
def run(workdir):
  with pytest.MonkeyPatch.context() as monkeypatch:
    return in_process.build_from(monkeypatch, config(policy(workdir, updates=2, beta=0.1)))


def bits(tree):
  return {jax.tree_util.keystr(path): np.asarray(a).tobytes() for path, a in jax.tree_util.tree_leaves_with_path(tree)}


def test_prompt_and_completion_are_joined_without_a_gap():
  prompts, written = jnp.array([[1, 2, 3], [4, 5, 0], [6, 0, 0]]), jnp.array([[7, 8], [7, 0], [7, 8]])
  tokens, parts = joined(prompts, jnp.array([3, 2, 1]), written, written > 0)
  texts = [row[part != PADDING].tolist() for row, part in zip(np.asarray(tokens), np.asarray(parts))]
  assert texts == [[1, 2, 3, 7, 8], [4, 5, 7], [6, 7, 8]]
  assert parts.tolist()[1] == [PROMPT, PROMPT, COMPLETION, PADDING, PADDING]


@pytest.mark.parametrize("source", ["workdir", slow("hub_folder")])
def test_a_completion_earns_what_the_model_says_of_its_text_alone(monkeypatch, request, source):
  """Prompts and completions of several lengths side by side, against each text without padding; whatever stands where
  there is no token is not read."""
  folder = request.getfixturevalue(source)
  named = dict(name="hub", path=str(folder)) if source == "hub_folder" else None
  run = in_process.build_from(monkeypatch, config(policy(folder), tokenizer=named))
  state, batch = run.init_state(), run.batch(0)
  draw = lambda params: run.objective.rollouts.draw(run.model.apply, params, batch, jax.random.key(0))
  drawn = jax.jit(draw)({**state.frozen, **state.params})
  model, params, _ = (pretrained.from_workdir if source == "workdir" else pretrained.from_hub)(folder)
  score = jax.jit(lambda ids: model.apply(params, input_ids=ids).scores[0, 0])
  rows, parts, earned = (np.asarray(drawn[name]).reshape(32, -1) for name in ("tokens", "parts", "rewards"))
  texts = [row[None, part != PADDING] for row, part in zip(rows, parts)]
  of_length = {text.shape[1]: i for i, text in enumerate(texts)}  # one of each
  assert len(of_length) > 1
  want = [float(score(texts[i])) for i in of_length.values()]
  np.testing.assert_allclose(earned[list(of_length.values()), 0], want, rtol=1e-4, atol=1e-6)
  assert np.std(earned) > 1e-3 and (parts == PADDING).any()
  other = jax.jit(run.beside[0].score)(state.frozen, np.where(parts == PADDING, 5, rows), parts != PADDING)
  np.testing.assert_allclose(other, earned[:, 0], rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(drawn["reward_model"], drawn["rewards"])


def test_the_model_is_as_its_folder_has_it_and_nothing_of_it_is_trained(run, workdir):
  _, params, _ = pretrained.from_workdir(workdir)
  want = {ARRAYS + name: np.asarray(a) for name, a in params.items()}
  started = run.state_from(run.base.init(jax.random.key(3)))
  state, rows = in_process.steps(run, 3)
  for frozen in (started.frozen, state.frozen):
    assert {n for n in frozen if n.startswith(JUDGE)} == want.keys()
    assert all(np.array_equal(frozen[n], a) for n, a in want.items())
  assert not [n for n in bits((state.params, state.opt_state)) if JUDGE in n]
  assert {"reward", "reward_model", "reward_exact", "kl"} <= rows[0].keys()
  assert rows[0]["reward"] == rows[0]["reward_model"] != rows[0]["reward_exact"]
  assert rows[1]["reward"] == rows[0]["reward"] != rows[2]["reward"]


def test_there_is_no_gradient_through_the_model(run):
  state, batch = run.init_state(), run.batch(0)
  batch["carry"] = run.objective.memory(batch)
  def loss(params):
    losses = run.objective(run.model.apply, params, batch, jax.random.key(0), {})
    return (losses.values * losses.weights).sum()
  grads = jax.jit(jax.grad(loss))({**state.frozen, **state.params})
  assert all((np.asarray(g) == 0).all() for n, g in grads.items() if n.startswith(JUDGE))
  assert any((np.asarray(g) != 0).any() for n, g in grads.items() if n in state.params)


def test_a_resume_repeats_every_bit(run, tmp_path):
  """Killed between two steps on one set of rollouts; the model's arrays come from the checkpoint."""
  state, _ = in_process.steps(run, 1)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {})
    checkpoints.wait()
    resumed, _ = checkpoints.restore(1, run.abstract_state)
  (ours, want), (theirs, got) = in_process.steps(run, 2, state), in_process.steps(run, 2, resumed)
  assert bits(ours.params) == bits(theirs.params) and bits(ours.frozen) == bits(theirs.frozen)
  assert bits(ours.carry) == bits(theirs.carry) and want == got


def test_an_evaluation_says_both_rewards(run):
  state = run.init_state()
  found = run.evaluate(state.params, state.frozen)
  assert found == run.evaluate(state.params, state.frozen)
  np.testing.assert_allclose([found["eval/reward_model"], -found["eval/loss"]], found["eval/reward"], rtol=1e-6)
  assert 0 <= found["eval/reward_exact"] < 0.5


@pytest.mark.slow
def test_one_device_and_a_mesh_have_the_same_losses(monkeypatch, run, workdir):
  """The arrays of the model are split as those of the policy are."""
  made = config(policy(workdir, updates=2, beta=0.1), mesh=dict(data=2, fsdp=2, tensor=2))
  spread = in_process.build_from(monkeypatch, made, 8)
  places = spread.state_shardings
  for name, place in places.params.items():
    assert places.frozen[ARRAYS + name].spec == place.spec
  assert not all(place.is_fully_replicated for name, place in places.frozen.items() if name.startswith(JUDGE))
  for a, b in zip(in_process.steps(run, 3)[1], in_process.steps(spread, 3)[1]):
    np.testing.assert_allclose([a[k] for k in a], [b[k] for k in a], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [slow("ppo"), slow("rloo")])
def test_every_policy_learns_from_it(monkeypatch, workdir, name):
  """Where scores are the same for every text but for those cut short, completions learn to end."""
  ending = dict(name="model", folder=str(workdir), clip=1e-6, unfinished=1.0)
  made = config(policy(workdir, name, updates=2, group=16, reward=ending), length=14)
  _, rows = in_process.steps(in_process.build_from(monkeypatch, made), 40)
  assert np.mean([r["reward"] for r in rows[-4:]]) > np.mean([r["reward"] for r in rows[:4]]) + 0.1


def test_scores_are_cut_and_unfinished_completions_cost():
  reward = reward_model.build(folder="f", clip=2.0, unfinished=0.5).for_tokenizer(BYTES)
  said = jnp.array([5.0, -5.0, 1.0])
  reward = reward.with_models([lambda params, tokens, real: said + params["a"]]).given({"a": jnp.zeros(3)})
  end = BYTES.special["eod"]
  written = jnp.array([[7, end], [7, 8], [end, 0]])
  asked = {"prompt": jnp.ones((3, 2), int), "prompt_length": jnp.array([2, 1, 2])}
  np.testing.assert_allclose(reward(asked, written, written > 0), [2.0, -2.5, 1.0])


def test_a_part_of_a_mix_is_rewarded_by_it(monkeypatch, workdir):
  parts = [policy(workdir), dict(name="causal_lm")]
  assert "grpo_reward_model" in in_process.build_from(monkeypatch, config(dict(name="mix", parts=parts))).metric_names


@pytest.mark.parametrize("knobs, match", [
    (dict(positions=8, head="sequence", labels=1), "reads 8 tokens, and rows have 12"),
    (dict(head="lm"), "no head for scores of a text; it offers .*causal"),
    (dict(head="sequence", labels=2), "has 2 scores for a text"), (None, "no such folder"), ({}, "another tokenizer")],
    ids=str)
def test_a_folder_without_a_reward_model_is_refused(monkeypatch, tmp_path, knobs, match):
  folder = tmp_path / "none" if knobs is None else saved(tmp_path, **knobs or dict(head="sequence", labels=1))
  named = dict(name="hub", path=str(folder)) if knobs else None
  with pytest.raises(ConfigError, match=rf"config\.objective\.reward\.folder: .*{match}(.|\n)*accepted: ") as told:
    in_process.build_from(monkeypatch, config(policy(folder), tokenizer=named))
  assert told.value.exit_code == 2 and str(folder) in str(told.value)


@pytest.mark.parametrize("knobs", [dict(clip=0.0), dict(unfinished=-1.0)], ids=str)
def test_numbers_out_of_range_are_refused(knobs):
  with pytest.raises(ConfigError, match=rf"config\.objective\.reward\.{next(iter(knobs))}: got "):
    reward_model.build(folder="f", **knobs)
