"""What a curriculum paces is looked for in data and objective before anything compiles, whatever rows they read."""

import in_process
import pytest

from llm_jax.core.errors import ConfigError

ENCODER = dict(variant="debug", width=16, heads=2, hidden=32, depth=1)
CASES = {
    "replaced_token": (dict(name="electra", embed_width=8, **ENCODER), dict(name="replaced_token")),
    "bert_pretraining": (dict(name="bert", head="pretraining", **ENCODER), dict(name="bert_pretraining")),
}


def build(monkeypatch, case: str, knob: str):
  model, objective = CASES[case]
  made = in_process.config(train=dict(accumulate=1), data=dict(tokenizer=dict(name="bytes")), sample=None,
                           early_stopping=None) | dict(model=model, objective=objective)
  made["curriculum"] = dict(name="knobs", knobs={knob: dict(start=0.15, end=0.3)})
  return in_process.build_from(monkeypatch, {n: s for n, s in made.items() if s is not None})


@pytest.mark.parametrize("case", CASES)
def test_the_ratio_can_be_paced_where_rows_are_indexed_and_where_a_row_needs_another(case, monkeypatch):
  """Rows that are indexed by what the step draws; a row whose second half may be that of the next."""
  run = build(monkeypatch, case, "mask_ratio")
  assert run.curriculum.plan(0, run.curriculum.init()).knobs == {"mask_ratio": 0.15}
  with pytest.raises(ConfigError, match=r"config\.curriculum\.knobs\.mask_ration: .*\n.*mask_ratio"):
    build(monkeypatch, case, "mask_ration")
