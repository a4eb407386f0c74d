"""A model that is trained on prompts learns from the examples in the row: labels are drawn anew for every task, so that
nothing in its weights can say which class is which.
"""

import numpy as np
import pytest

from llm_jax import experiment, few_shot


@pytest.mark.slow
@pytest.mark.parametrize("channel", [False, True], ids=["direct", "channel"])
def test_examples_in_the_row_are_what_the_answer_comes_from(tmp_path, monkeypatch, channel):
  monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
  random = np.random.default_rng(0)
  for letter in "abcdefgh":
    folder = tmp_path / "texts" / letter
    folder.mkdir(parents=True)
    for i in range(40):
      (folder / f"{i:02d}.txt").write_text(letter * int(random.integers(2, 5)) + "xyz"[random.integers(3)])
  run = experiment.build(dict(
      model=dict(name="gpt", variant="debug", width=64, depth=2, heads=2), mesh=dict(data=-1),
      data=dict(name="labelled_episodes", form="in_context", channel=channel, labels="arbitrary", ways=2, shots=2,
                query=2, held_out=0, between="", after="", eval_tasks=64,
                text=dict(name="text_folder", path=str(tmp_path / "texts"), tokenizer=dict(name="bytes"),
                          split="documents", validation_fraction=0.2)),
      optimizer=dict(name="adam", peak=2e-3, warmup=50, decay="constant"),
      train=dict(steps=1200, batch_size=64, length=40), evaluation=dict(batch_size=64)))
  state = run.init_state()
  for step in range(run.train.steps):
    state, _ = run.compiled_step(state, run.batch(step), {})
  found = few_shot.report(run, state.params, state.frozen, 2)
  print({name: values["values"] for name, values in found.items()})
  accuracy = {shots: found[f"accuracy/in_context/{shots}"]["mean"] for shots in ("0_shots", "2_shots")}
  assert accuracy["2_shots"] > 0.85 and abs(accuracy["0_shots"] - 0.5) < 0.15, accuracy
