"""What a plan predicts for the devices that are here is what a run then holds, on meshes of every kind."""

import pathlib

import jax
import pytest

from llm_jax import experiment, plan
from llm_jax.planning import buffers, measured, program, text, topology

TEXT = str(pathlib.Path(__file__).resolve().parents[2] / "llm_jax/data/fallback/king_james_bible.txt")
SMALL = dict(width=32, depth=4, heads=4, dropout=0.0)
SPECIAL = ("eod", "pad", "cls", "sep", "mask")
GPT = dict(model=dict(name="gpt", variant="debug", **SMALL))
LLAMA = dict(model=dict(name="decoder", variant="debug", kv_heads=2, head_width=8, hidden=64, remat="split", **SMALL))
MIXTRAL = dict(model=LLAMA["model"] | dict(variant="debug-mixtral", experts=4, remat="full"))
BERT = dict(model=dict(name="bert", variant="debug", hidden=64, remat="split", **SMALL),
            objective=dict(name="masked_lm"), tokenizer=dict(name="characters", special=SPECIAL))
T5 = dict(model=dict(name="t5", variant="debug", decoder_depth=4, head_width=8, hidden=64, remat="dots", **SMALL),
          objective=dict(name="span_corruption"),
          tokenizer=dict(name="characters", special=("eod", "pad"), sentinels=8))
CASES = {
    "gpt: data": (GPT, dict(data=8), {}),
    "gpt: data, state split": (GPT, dict(data=8), dict(split_state=True)),
    "gpt: stage x fsdp": (GPT, dict(data=2, stage=2, fsdp=2), dict(accumulate=2)),
    "llama: context x fsdp": (LLAMA, dict(data=1, context=2, fsdp=4), {}),
    "llama: data x fsdp x tensor": (LLAMA, dict(data=2, fsdp=2, tensor=2), {}),
    "mixtral: expert x data": (MIXTRAL, dict(expert=4, data=2), {}),
    "bert: fsdp x tensor": (BERT, dict(data=1, fsdp=4, tensor=2), {}),
    "bert: replica x data": (BERT, dict(replica=2, data=4), dict(split_state=True)),
    "t5: data x tensor": (T5, dict(data=4, tensor=2), {}),
}
SLOW = ("llama: data x fsdp x tensor", "bert: replica x data", "t5: data x tensor", "gpt: stage x fsdp",
        "llama: context x fsdp", "bert: fsdp x tensor", "gpt: data", "mixtral: expert x data")


def config(parts, mesh, train):
  parts = dict(parts)
  tokenizer = parts.pop("tokenizer", dict(name="characters"))
  return dict(parts, data=dict(name="text_folder", path=TEXT, tokenizer=tokenizer, domains="one"), mesh=mesh,
              optimizer=dict(name="adamw", peak=1e-3), train=dict(steps=4, batch_size=16, length=64, **train),
              sample=dict(every=0))


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in CASES])
def test_what_is_planned_is_what_is_held(case):
  made = config(*CASES[case])
  found = plan.planned(made, topology.parse("local"))
  run = experiment.build(made)
  state, device = run.init_state(), jax.devices()[0]
  planned = found["memory"]["by_kind"]
  assert planned["parameters"] == pytest.approx(measured.held_bytes(state.params, device), rel=0.01)
  assert planned["optimizer"] == pytest.approx(measured.held_bytes(state.opt_state, device), rel=0.01)
  assert found["measured"]["by_kind"] == planned
  done = run.lowered().compile()
  xla = done.memory_analysis()
  held = xla.argument_size_in_bytes + xla.output_size_in_bytes - xla.alias_size_in_bytes + xla.temp_size_in_bytes
  assert found["memory"]["peak"] == pytest.approx(held, rel=0.1)
  alive, _ = buffers.largest(program.parse(done.as_text()))
  assert alive == pytest.approx(xla.temp_size_in_bytes, rel=0.3)  # the list of temporaries leaves nothing large out
  assert "measured here" in text.describe(found)
