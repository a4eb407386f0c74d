"""AdaLoRA: the allocation equals peft's own, the budget is met and kept, triplets are held apart, a resume is exact.

recorded/rank_allocator.npz was written by tests/parity/rank_allocator.py. The laws of every method are in
test_methods.py, those of folders in tests/hub/test_adapters.py.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import experiment, hub
from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError
from llm_jax.data import tokenizers
from llm_jax.models import deberta_pair, electra, gpt
from llm_jax.objectives import replaced_token
from llm_jax.peft import adalora
from llm_jax.training.step import knobs_of

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "laws"))
import door

HERE = pathlib.Path(__file__).resolve().parent
IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 1]], np.int32)
SMALL = dict(vocab_size=11, positions=8, width=16, depth=3, heads=2)


def method(**knobs):
  return adalora.build(**dict(rank=4, final_rank=2, alpha=8.0, first=2, last=3, every=2) | knobs)


def adapted(**knobs):
  """(method, model, parameters with a draw for every triplet)."""
  made = method(**knobs)
  model = made.adapt(gpt.from_config(gpt.GPTConfig(**SMALL)))
  params = model.init(jax.random.key(0))
  draw = lambda i, p: 0.3 * jax.random.normal(jax.random.fold_in(jax.random.key(1), i), p.shape)
  return made, model, {n: draw(i, p) if "adalora" in n else p for i, (n, p) in enumerate(sorted(params.items()))}


def values(params):
  """{name: E}."""
  return {n: np.asarray(p) for n, p in params.items() if n.endswith(".adalora_e")}


def test_the_allocation_is_that_of_peft():
  """x0 and x1 are the layers of one stack here."""
  with np.load(HERE / "recorded/rank_allocator.npz") as file:
    recorded = {n: file[n] for n in file.files}
  def ours(ending):
    found = {}
    for part in "AEB":
      x0, x1, y = (recorded[f"in.{n}.{part}{ending}"].swapaxes(-1, -2) for n in ("x0", "x1", "y"))
      x0, x1, y = (a[..., 0, :] for a in (x0, x1, y)) if part == "E" else (x0, x1, y)
      found |= {f"x.adalora_{part.lower()}": np.stack((x0, x1), 1 if ending else 0), f"y.adalora_{part.lower()}": y}
    return found
  params, grads = ours(""), ours(".grads")
  steps = len(grads["y.adalora_e"])
  optimizer = method(sensitivity=0.8, uncertainty=0.9).updates(optax.sgd(0.05), steps)
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  for step in range(steps):
    moves, state = update({n: g[step] for n, g in grads.items()}, state, params)
    params = optax.apply_updates(params, moves)
    want = [recorded[f"out.{n}.E"][step] for n in ("x0", "x1", "y")]
    np.testing.assert_allclose([*params["x.adalora_e"], params["y.adalora_e"]], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(params["x.adalora_e"]) == 0, np.stack(want[:2]) == 0)


def test_the_budget_is_met_and_what_is_out_stays_out():
  made, _, params = adapted()
  params = {n: p for n, p in params.items() if "adalora" in n}
  optimizer = made.updates(optax.adam(0.1), 20)
  state, update = optimizer.init(params), jax.jit(optimizer.update)
  left = []
  for step in range(20):
    noise = lambda i, p, step=step: jax.random.normal(jax.random.fold_in(jax.random.key(step), i), p.shape)
    moves, state = update({n: noise(i, p) for i, (n, p) in enumerate(params.items())}, state, params)
    params = optax.apply_updates(params, moves)
    left.append({n: e != 0 for n, e in values(params).items()})
  count = [sum(int(e.sum()) for e in kept.values()) for kept in left]
  maps = sum(e.size // e.shape[-1] for e in left[0].values())
  assert count[:3] == [4 * maps] * 3 and count[16:] == [2 * maps] * 4  # two updates first, three last
  cubic = [int(2 * maps * (1 - (t - 2) / 15) ** 3) + 2 * maps for t in range(4, 17, 2)]
  assert [count[t - 1] for t in range(4, 17, 2)] == cubic
  assert all(np.array_equal(left[16][n], kept[n]) for kept in left[16:] for n in kept)


def test_the_term_of_the_loss_is_the_distance_from_orthogonal_triplets():
  _, model, params = adapted(orthogonality=0.7)
  distances = []
  for name in values(params):
    stem = name.removesuffix(".adalora_e")
    for layer in range(3):
      a = np.asarray(params[f"{stem}.adalora_a"])[layer].reshape(-1, 4)
      b = np.asarray(params[f"{stem}.adalora_b"])[layer].reshape(4, -1)
      distances += [np.linalg.norm(a.T @ a - np.eye(4)), np.linalg.norm(b @ b.T - np.eye(4))]
  output = jax.jit(lambda p: model.apply(p, input_ids=IDS))(params)
  np.testing.assert_allclose(output.auxiliary, 0.7 * np.mean(distances), rtol=1e-5)
  np.testing.assert_allclose(output.metrics["adalora_rank"].total / output.metrics["adalora_rank"].weight, 4.0)
  exact = dict(params)
  for name in params:
    if name.endswith((".adalora_a", ".adalora_b")):
      square = jnp.linalg.qr(params[name].reshape(3, -1, 4) if name.endswith("a") else
                             params[name].reshape(3, 4, -1).swapaxes(1, 2))[0]
      exact[name] = (square if name.endswith("a") else square.swapaxes(1, 2)).reshape(params[name].shape)
  term, gradient = jax.jit(jax.value_and_grad(lambda p: model.apply(p, input_ids=IDS).auxiliary))(exact)
  assert abs(float(term)) < 1e-5 and all(np.isfinite(g).all() for g in gradient.values())


def test_fused_maps_are_one_to_the_term():
  """Side by side their B are orthogonal, apart each is a part of that."""
  _, model, params = adapted(fused=r"\.(query|value)$", orthogonality=1.0)
  both = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (3, 32, 4)))[0].swapaxes(1, 2)
  a = jnp.linalg.qr(jax.random.normal(jax.random.key(4), (3, 16, 4)))[0]
  for i, name in enumerate(("query", "value")):
    stem = f"blocks.attention.{name}"
    params |= {f"{stem}.adalora_a": a, f"{stem}.adalora_b": both[..., 16 * i:16 * i + 16].reshape(3, 4, 2, 8)}
  assert abs(float(jax.jit(lambda p: model.apply(p, input_ids=IDS).auxiliary)(params))) < 1e-5


@pytest.mark.parametrize("pair", ["electra", pytest.param("deberta_pair", marks=pytest.mark.slow)])
def test_a_generator_and_a_discriminator_have_the_term_once(pair):
  """Of all triplets of both, whatever the discriminator's loss counts; the discriminator alone has it too."""
  kind, sizes = (electra, dict(embed_width=8)) if pair == "electra" else (deberta_pair, dict())
  base = kind.build(262, 16, variant="debug", width=16, depth=1, heads=2, hidden=32, **sizes)
  model = method(orthogonality=0.7, targets="query$").adapt(base)
  params = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), model.shapes)
  def distance(name, a):
    square = a.reshape(-1, 4).T @ a.reshape(-1, 4) if name.endswith("_a") else a.reshape(4, -1) @ a.reshape(4, -1).T
    return np.linalg.norm(square - np.eye(4))
  want = 0.7 * np.mean([distance(n, np.asarray(a)) for n, a in params.items() if n.endswith(("_a", "_b"))])
  objective = replaced_token.build(weight=50.0).for_tokenizer(
      plugins.bind(tokenizers.ROOM, dict(name="bytes"), "config.data.tokenizer")(None).train(()))
  rows = {"tokens": jnp.ones((2, 16), jnp.int32), "weights": jnp.ones((2, 16))}
  losses, alone = jax.jit(lambda p: (objective(model.apply, p, rows, jax.random.key(0), {}),
                                     model.apply(p, input_ids=rows["tokens"]).auxiliary))(params)
  np.testing.assert_allclose([losses.auxiliary, alone], want, rtol=1e-5)
  rank = losses.metrics["generator_adalora_rank"]
  assert rank.weight == 2 and rank.total == 8


@pytest.mark.parametrize("knobs, key", [
    (dict(final_rank=5), "final_rank"), (dict(every=0), "every"), (dict(sensitivity=1.0), "sensitivity"),
    (dict(orthogonality=-1.0), "orthogonality"), (dict(last=-1), "last")])
def test_knobs_that_cannot_be_are_refused(knobs, key):
  with pytest.raises(ConfigError, match=rf"config\.peft\.{key}: "):
    method(**knobs)


def config(**changes):
  text = HERE.parents[1] / "llm_jax/data/fallback/king_james_bible.txt"
  return {
      "model": dict(name="gpt", variant="debug", width=16, depth=2, heads=2),
      "data": dict(name="text_folder", path=str(text), tokenizer=dict(name="bytes"), domains="one"),
      "optimizer": dict(name="adamw", peak=1e-2, decay="constant"),
      "train": dict(steps=8, batch_size=8, length=16), "mesh": dict(data=-1),
      "peft": dict(name="adalora", rank=4, final_rank=1, first=1, last=2, every=1), **changes}


def stepped(run, count=8):
  state, rows = run.init_state(), []
  for step in range(count):
    state, vector = run.compiled_step(state, run.batch(step), knobs_of(run.curriculum.plan(step, {})))
    rows.append(dict(zip(run.metric_names, np.asarray(vector).tolist(), strict=True)))
  return state, rows


def test_a_run_ends_with_its_budget_and_no_phase_may_be_empty():
  run = experiment.build(config())
  state, rows = stepped(run)
  assert sum((e != 0).sum() for e in values(state.params).values()) == 4  # two maps in two layers
  assert [round(row["adalora_rank"], 4) for row in (rows[1], rows[7])] == [4.0, 1.0]
  with pytest.raises(ConfigError, match=r"config\.peft\.first: 5 updates first and 3 last leave none of 8"):
    experiment.build(config(peft=dict(name="adalora", first=5, last=3)))


@pytest.mark.slow
def test_a_mesh_allocates_as_one_device_does(monkeypatch):
  with monkeypatch.context() as patch:
    first = jax.devices()[:1]
    patch.setattr(jax, "devices", lambda *_: first)
    alone, rows = stepped(experiment.build(config()))
  spread = experiment.build(config(mesh=dict(data=2, fsdp=2, tensor=2)))
  state, more = stepped(spread)
  lies = spread.abstract_state
  assert all(a.sharding == lies.params[n].sharding for n, a in lies.opt_state.smoothed.items())
  for a, b in zip(rows, more):
    np.testing.assert_allclose([a[k] for k in a], [b[k] for k in a], rtol=2e-3, atol=1e-4)
  for name, e in values(alone.params).items():
    np.testing.assert_array_equal(e != 0, values(state.params)[name] != 0)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path):
  knobs = [f"--config.peft.{k}={v}" for k, v in dict(name="adalora", rank=4, final_rank=2, every=2).items()]
  whole, stopped = (door.tiny(tmp_path / name, *knobs, "--config.train.steps=16") for name in ("whole", "stopped"))
  assert door.spawn(*whole).code == 0
  assert door.spawn(*stopped, LLM_JAX_FAULT="sigterm:0:7").code == 75
  assert door.spawn(*stopped).code == 0
  assert not door.differences(tmp_path / "whole", tmp_path / "stopped")
  assert any("smoothed" in name for name in door.state(tmp_path / "whole"))


def test_a_folder_with_the_triplets_that_were_left_is_the_same_function(tmp_path):
  """As peft writes one after training: `rank_pattern` says which rows are there."""
  _, model, params = adapted(targets=r"attention\.out$")
  gone = np.array([[True, False, False, True], [False] * 4, [True, True, False, False]])
  params["blocks.attention.out.adalora_e"] = jnp.where(gone, 0.0, params["blocks.attention.out.adalora_e"])
  plain = model.made_of[1]
  hub.save(tmp_path / "base", plain, {n: params[n] for n in plain.shapes})
  hub.save_adapter(tmp_path / "full", model, params, base="../base")
  tensors, said = load_file(tmp_path / "full/adapter_model.safetensors"), json.loads(
      (tmp_path / "full/adapter_config.json").read_text())
  said["rank_pattern"] = {}
  for name in [n for n in tensors if n.endswith(".lora_E")]:
    kept = tensors[name][:, 0] != 0
    stem = name.removesuffix("lora_E")
    said["rank_pattern"][name.removeprefix("base_model.model.")] = kept.tolist()
    cut = {f"{stem}lora_A": tensors[f"{stem}lora_A"][kept], name: tensors[name][kept],
           f"{stem}lora_B": np.ascontiguousarray(tensors[f"{stem}lora_B"][:, kept])}
    tensors |= cut
  (tmp_path / "cut").mkdir()
  save_file(tensors, tmp_path / "cut/adapter_model.safetensors")
  (tmp_path / "cut/adapter_config.json").write_text(json.dumps(said))
  want = model.apply(params, input_ids=IDS).logits
  for folder in ("full", "cut"):
    loaded, arrays, _ = hub.load(tmp_path / folder)
    np.testing.assert_allclose(loaded.apply(arrays, input_ids=IDS).logits, want, rtol=1e-5, atol=1e-5)
  held = json.loads((tmp_path / "full/adapter_config.json").read_text())
  assert held["init_r"] == 4 and (held["tinit"], held["tfinal"]) == (2, 3)
