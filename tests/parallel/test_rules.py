"""The table from logical axes to the mesh: any combination of axes, overrides, programs that do not outlive rules."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from llm_jax.core.errors import ConfigError
from llm_jax.parallel import mesh, rules


def of(**section):
  return rules.from_options(mesh.build(**{"data": 1, **section}))


def test_every_axis_has_its_place():
  found = of(replica=2, fsdp=2, stage=2)
  assert tuple(found.mesh.shape.values()) == (2, 1, 2, 2, 1, 1, 1)
  assert found.spec(("batch", "length")) == PartitionSpec(("replica", "fsdp"), None)
  assert found.spec(("layers", "embed", "heads"), (4, 8, 8)) == PartitionSpec("stage", "fsdp", None)
  found = of(context=2, expert=2, tensor=2)
  assert found.spec(("batch", "length"), (4, 8)) == PartitionSpec("expert", "context")
  assert found.spec(("batch", "norm_length"), (4, 8)) == PartitionSpec("expert", ("context", "tensor"))
  assert found.spec(("experts", "embed", "mlp"), (4, 8, 8)) == PartitionSpec("expert", None, "tensor")


def test_a_token_at_a_time_is_not_cut():
  """Cached decoding: a length of 1 stays whole on a mesh that cuts lengths."""
  assert of(context=8).spec(("batch", "length"), (1, 1)) == PartitionSpec(None, None)


def test_norms_see_whole_sequences_without_sequence_parallelism():
  found = of(context=2, tensor=4, sequence_parallel=False)
  assert found.spec(("batch", "norm_length"), (1, 8)) == PartitionSpec(None, "context")


def test_replicas_are_runs_of_slices():
  @dataclasses.dataclass(frozen=True)
  class Device:
    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "none"
    process_index: int = 0
  devices = [Device(i, i % 2) for i in range(8)]
  grid = mesh._grid((2, 1, 4, 1, 1, 1, 1), devices, "config.mesh").reshape(2, 4)
  assert [{d.slice_index for d in row} for row in grid] == [{0}, {1}]
  with pytest.raises(ConfigError, match="3 replicas over 2 slices"):
    mesh._grid((3, 1, 2, 1, 1, 1, 1), devices[:6], "config.mesh")


def test_the_last_override_that_matches_wins():
  found = of(fsdp=2, tensor=4, overrides=[["kernel$", [None, "mlp"]], [r"up\.kernel", ["embed", None]]])
  shapes = {n: jax.ShapeDtypeStruct((8, 8), jnp.float32) for n in ("up.kernel", "down.kernel", "table")}
  places = found.for_params(dict.fromkeys(shapes, ("embed", "mlp")), shapes)
  assert places["up.kernel"].spec == PartitionSpec("fsdp", None)
  assert places["down.kernel"].spec == PartitionSpec(None, "tensor")
  assert places["table"].spec == PartitionSpec("fsdp", "tensor")


@pytest.mark.parametrize("override, part", [
    (("(", ["embed"]), "no regular expression"), (("a", ["embd"]), "embed"), ("a", "a pair"),
    (("a", "embed"), "a pair"),
])
def test_overrides_that_cannot_be(override, part):
  with pytest.raises(ConfigError, match=part):
    of(fsdp=8, overrides=[override])


def test_an_override_names_every_axis():
  shape = {"a": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
  with pytest.raises(ConfigError, match="1 axes for a"):
    of(fsdp=8, overrides=[("a", ["embed"])]).for_params({"a": ("embed", "mlp")}, shape)


def test_no_program_outlives_its_rules():
  """A jitted function that pins its activations is traced anew under other rules, and not under equal ones."""
  seen = []
  @jax.jit
  def f(x):
    seen.append(rules.active())
    return rules.constrain(x, "batch")
  x = jnp.arange(8.0)
  for found in (of(data=8), of(fsdp=8), of(data=8)):
    with rules.use(found):
      assert len(f(x).sharding.device_set) == 8
  f(x)
  assert seen == [of(data=8), of(fsdp=8), None] and rules.active() is None
