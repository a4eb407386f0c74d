"""The search for a way to run: every mesh axis that a network can use and no other, ranked as a person would."""

import functools

import pytest

from llm_jax import experiment, plan, plan_auto, plan_search
from llm_jax.core import config as configs
from llm_jax.core.errors import ConfigError
from llm_jax.planning import hardware, meshes, text, transfers


def searched(name, chip, count, rows, vocab=None, **sections):
  config = configs.load_file(f"configs/{name}")
  config["train"]["batch_size"] = rows
  for section, knobs in sections.items():
    config[section] |= knobs
  config, size = plan.without_tokenizer(config, vocab)
  return plan_search.candidates(config, size, (hardware.TPUS | hardware.GPUS)[chip], count)


@functools.cache
def dense():
  """Of a small network with two layers and four heads, on eight devices; a search takes seconds."""
  return searched("gpt2.py:debug", "v5e", 8, 64)


def axes(ranked):
  return {axis for c in ranked for axis, size in c.way.mesh.items() if size > 1}


@pytest.mark.slow
def test_each_network_is_tried_on_the_axes_that_it_can_use():
  assert axes(dense()) == {"data", "fsdp", "stage", "context", "tensor"}
  assert any(sum(n > 1 for n in c.way.mesh.values()) == 3 for c in dense())
  assert {c.way.remat for c in dense()} == set(plan_search.POLICIES)
  assert {c.way.accumulate for c in dense()} >= {1, 2, 4}
  mixture = searched("decoder.py:debug-mixtral", "v5e", 8, 64)
  assert axes(mixture) == axes(dense()) | {"expert"}
  assert all(4 % c.way.mesh["expert"] == 0 for c in mixture)  # it has four
  recurrent = searched("lstm.py:debug", "v5e", 8, 64)
  assert not axes(recurrent) & {"stage", "context", "expert"} and {c.way.remat for c in recurrent} == {None}


@pytest.mark.slow
def test_replicas_only_where_the_fast_links_end():
  assert "replica" in axes(searched("gpt2.py:debug", "h100", 16, 64))
  assert "replica" not in axes(searched("gpt2.py:debug", "h100", 8, 64))


def test_a_pipeline_has_whole_stages_and_micro_batches():
  for c in dense():
    stage, way = c.way.mesh["stage"], c.way
    assert 2 % stage == 0  # it has two layers
    assert (way.microbatches is None) == (stage == 1)
    if way.microbatches:
      assert 64 % (c.way.mesh["data"] * c.way.mesh["fsdp"] * way.accumulate * way.microbatches) == 0


def test_a_way_without_a_pipeline_unsays_the_config_s_own_schedule():
  config = dict(mesh=dict(stage=2, microbatches=4, rounds=2))
  said = plan_search.Way(dict(data=8, stage=1), None).overrides(config)
  assert (said["mesh.stage"], said["mesh.microbatches"], said["mesh.rounds"]) == (1, None, 1)
  assert not {"mesh.microbatches", "mesh.rounds"} & set(plan_search.Way(dict(data=8), None).overrides({}))


@pytest.mark.slow
def test_a_small_model_wants_copies_with_split_state():
  best = searched("gpt2.py:124m", "v5e", 8, 512, 50_304)[0]
  assert best.way.mesh["data"] == 8 and best.way.split_state and best.found["fits"]


@pytest.mark.slow
@pytest.mark.parametrize("name, chip, count, rows", [("decoder.py:llama3-8b", "h100", 64, 256),
                                                     ("decoder.py:llama3-70b", "v5p", 256, 512)])
def test_a_large_model_wants_split_weights(name, chip, count, rows):
  ranked = searched(name, chip, count, rows, 128_256)
  way = ranked[0].way
  assert ranked[0].found["fits"] and way.mesh["fsdp"] * way.mesh["tensor"] * way.mesh["stage"] >= 8
  assert not ranked[-1].found["fits"] and ranked[0].found["mfu"] < 1
  assert "--config.mesh.fsdp=" in " ".join(ranked[0].lines) and "does not fit" in text.ranking(ranked[-1:])


@pytest.mark.slow
def test_a_mixture_is_estimated_by_the_experts_that_a_token_meets():
  ranked = searched("decoder.py:mixtral-8x7b", "v5p", 64, 512, 32_000)
  assert ranked[0].found["fits"] and 0.2 < ranked[0].found["mfu"] < 1


def test_candidates_worth_compiling_differ_in_more_than_micro_batches():
  kept = plan_search.apart(dense())
  assert kept[0] is dense()[0] and len(kept) < len(dense())
  assert len({(*c.way.mesh.items(), c.way.remat, c.way.split_state) for c in kept}) == len(kept)


def test_the_network_is_links_and_then_the_slow_part():
  """64 devices in boxes of 8: a gather goes through the box first, and an eighth of it over the network."""
  chip = hardware.GPUS["h100"]
  links = transfers._Links({"fsdp": 64}, chip)
  assert links.parts("fsdp") == (8, 8)
  want = 7 / 8 / chip.link + 1 / 8 * 7 / 8 / chip.network
  assert links.gather(("fsdp",), 1.0) == pytest.approx(want)
  inner = transfers._Links({"data": 8, "tensor": 8}, chip)
  assert inner.parts("tensor") == (8, 1) and inner.parts("data") == (1, 8)


def test_an_illegal_layout_is_left_out():
  assert max(c.way.mesh["tensor"] for c in dense()) == 4  # four heads
  assert meshes.axes_of(("fsdp", None, ("tensor", "stage"))) == {"fsdp", "tensor", "stage"}


def settled(name, chip, count, mesh, **sections):
  config = configs.load_file(f"configs/{name}")
  config["mesh"] = mesh
  for section, knobs in sections.items():
    config[section] |= knobs
  config, size = plan.without_tokenizer(config, None)
  known = hardware.TPUS | hardware.GPUS
  return plan_auto.settled(config, size, known.get(chip), count)


@pytest.mark.slow
def test_a_large_config_that_leaves_its_mesh_to_the_planner_is_split():
  mesh = settled("decoder.py:llama3-8b", "v5p", 64, dict(data=1, fsdp=-1, auto=True))["mesh"]
  assert mesh["fsdp"] * mesh["tensor"] * mesh.get("stage", 1) >= 8


def test_a_config_may_leave_its_mesh_to_the_planner():
  small = settled("gpt2.py:124m", "v5e", 8, dict(auto=True), train=dict(split_state=True))
  assert small["mesh"]["data"] == 8 and small["mesh"]["auto"] is False
  assert small["model"] == configs.plain(configs.load_file("configs/gpt2.py:124m"))["model"]
  given = dict(data=2, fsdp=4)
  assert settled("gpt2.py:124m", None, 8, given)["mesh"] == given  # it does not ask


@pytest.mark.parametrize("name, chip, count, said", [
    ("gpt2.py:debug", None, 8, "no data sheet"), ("gpt2.py:debug", "v5e", 7, "divides"),
    pytest.param("decoder.py:llama3-8b", "v5e", 2, "holds this", marks=pytest.mark.slow)])
def test_what_the_planner_cannot_choose_is_refused(name, chip, count, said):
  with pytest.raises(ConfigError, match=said):
    settled(name, chip, count, dict(auto=True))


def test_a_mesh_that_nobody_has_chosen_is_refused():
  config = configs.load_file("configs/gpt2.py:debug")
  config["mesh"] = dict(auto=True)
  with pytest.raises(ConfigError, match="auto"):
    experiment.build(config)


@pytest.mark.parametrize("kind, chip", [("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("NVIDIA H100 80GB HBM3", "h100"),
                                        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("cpu", None)])
def test_devices_are_known_by_what_they_call_themselves(kind, chip):
  assert hardware.of_device(kind) == (hardware.TPUS | hardware.GPUS).get(chip)
