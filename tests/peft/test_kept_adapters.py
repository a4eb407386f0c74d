"""Runs of methods that cannot be merged: a step trains the new arrays alone, the run is read as the adapted model."""

import json
import pathlib

import jax
import numpy as np
import pytest

from llm_jax import convert, experiment, hub, pretrained
from llm_jax.core.errors import ConfigError
from llm_jax.training.checkpoint import Checkpoints

TEXT = pathlib.Path(convert.__file__).parent / "data/fallback/king_james_bible.txt"
CONFIG = dict(
    model=dict(name="gpt", variant="debug", width=16, depth=2, heads=2),
    data=dict(name="text_folder", path=str(TEXT), tokenizer=dict(name="bytes"), domains="one"),
    optimizer=dict(name="adamw", peak=0.1, warmup=0, weight_decay=0.0),
    train=dict(steps=2, batch_size=8, length=16))


PEFT = [dict(name="prompt_tuning", tokens=3), *(pytest.param(spec, marks=pytest.mark.slow) for spec in (
    dict(name="bottleneck", kind="houlsby", size=3), dict(name="p_tuning", tokens=3, hidden=6),
    dict(name="prefix_tuning", tokens=3, hidden=6)))]


@pytest.mark.parametrize("peft", PEFT, ids=lambda peft: peft["name"])
def test_a_step_trains_the_new_arrays_and_the_run_keeps_its_adapter(tmp_path, peft):
  run = experiment.build(CONFIG | dict(peft=peft))
  state = run.init_state()
  before = jax.device_get((state.params, state.frozen))
  assert set(state.frozen) == set(run.base.shapes) and state.params.keys() == run.model.shapes.keys() - run.base.shapes
  state, _ = run.compiled_step(state, run.batch(0), {})
  jax.tree.map(np.testing.assert_array_equal, before[1], jax.device_get(state.frozen))
  moved = [n for n, p in state.params.items() if not np.array_equal(p, before[0][n])]
  assert moved

  (tmp_path / "config.json").write_text(json.dumps(run.config))
  run.corpus.tokenizer.save(tmp_path / "tokenizer")
  with Checkpoints(tmp_path / "checkpoints", asynchronous=False) as checkpoints:
    checkpoints.save(1, state, {})
  model, params, _ = pretrained.from_workdir(tmp_path)
  ids = np.array([[70, 71, 72]], np.int32)
  logits = lambda model, params: jax.jit(lambda params: model.apply(params, input_ids=ids).logits)(params)
  want = logits(run.model, {**state.params, **state.frozen})
  np.testing.assert_allclose(logits(model, params), want, rtol=1e-5, atol=1e-5)
  with pytest.raises(ConfigError, match="has an adapter"):
    hub.save(tmp_path / "whole", *convert.read(tmp_path, None, False))
