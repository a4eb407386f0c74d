"""Difficulty: who is admitted when, the same rows on every host and after every resume, scores that must fit."""

import dataclasses

import numpy as np
import pytest

from llm_jax import scoring
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Plan
from llm_jax.curriculum import competence, mixture, sequence_length
from llm_jax.curriculum.composed import compose
from llm_jax.data import difficulty

BATCH, LENGTH, STEPS = 8, 32, 60


def curriculum_of(**knobs):
  return competence.build(STEPS, BATCH, LENGTH,
                          **{"scorer": {"name": "rarity", "reduce": "mean"}, "until": 40, **knobs})


def equipped(corpus, curriculum, cache_dir, seed=0):
  return scoring.equip(corpus, curriculum, seed, cache_dir)


def rarity_ranks(source, domain, length=LENGTH):
  """{window: share of the domain's windows that are not rarer}, from the definition."""
  counts = np.zeros(512)
  for stream in source.streams:
    counts += np.bincount(stream.tokens, minlength=512)
  surprise = -np.log(np.maximum(counts, 1) / counts.sum())
  rows = source.window_rows(domain, np.arange(source.windows(length)[domain]), length)
  real = rows["segment_ids"] > 0
  score = (surprise[rows["tokens"]] * real).sum(1) / real.sum(1)
  return (score[None, :] <= score[:, None] + 1e-12).mean(1)


@pytest.mark.parametrize("packing", ["concat", "pad"])
def test_nothing_harder_than_the_competence_is_served(corpus, cache_dir, packing):
  curriculum = curriculum_of()
  source = equipped(corpus(packing=packing), curriculum, cache_dir).train
  ranks = {d: rarity_ranks(source, d) for d in source.domains}
  hardest = []
  for step in range(STEPS):
    plan = curriculum.plan(step, {})
    domain, window, start = source.examples(step, plan)
    served = np.array([ranks[source.domains[d]][w] for d, w in zip(domain, window)])
    least = np.array([ranks[source.domains[d]].min() for d in domain])
    assert (served <= np.maximum(plan.admit, least) + 1e-9).all()
    if packing == "concat" and plan.admit < 1:
      assert (start == window * LENGTH).all()  # the very tokens that were scored
    hardest.append(served.max())
  assert hardest[0] < 0.2 and max(hardest[45:]) > 0.95


def test_all_rows_of_equal_difficulty_come_in_together():
  ranks = difficulty.ranks_of(np.array([1.0, 1.0, 1.0, 2.0, 5.0]))
  assert ranks.tolist() == [0.6, 0.6, 0.6, 0.8, 1.0]


def test_full_competence_is_the_uniform_epoch(corpus, cache_dir):
  curriculum, plain = curriculum_of(until=2), corpus().train
  source = equipped(corpus(), curriculum, cache_dir).train
  for step in range(3, 20):
    served, expected = source.take(step, curriculum.plan(step, {})), plain.take(step, Plan(BATCH, LENGTH))
    assert (served["tokens"] == expected["tokens"]).all()


def test_hard_first_is_the_other_end_and_random_is_neither(corpus, cache_dir):
  means = {}
  for order in ("easy_first", "hard_first", "random"):
    curriculum = curriculum_of(order=order, c0=0.2)
    source = equipped(corpus(), curriculum, cache_dir).train
    ranks = {d: rarity_ranks(source, d) for d in source.domains}
    served = []
    for step in range(3):
      domain, window, _ = source.examples(step, curriculum.plan(step, {}))
      served += [ranks[source.domains[d]][w] for d, w in zip(domain, window)]
    means[order] = np.mean(served)
  assert means["easy_first"] < 0.35 < means["random"] < 0.75 < means["hard_first"]


def test_random_pacing_admits_as_many(corpus, cache_dir):
  sources = [equipped(corpus(), curriculum_of(order=o), cache_dir).train for o in ("easy_first", "random")]
  for step in range(0, 40, 5):
    plan = curriculum_of().plan(step, {})
    assert (sources[0]._admitted(plan) == sources[1]._admitted(plan)).all()


CURRICULA = {
    "competence": lambda: curriculum_of(),
    "length": lambda: sequence_length.build(STEPS, BATCH, LENGTH, start=8, until=30),
    "truncate": lambda: sequence_length.build(STEPS, BATCH, LENGTH, start=8, until=30, mode="truncate"),
    "mixture": lambda: mixture.build(STEPS, BATCH, LENGTH,
                                     stages=[(0, {"a": 1}), (20, {"a": 1, "b": 1}), (40, {"b": 1})]),
    "both": lambda: compose([sequence_length.build(STEPS, BATCH, LENGTH, start=8, until=30), curriculum_of()], BATCH,
                            LENGTH)}


@pytest.mark.parametrize("name", CURRICULA)
def test_one_two_and_four_hosts_see_the_same_rows_at_every_step(corpus, cache_dir, name):
  curriculum = CURRICULA[name]()
  whole = equipped(corpus(), curriculum, cache_dir).train
  again = equipped(corpus(), CURRICULA[name](), cache_dir).train  # another process that resumes anywhere
  for step in [0, 1, 5, 19, 20, 21, 29, 30, 31, 39, 40, 41, 59]:
    plan = curriculum.plan(step, curriculum.init())
    batch = whole.take(step, plan)
    assert batch["tokens"].shape == (plan.batch, plan.length)
    for hosts in (1, 2, 4):
      rows = plan.batch // hosts
      parts = [again.take(step, plan, slice(h * rows, (h + 1) * rows)) for h in range(hosts)]
      for field in batch:
        assert (np.concatenate([p[field] for p in parts]) == batch[field]).all()


def test_truncated_rows_are_the_heads_of_full_rows(corpus):
  source = corpus().train
  full, cut = source.take(3, Plan(4, 32)), source.take(3, Plan(4, 8, window=32))
  assert all((cut[name] == full[name][:, :8]).all() for name in full)


def test_rows_know_their_domain(corpus):
  source = corpus().train.serving(label_domains=True)
  batch = source.take(2, Plan(8, 16, mixture={"b": 1.0}))
  assert (batch["domain"] == source.domains.index("b")).all() and batch["domain"].dtype == np.int32


def test_scores_of_another_scorer_tokenizer_or_data_are_refused(corpus, cache_dir, tmp_path):
  made = corpus()
  spec = {"name": "length"}
  written = tmp_path / "scores"
  written.mkdir()
  score = scoring.scorer(made, made.train, spec, "--scorer")
  identity = difficulty.identity(made.train, made.tokenizer, spec)
  difficulty.write(written, made.train, score, identity, [LENGTH])
  equipped(made, curriculum_of(scorer=spec, scores=str(written)), cache_dir)
  with pytest.raises(DataError, match="another scorer"):
    equipped(made, curriculum_of(scores=str(written)), cache_dir)
  with pytest.raises(DataError, match="another data"):
    equipped(corpus(bos=False), curriculum_of(scorer=spec, scores=str(written)), cache_dir)
  with pytest.raises(DataError, match="another tokenizer"):
    difficulty.check(written, {**identity, "tokenizer": "x"}, [LENGTH])
  with pytest.raises(DataError, match="rows of 16"):
    difficulty.check(written, identity, [16])
  with pytest.raises(DataError, match=r"llm_jax\.score"):
    equipped(made, curriculum_of(scorer=spec, scores=str(tmp_path)), cache_dir)


def test_scorers_rank_as_they_say(corpus):
  made = corpus()
  def scores(texts, name, **knobs):
    ids = [made.tokenizer.encode(t) for t in texts]
    width = max(map(len, ids))
    tokens, segments = np.zeros((len(ids), width), np.int32), np.zeros((len(ids), width), np.int32)
    for row, i in enumerate(ids):
      tokens[row, :len(i)], segments[row, :len(i)] = i, 1
    rows = {"tokens": tokens, "segment_ids": segments, "weights": segments.astype(np.float32)}
    return scoring.scorer(made, made.train, {"name": name, **knobs}, "--scorer")(rows)
  easy = "the cat sat. the cat sat. the cat sat. the cat sat. the cat sat. the cat sat."
  hard = "Incontrovertible epistemological considerations necessitate qualitative heterogeneity throughout."
  for name in ("compression", "byte_entropy", "flesch", "lexical_diversity", "rarity", "length"):
    low, high = scores([easy, hard], name)
    assert low < high, name
  assert scores(["aaaa"], "byte_entropy")[0] == 0 and scores(["abab"], "byte_entropy")[0] == 1
  assert scores(["abc", "abcabc"], "length").tolist() == [3, 6]
  total, mean = scores([hard], "rarity", reduce="sum")[0], scores([hard], "rarity", reduce="mean")[0]
  assert total == pytest.approx(mean * len(hard))
  assert -scores(["The cat sat."], "flesch")[0] == pytest.approx(206.835 - 1.015 * 3 - 84.6)


def test_data_without_text_cannot_be_scored(corpus, cache_dir):
  no_text = dataclasses.replace(corpus(), tokenizer=None)
  with pytest.raises(ConfigError, match="text"):
    equipped(no_text, curriculum_of(), cache_dir)
