"""The losses of one device on every mesh: each axis alone, in pairs, in triples; with accumulation and remat on.

float32, 20 steps, eight devices. One case of three axes is fast; data, fsdp and tensor together are in
test_reproducible.py, experts in tests/layers/test_experts.py; the others are slow.
"""

import functools

import in_process
import numpy as np
import pytest

from llm_jax.parallel.mesh import AXES

STEPS = 20
PLAIN = dict(train=dict(accumulate=2, batch_size=16), ema=None)
GPT = dict(name="gpt", variant="debug", width=16, depth=4, heads=4, dropout=0.0, remat="dots")
LLAMA = dict(name="decoder", variant="debug", width=16, depth=4, heads=4, kv_heads=2, head_width=4, hidden=32,
             dropout=0.0, remat="split")
MIXTRAL = LLAMA | dict(variant="debug-mixtral", experts=4, remat="full")
BERT = dict(name="bert", variant="debug", width=16, depth=4, heads=4, hidden=32, dropout=0.0, remat="dots")
T5 = dict(name="t5", variant="debug", width=16, depth=4, decoder_depth=4, heads=4, head_width=4, hidden=32, dropout=0.0,
          remat="dots")
WITH_SENTINELS = dict(tokenizer=dict(name="characters", special=("eod", "pad"), sentinels=8))
WITH_MASK = dict(tokenizer=dict(name="characters", special=("eod", "pad", "cls", "sep", "mask")))
MODELS = {"gpt": dict(model=GPT), "llama": dict(model=LLAMA), "mixtral": dict(model=MIXTRAL),
          "bert": dict(model=BERT, objective=dict(name="masked_lm"), sample=dict(every=0), data=WITH_MASK),
          "t5": dict(model=T5, objective=dict(name="span_corruption"), sample=dict(every=0), data=WITH_SENTINELS)}

MESHES = {
    "replica": dict(data=1, replica=8),
    "data": dict(data=8),
    "fsdp": dict(data=1, fsdp=8),
    "stage": dict(data=1, stage=4),
    "context": dict(data=1, context=8),
    "expert": dict(data=1, expert=4),
    "tensor": dict(data=1, tensor=4),
    "data x fsdp x tensor": dict(data=2, fsdp=2, tensor=2),
    "stage x tensor": dict(data=1, stage=4, tensor=2),
    "context x fsdp": dict(data=1, context=2, fsdp=4),
    "expert x data": dict(expert=4, data=2),
    "replica x fsdp": dict(data=1, replica=2, fsdp=4),
    "stage x fsdp, 4 micro-batches": dict(data=1, stage=2, fsdp=2, microbatches=4),
    "stage in 2 rounds x data": dict(data=2, stage=2, rounds=2, microbatches=4),
    "stage x context": dict(data=1, stage=2, context=4),
    "context x tensor by heads": dict(data=1, context=2, tensor=2, context_attention="heads"),
    "stage x context x tensor": dict(data=1, stage=2, context=2, tensor=2),
    "replica x data x context": dict(data=2, replica=2, context=2),
    "stage x expert x fsdp": dict(data=1, stage=2, expert=2, fsdp=2),
}
FAST = {("gpt", "stage x context x tensor")}


def cases():
  return [pytest.param(model, mesh, id=f"{model}: {mesh}", marks=() if (model, mesh) in FAST else pytest.mark.slow)
          for model in MODELS for mesh in MESHES]


def build(monkeypatch, model, mesh=None, **changes):
  devices = int(np.prod([n for a, n in (mesh or {}).items() if a in AXES]))
  return in_process.build(monkeypatch, devices, **PLAIN, **MODELS[model], **changes, **dict(mesh=mesh) if mesh else {})


@functools.cache
def reference(model):
  """Losses on one device."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    return in_process.losses(build(monkeypatch, model), STEPS)


@pytest.mark.parametrize("model, mesh", cases())
def test_any_mesh_gives_the_losses_of_one_device(model, mesh, monkeypatch):
  run = build(monkeypatch, model, MESHES[mesh])
  np.testing.assert_allclose(in_process.losses(run, STEPS), reference(model), rtol=1e-5)
