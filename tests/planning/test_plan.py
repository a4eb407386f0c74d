"""The plan of a step: read from a compiled program, and equal to what a run then holds."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax import doors, experiment, plan, plan_search
from llm_jax.core import config as configs
from llm_jax.core.config import plain
from llm_jax.core.errors import ConfigError
from llm_jax.planning import buffers, costs, hardware, measured, program, topology
from llm_jax.training import flops

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'llm_jax[plan]'")


@pytest.mark.parametrize("name, count, hosts", [("v5e:2x4", 8, 2), ("v5p:4x4x4", 64, 16), ("h100:64", 64, 8)])
def test_topologies_by_name(name, count, hosts):
  found = topology.parse(name)
  assert (found.count, found.hosts) == (count, hosts)


@pytest.mark.parametrize("name, shape", [("v5p-128", (4, 4, 4)), ("v5p-512", (4, 8, 8)), ("v5p-8", (2, 2, 1)),
                                         ("v5e-8", (2, 4)), ("v6e-256", (16, 16)), ("v5litepod-16", (4, 4))])
def test_googles_names_count_cores_or_chips(name, shape):
  assert topology.parse(name).shape == shape


@pytest.mark.parametrize("name", ["v5p:4x4", "v5p-100", "v9:2x2", "v5e", "v5e:0x4", "h100:0", "h100:two", ""])
def test_a_wrong_topology_says_what_is_accepted(name):
  with pytest.raises(ConfigError, match="v5e:2x4"):
    topology.parse(name)


def test_links_close_to_rings_as_the_hardware_does():
  assert topology.parse("v5p:4x4x8").wraps() == (True, True, True)
  assert topology.parse("v5p:2x2x4").wraps() == (False, False, True)
  assert topology.parse("v5e:4x8").wraps() == (False, False, False)
  assert topology.parse("v5e:16x16").wraps() == (True, True, False)


def mesh_4x2():
  return Mesh(np.asarray(jax.devices()).reshape(4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


def test_trips_collectives_and_bytes_of_a_program():
  mesh, layers = mesh_4x2(), 5

  def f(x, w):
    def layer(x, w):
      x = jax.lax.with_sharding_constraint(jnp.tanh(x @ w), NamedSharding(mesh, P("data")))
      return x, None
    return jax.lax.scan(layer, x, w)[0].sum()
  x = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=NamedSharding(mesh, P("data", "tensor")))
  w = jax.ShapeDtypeStruct((layers, 64, 64), jnp.float32, sharding=NamedSharding(mesh, P(None, "tensor")))
  done = jax.jit(f).lower(x, w).compile()
  parsed = program.parse(done.as_text())
  rows = costs.measure(parsed, mesh).collectives
  over_tensor = [r for r in rows if r["axes"] == "tensor" and r["op"] == "all-reduce"]
  assert (over_tensor[0]["count"], over_tensor[0]["bytes"]) == (layers + 1, layers * 8 * 64 * 4 + 4)  # 1: the sum


def test_the_groups_of_a_collective_name_its_axes():
  groups = costs.axis_groups(mesh_4x2())
  name = lambda text: groups.get(frozenset(costs.first_group(text)))
  assert name("replica_groups={{0,1},{2,3},{4,5},{6,7}}") == "tensor"
  assert name("replica_groups=[2,4]<=[4,2]T(1,0)") == "data"
  assert name("replica_groups=[1,8]<=[8]") == "data x tensor"
  assert name("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}") == "data"
  assert name("source_target_pairs={{0,2},{2,4},{4,6},{6,0}}") == "data"


def test_tiles_count_whole():
  assert program.type_bytes("bf16[3,100]{1,0:T(8,128)(2,1)}", padded=True) == 8 * 128 * 2
  assert program.type_bytes("bf16[3,100]{1,0:T(8,128)(2,1)}") == 600
  assert program.type_bytes("f32[8,128]{1,0:T(8,128)S(1)}", padded=True) == 0  # not in HBM
  assert program.type_bytes("(f32[2], s4[3])") == 9


def test_the_listed_temporaries_are_those_that_xla_counts():
  def f(x):
    y = jnp.cumsum(jnp.sin(x), axis=0)  # no version of XLA fuses a running sum into the product
    return jnp.tanh(y @ y.T).sum()
  done = jax.jit(f).lower(jax.ShapeDtypeStruct((512, 512), jnp.float32)).compile()
  alive, listed = buffers.largest(program.parse(done.as_text()))
  found = done.memory_analysis()
  assert found.temp_size_in_bytes >= 512 * 512 * 4
  assert abs(alive - found.temp_size_in_bytes) < 0.1 * found.temp_size_in_bytes
  assert "f32[512,512]" in {buffer.type for buffer in listed}


def tiny(mesh, **model):
  config = configs.load_file("configs/gpt2.py:debug")
  config["mesh"] = mesh
  config["model"] |= model
  config["train"] |= dict(batch_size=16)
  return config


def test_a_vocabulary_by_its_size_alone():
  config = tiny(dict(data=8))
  config["data"] = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=4096))
  replaced, size = plan.without_tokenizer(config, None)
  assert size == 4096 and replaced["data"]["tokenizer"] == {"name": "bytes"}
  run = experiment.build(replaced, vocab_size=size)
  assert run.model.shapes["tokens.embedding"].shape[0] == 4096


def test_an_untied_head_lies_once_on_a_split_mesh():
  config = configs.load_file("configs/decoder.py:debug")
  config["mesh"] = dict(fsdp=4, tensor=2)
  run = experiment.build(config)
  spec = run.abstract_state.params["head.kernel"].sharding.spec
  assert tuple(spec) == ("fsdp", "tensor")


def test_the_door_writes_json(tmp_path, capsys):
  out = tmp_path / "plan.json"
  with pytest.raises(SystemExit) as stop:
    doors.run(plan.main, plan.define, ["plan", "--config=configs/gpt2.py:debug", "--topology=local", f"--out={out}"])
  assert stop.value.code == 0
  found = json.loads(out.read_text())
  assert found["memory"]["fits"] and found["devices"] == jax.device_count()
  assert "memory per device" in capsys.readouterr().out


@needs_libtpu
@pytest.mark.slow
def test_a_step_compiled_for_an_absent_tpu():
  config = tiny(dict(data=1, fsdp=-1), dtype="bfloat16")
  found = plan.planned(config, topology.parse("v5e:2x4"))
  assert found["time"]["cycles"] > 1e5 and found["memory"]["fits"]
  assert any(r["axes"] == "fsdp" for r in found["collectives"])


def estimator(config, chip="v5e", count=8):
  return plan_search.Estimator(plain(config), None, hardware.TPUS[chip], count)


def test_estimated_state_is_exact_and_activations_shrink_with_the_policy():
  config = tiny(dict(data=2, fsdp=2, tensor=2), dtype="bfloat16")
  make = estimator(config)
  mesh = dict(data=2, fsdp=2, tensor=2)
  Way = plan_search.Way
  found = {remat: make(Way(mesh, remat))["memory"] for remat in plan_search.POLICIES}
  run = experiment.build(config)
  device = jax.devices()[0]
  assert found["none"]["parameters"] == measured.held_bytes(run.init_state().params, device)
  kept = [found[remat]["activations"] for remat in plan_search.POLICIES]
  assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept)
  assert make(Way(mesh, "none", 4))["memory"]["activations"] < 0.3 * kept[0]
  assert make(Way(mesh, "none", split_state=True))["memory"]["optimizer"] < 0.6 * found["none"]["optimizer"]


def test_estimated_flops_of_the_matrix_products_are_the_models():
  """Without recomputation: six per parameter that multiplies, twice that of the forward pass for the backward one."""
  config = tiny(dict(data=8), dtype="bfloat16")
  make = estimator(config)
  run = make.run("none")
  assert make._trace("none").products == pytest.approx(flops.per_token(run.model, 0), rel=0.02)
  assert make._trace("full").products > 1.15 * make._trace("none").products  # the head is not done again


@pytest.mark.slow
def test_what_does_not_fit_is_told_what_would(tmp_path):
  config = plain(configs.load_file("configs/decoder.py:llama3-8b"))
  config["train"]["batch_size"] = 64
  config, size = plan.without_tokenizer(config, None)
  lines = plan_search.advice(config, size, hardware.TPUS["v5e"], 64)
  assert 1 <= len(lines) <= 3 and all("--config.model.remat=" in line for line in lines)
  assert plan_search.advice(config, size, hardware.TPUS["v5e"], 1) == []


def test_the_door_estimates_gpus(capsys):
  with pytest.raises(SystemExit) as stop:
    doors.run(plan.main, plan.define, ["plan", "--config=configs/gpt2.py:124m", "--topology=h200:8"])
  assert stop.value.code == 0
  assert "by estimate" in capsys.readouterr().out


def test_an_inner_loop_is_not_estimated():
  config = tiny(dict(data=8)) | {"meta_learning": {"name": "maml"}}
  with pytest.raises(ConfigError, match="meta_learning"):
    estimator(config)
