"""Preferences: rows of every form, the prompt taken out of both completions, bad rows named, batches as a function of
the step."""

import gzip
import json

import numpy as np
import pytest

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.data.corpus import DataContext
from llm_jax.data.preference_texts import Pair, UnfitRowError, judged_of, pair_of

PLAN = Plan(4, 48)
PAIRS = [dict(prompt=f"question {i}:", chosen=f" yes, {i}", rejected=f" no, not {i * 7}", margin=i / 10)
         for i in range(40)]


def build(folder, rows=None, **knobs):
  path = folder / "pairs.jsonl"
  if rows is not None:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    knobs = dict(path=str(path)) | knobs
  spec = dict(name="preferences", tokenizer=dict(name="bytes", special=("eod", "pad")), validation_fraction=0.2)
  return plugins.bind("data", spec | knobs, "config.data")(DataContext(0, folder / "cache"))


def read(corpus, batch, name):
  """[(prompt, completion)] of the rows that count."""
  text = lambda ids, parts, part: corpus.tokenizer.decode(ids[parts == part])
  return [(text(ids, parts, 1), text(ids, parts, 2))
          for ids, parts, weight in zip(batch[name], batch[f"{name}_parts"], batch["weights"]) if weight]


def test_every_pair_comes_once_with_its_own_prompt_and_margin(tmp_path):
  corpus = build(tmp_path, PAIRS)
  known = {(p["prompt"], p["chosen"], p["rejected"]): p["margin"] for p in PAIRS}
  held_out, seen = corpus.evals["validation"], []
  parts = [(held_out, held_out.batches(4, 48)), (corpus.train, corpus.train.total // 4)]
  for source, steps in parts:
    for step in range(steps):
      batch = source.take(step, PLAN)
      rows = zip(read(corpus, batch, "chosen"), read(corpus, batch, "rejected"), batch["margin"])
      for (prompt, chosen), (same, rejected), margin in rows:
        assert prompt == same
        np.testing.assert_allclose(margin, known[prompt, chosen, rejected], rtol=1e-6)
        seen.append(prompt)
  assert len(seen) == len(set(seen)) and len(seen) >= len(PAIRS) - 3  # an epoch need not be whole batches
  end = corpus.tokenizer.special["eod"]
  last = (batch["chosen_parts"] > 0).sum(1) - 1
  assert (np.take_along_axis(batch["chosen"], last[:, None], 1) == end).all()


def test_hosts_take_their_own_rows_and_a_batch_is_a_function_of_the_step(tmp_path):
  for form in ("pairs", "unpaired"):
    data = build(tmp_path, PAIRS, form=form).train
    whole, part = data.take(3, PLAN), data.take(3, PLAN, slice(1, 3))
    for name, array in part.items():
      np.testing.assert_array_equal(array, whole[name][1:3])
    assert any((data.take(0, PLAN)[n] != a).any() for n, a in data.take(1, PLAN).items())
    assert set(whole) == set(data.fields)


def test_a_long_row_keeps_the_end_of_its_prompt_and_the_start_of_its_completion(tmp_path):
  rows = [dict(prompt=f"{i:02d}" + "p" * 60 + "!", chosen="c" * 30, rejected="r" * (10 + i)) for i in range(40)]
  corpus = build(tmp_path, rows)
  chosen, rejected = (read(corpus, corpus.train.take(0, PLAN), n) for n in ("chosen", "rejected"))
  assert all(a[0] == b[0] and a[0].endswith("p!") and len(a[0]) >= 24 for a, b in zip(chosen, rejected))
  assert all(set(a[1]) == {"c"} and set(b[1]) == {"r"} for a, b in zip(chosen, rejected))


def test_a_pair_without_prompt_holds_it_in_both():
  talk = "\n\nHuman: hello\n\nAssistant: hi\n\nHuman: well?\n\nAssistant:"
  found = pair_of(dict(chosen=talk + " I think so.", rejected=talk + " I do not."))
  assert found == Pair(talk, " I think so.", " I do not.")
  assert pair_of(dict(chosen="one two three", rejected="one two tea"))[:3] == ("one two", " three", " tea")
  messages = [dict(role="user", content="hello"), dict(role="assistant", content="hi")]
  other = [messages[0], dict(role="assistant", content="ho")]
  want = Pair("user: hello\n\n", "assistant: hi\n\n", "assistant: ho\n\n")
  assert pair_of(dict(chosen=messages, rejected=other)) == want
  assert pair_of(dict(prompt=messages[:1], chosen=messages[1:], rejected=other[1:])) == want


@pytest.mark.parametrize("row, reason", [
    (dict(prompt="a", chosen="b"), "no 'rejected'"), (dict(prompt="a", chosen="b", rejected="b"), "the same"),
    (dict(prompt="a", chosen="b", rejected=" "), "rejected is empty"), (dict(chosen="b", rejected="c"), "in common"),
    (dict(prompt="a", chosen=3, rejected="c"), "chosen is 3, neither"),
    (dict(prompt="a", chosen=5, rejected=None), "'rejected' is null"),
    *((dict(prompt="a", chosen="b", rejected="c", margin=m), "margin is .*, no finite number")
      for m in ("much", float("nan"), float("inf"), 10 ** 400, 1e300, "nan", True, [1]))])
def test_a_row_that_says_no_preference_is_refused_with_the_reason(row, reason):
  with pytest.raises(UnfitRowError, match=reason):
    pair_of(row)


def test_bad_rows_are_named_by_file_and_line(tmp_path):
  rows = [*PAIRS, "not json", dict(PAIRS[0], rejected="\ud800")]
  with pytest.raises(DataError, match=r"pairs.jsonl:41"):
    build(tmp_path, rows, on_bad_data="fail")
  with pytest.raises(DataError, match="2 of 42 rows are bad"):
    build(tmp_path, rows)
  corpus = build(tmp_path, rows, max_bad_fraction=0.1)
  report = corpus.bad_report.read_text()
  assert "pairs.jsonl:41\tnot valid JSON" in report and "pairs.jsonl:42" in report
  assert corpus.train.total + corpus.evals["validation"].total == len(PAIRS)
  with pytest.raises(ConfigError, match=r"config\.data\.path"):
    build(tmp_path, path=str(tmp_path / "none"))


def test_a_row_without_margin_has_margin_zero_beside_others(tmp_path):
  rows = [{k: v for k, v in p.items() if k != "margin" or i % 3} for i, p in enumerate(PAIRS)]
  corpus = build(tmp_path, rows)
  known = {r["prompt"]: r.get("margin", 0) for r in rows}
  for step in range(corpus.train.total // 4):
    batch = corpus.train.take(step, PLAN)
    for (prompt, _), margin in zip(read(corpus, batch, "chosen"), batch["margin"]):
      np.testing.assert_allclose(margin, known[prompt], rtol=1e-6)


def test_labels_and_margins_may_be_written_as_text():
  judged = dict(prompt="a", completion="b")
  wanted = {label: judged_of(judged | dict(label=label))[0].wanted
            for label in ("1", "0", "True", "true", "TRUE", "False", "false", 1, 0)}
  assert [label for label, yes in wanted.items() if yes] == ["1", "True", "true", "TRUE", 1]
  for label in ("", "2", "yes", None, 2, float("nan"), [1]):
    with pytest.raises(UnfitRowError, match="neither true nor false"):
      judged_of(judged | dict(label=label))
  pair = dict(prompt="a", chosen="b", rejected="c")
  assert [pair_of(pair | dict(margin=m)).margin for m in ("1.5", 2, None, "")] == [1.5, 2, 0, 0]


def test_a_zipped_file_is_read_and_a_torn_one_is_named(tmp_path):
  whole = gzip.compress("\n".join(map(json.dumps, PAIRS)).encode(), mtime=0)
  path = tmp_path / "pairs.jsonl.gz"
  path.write_bytes(whole)
  corpus = build(tmp_path, path=str(path))
  assert corpus.train.total + corpus.evals["validation"].total == len(PAIRS)
  path.write_bytes(whole[:len(whole) // 2])
  with pytest.raises(DataError, match=r"pairs\.jsonl\.gz:\d+"):
    build(tmp_path, path=str(path), on_bad_data="fail")


def test_judged_completions_come_with_their_label_and_another_rows_completion(tmp_path):
  rows = [dict(prompt=f"q{i}", completion=f"good {i}" if i % 3 else f"bad {i}", label=bool(i % 3)) for i in range(40)]
  corpus = build(tmp_path, rows, form="unpaired")
  batch = corpus.train.take(0, PLAN)
  own, other = read(corpus, batch, "completion"), read(corpus, batch, "mismatched")
  for i, ((prompt, completion), (same, foreign), label) in enumerate(zip(own, other, batch["label"])):
    assert prompt == same and completion.startswith("good" if label else "bad")
    assert prompt[1:] == completion.split()[1] and foreign == own[(i + 1) % 4][1]
  with pytest.raises(UnfitRowError, match="label"):
    judged_of(dict(prompt="a", completion="b", label="good"))
  assert [one.wanted for one in judged_of(PAIRS[0])] == [True, False]


@pytest.mark.parametrize("damage", ["words", "letters", "elsewhere"])
def test_the_embedded_passages_prefer_the_true_continuation(tmp_path, damage, monkeypatch):
  monkeypatch.setattr("llm_jax.data.preference_sources.library", lambda domains: None)
  corpus = build(tmp_path, damage=damage, characters=64)
  batch = corpus.train.take(0, Plan(8, 96))
  for (prompt, chosen), (same, rejected) in zip(read(corpus, batch, "chosen"), read(corpus, batch, "rejected")):
    assert prompt == same and chosen != rejected
    assert (sorted(chosen) == sorted(rejected)) == (damage != "elsewhere")
    assert (sorted(chosen.split()) == sorted(rejected.split())) == (damage == "words")
