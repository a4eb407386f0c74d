"""Pools of generated examples: ids, their structure as difficulty, and the score door over them."""

import pickle

import numpy as np
import pytest

from llm_jax import doors, experiment, score, scoring
from llm_jax.core.config import load_file
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.curriculum import competence
from llm_jax.data import linear_functions, parity
from llm_jax.data.corpus import DataContext

COUNT, BATCH, STEPS = 60, 8, 40
PARITY = "configs/curriculum_parity.py:structure"


@pytest.fixture(params=["parity", "linear"])
def corpus(request, tmp_path):
  context = DataContext(3, tmp_path)
  if request.param == "parity":
    return parity.build(context, dimensions=20, k=3, p=0.1, pool=COUNT)
  return linear_functions.build(context, dimensions=6, noise=0.1, pool=COUNT)


def structure_of(source, length):
  """(COUNT,) from the definition: signs that are -1; coordinates that some point of the prompt has."""
  x = source.window_rows("pool", np.arange(COUNT), length)["inputs"]
  return np.array([(row < 0).sum() if row.ndim == 1 else sum(bool(np.abs(row[:, d]).sum()) for d in range(6))
                   for row in x])


def by_structure(**knobs):
  return competence.build(STEPS, BATCH, 5, scorer={"name": "structure"}, **{"until": 20, "pacing": "linear", **knobs})


def test_an_epoch_serves_every_id_once_in_an_order_of_its_own(corpus):
  plan = Plan(6, 5)
  ids = [np.concatenate([corpus.train.ids(step, plan) for step in range(e * 10, e * 10 + 10)]) for e in (0, 1)]
  assert sorted(ids[0]) == sorted(ids[1]) == list(range(COUNT)) and (ids[0] != ids[1]).any()


def test_an_example_is_a_function_of_its_id_alone(corpus):
  source = corpus.train
  whole = source.window_rows("pool", np.arange(COUNT), 5)
  again = pickle.loads(pickle.dumps(source))  # noqa: S301, our own bytes
  some = again.window_rows("pool", np.array([41, 7]), 5)
  assert all((some[name] == a[[41, 7]]).all() for name, a in whole.items())
  batch, ids = source.take(9, Plan(BATCH, 5)), source.ids(9, Plan(BATCH, 5))
  assert all((batch[name] == whole[name][ids]).all() for name in batch)
  parts = [source.take(9, Plan(BATCH, 5), slice(i, i + 2)) for i in range(0, BATCH, 2)]
  assert all((np.concatenate([p[name] for p in parts]) == batch[name]).all() for name in batch)
  short = source.take(9, Plan(BATCH, 3))
  assert all((short[n] == (a[:, :3] if a.ndim > 1 and a.shape[1] == 5 else a)).all() for n, a in batch.items())


def test_nothing_of_more_structure_than_the_competence_is_served(corpus, tmp_path):
  curriculum = by_structure()
  source = scoring.equip(corpus, curriculum, 0, tmp_path).train
  structure = structure_of(source, 5)
  share = np.array([(structure <= s).mean() for s in structure])
  assert len(set(structure)) > 3
  served = []
  for step in range(STEPS):
    plan = curriculum.plan(step, {})
    found = share[source.ids(step, plan)]
    assert (found <= max(plan.admit, share.min()) + 1e-9).all()
    served.append(found.max())
  assert served[0] < 0.5 and max(served[25:]) == 1.0
  plain = [corpus.train.ids(step, Plan(BATCH, 5)) for step in range(20, STEPS)]
  assert (np.array(plain) == [source.ids(step, curriculum.plan(step, {})) for step in range(20, STEPS)]).all()
  random = scoring.equip(corpus, by_structure(order="random"), 0, tmp_path).train
  assert np.mean([share[random.ids(step, curriculum.plan(step, {}))].mean() for step in range(6)]) > np.mean(
      [share[source.ids(step, curriculum.plan(step, {}))].mean() for step in range(6)]) + 0.1


def test_points_and_dimensions_can_still_be_paced(tmp_path):
  source = linear_functions.build(DataContext(0, tmp_path), dimensions=6, pool=COUNT).train
  easy = source.take(2, Plan(BATCH, 5, knobs={"n_dims": 2.0, "n_points": 3.0}))
  assert linear_functions.active_dimensions(easy).max() == 2 and (easy["weights"].sum(1) == 3).all()
  w, x = np.linalg.lstsq(easy["inputs"][0, :, :2], easy["targets"][0], rcond=None)[0], easy["inputs"][0, :, :2]
  np.testing.assert_allclose(x @ w, easy["targets"][0], atol=1e-5)  # without noise it is linear


def test_what_has_no_ids_or_no_structure_is_refused(corpus, tmp_path):
  fresh = parity.build(DataContext(0, tmp_path))
  with pytest.raises(ConfigError, match=r"config\.data\.pool"):
    scoring.equip(fresh, by_structure(), 0, tmp_path)
  for name in ("rarity", "length", "column", "flesch", "compression", "byte_entropy", "lexical_diversity"):
    with pytest.raises(ConfigError, match="reads text"):
      scoring.scorer(corpus, corpus.train, {"name": name}, "--scorer")
  with pytest.raises(ConfigError, match="no text"):
    scoring.scorer(corpus, corpus.train, {"name": "perplexity", "checkpoint": str(tmp_path)}, "--scorer")
  with pytest.raises(DataError, match="smaller than one batch"):
    corpus.train.take(0, Plan(COUNT + 1, 5))
  with pytest.raises(ConfigError, match="number of examples"):
    parity.build(DataContext(0, tmp_path), pool=-1)


def door(capsys, *arguments):
  """(exit code, stdout, stderr) of the score door."""
  with pytest.raises(SystemExit) as e:
    doors.run(score.main, score.define, ["score", *map(str, arguments)])
  return (e.value.code, *capsys.readouterr())


def test_the_score_door_writes_scores_that_a_run_takes(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
  folder, small = tmp_path / "scores", ["--config.data.pool=300", "--config.train.batch_size=16"]
  code, out, _ = door(capsys, f"--config={PARITY}", *small, "--scorer=structure", f"--out={folder}")
  assert code == 0 and "pool: 300 rows" in out
  config = load_file(PARITY)
  config["data"]["pool"], config["train"]["batch_size"], config["curriculum"]["scores"] = 300, 16, str(folder)
  run = experiment.build(config)
  rows = run.corpus.train.take(0, run.curriculum.plan(0, {}))
  assert rows["inputs"].shape == (16, 100) and parity.minus_signs(rows).max() <= 3  # c0 admits 2 %, of 30 % sparse rows
  config["data"]["pool"] = 301
  with pytest.raises(DataError, match="another data"):
    experiment.build(config)


@pytest.mark.parametrize("flags, said", [
    (["--length=0"], "--length: got 0"), (["--length=900000"], "no row of 900000 tokens"),
    (["--scorer=compression", "--scorer_knobs={'level': 77}"], "level: got 77"),
    (["--scorer=lexical_diversity", "--scorer_knobs={'threshold': 1.0}"], "threshold: got 1"),
    (["--scorer=perplexity", "--scorer_knobs={'chekpoint': 'x'}"], "did you mean: --scorer_knobs.checkpoint"),
    (["--scorer=column"], "--scorer: the documents of text come with no difficulty")])
def test_the_score_door_refuses_what_cannot_be(tmp_path, monkeypatch, capsys, flags, said):
  monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
  code, _, err = door(capsys, "--config=configs/curriculum_rarity.py:debug", "--scorer=length", *flags,
                      f"--out={tmp_path / 'scores'}")
  assert code == 2 and said in err, err


@pytest.mark.parametrize("config, said", [
    ("configs/curriculum_parity.py", "drawn afresh"), ("configs/maml_sinusoid.py", "drawn afresh"),
    ("configs/curriculum_rarity.py:debug", "family of generated examples")])
def test_the_score_door_says_what_cannot_be_scored_by_structure(tmp_path, monkeypatch, capsys, config, said):
  monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
  code, _, err = door(capsys, f"--config={config}", "--scorer=structure", f"--out={tmp_path / 'scores'}")
  assert code == 2 and said in err and "accepted" in err
