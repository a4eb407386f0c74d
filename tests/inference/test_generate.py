"""Laws of generation: caching, batching, padding, chunks, loops and meshes change no token; few programs compile."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.errors import ConfigError
from llm_jax.inference.generate import Generator, generate
from llm_jax.inference.sampling import Sampling
from llm_jax.models import gpt
from llm_jax.parallel import mesh, rules

V = 61
PROMPTS = [[1, 2, 3], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25], [5]]
VARIANTS = {"pre": {}, "post": dict(norms="post"), "band": dict(band=5)}
RANDOM = Sampling(temperature=1.3, top_k=20, top_p=0.95, min_p=0.01, repetition_penalty=1.2)


@functools.cache
def network(name="pre", positions=64):
  sizes = dict(variant="debug", width=32, depth=2, heads=4, positions=positions) | VARIANTS[name]
  model = gpt.build(V, positions, **sizes)
  params = jax.jit(model.init)(jax.random.key(1))
  return model, {n: a * 4 if n.startswith("blocks") and n.endswith("kernel") else a for n, a in params.items()}


@functools.cache
def generator(name="pre"):
  return Generator(*network(name))


@functools.cache
def full_forward(name):
  model, params = network(name)
  return jax.jit(lambda ids, mask: model.apply(params, input_ids=ids, attention_mask=mask).logits)


def by_full_forward(name, prompt, new):
  """Greedy tokens without any cache: the whole row through the model again for every token."""
  row, size = list(prompt), 32
  for _ in range(new):
    ids, mask = np.zeros((2, 1, size), np.int32)
    ids[0, :len(row)], mask[0, :len(row)] = row, 1
    row.append(int(full_forward(name)(ids, mask)[0, len(row) - 1].argmax()))
  return row[len(prompt):]


def tokens(results):
  return [row.tokens for row in results]


@pytest.mark.parametrize("name, unrolled", [("pre", True), ("post", True), ("band", False),
                                            pytest.param("band", True, marks=pytest.mark.slow)])
def test_cached_batched_generation_is_the_full_forward_pass_token_by_token(name, unrolled):
  g = generator(name) if unrolled else Generator(*network(name), unrolled=False)
  expected = [by_full_forward(name, tuple(p), 12) for p in PROMPTS]
  assert tokens(g.generate(PROMPTS, max_new_tokens=12)) == expected
  assert len({tuple(row) for row in expected}) == 3  # the network does not ignore its prompt


def test_a_prompt_alone_gives_what_it_gives_in_a_batch():
  g = generator()
  alone = [g.generate([p], max_new_tokens=10)[0].tokens for p in PROMPTS]
  assert tokens(g.generate(PROMPTS, max_new_tokens=10)) == alone
  first = g.generate([PROMPTS[0]], max_new_tokens=10, sampling=RANDOM)[0].tokens
  assert first == g.generate(PROMPTS, max_new_tokens=10, sampling=RANDOM)[0].tokens


@pytest.mark.parametrize("sampling", [Sampling(greedy=True), RANDOM])
def test_one_program_and_single_steps_give_the_same_tokens_and_logprobs(sampling):
  g, eos = generator(), (3, 40, 41)
  device, python = (g.generate(PROMPTS, max_new_tokens=14, sampling=sampling, eos_ids=eos, seed=5, loop=loop)
                    for loop in ("device", "python"))
  streamed = list(g.stream(PROMPTS, max_new_tokens=14, sampling=sampling, eos_ids=eos, seed=5))
  assert tokens(device) == tokens(python) == [[t for t in row if t is not None] for row in zip(*streamed)]
  assert [r.reason for r in device] == [r.reason for r in python]
  for a, b in zip(device, python):
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_logprobs_are_the_models_own():
  model, params = network()
  result = generator().generate([PROMPTS[1]], max_new_tokens=6, sampling=RANDOM)[0]
  ids = jnp.array([PROMPTS[1] + result.tokens])
  logprobs = jax.nn.log_softmax(model.apply(params, input_ids=ids).logits[0])
  at = len(PROMPTS[1]) - 1
  expected = [logprobs[at + i, t] for i, t in enumerate(result.tokens)]
  np.testing.assert_allclose(result.logprobs, expected, atol=1e-4)


def test_one_step_compiles_whatever_the_prompt_and_the_settings():
  g = Generator(*network())
  for prompt in ([1], [2] * 9, [3] * 30):
    for sampling in (Sampling(greedy=True), RANDOM, Sampling(temperature=0.5, top_p=0.5)):
      list(g.stream([prompt, [4]], max_new_tokens=4, sampling=sampling, eos_ids=(1, 2)))
      g.generate([prompt, [4]], max_new_tokens=5, sampling=sampling)
  assert g.programs.traces["step"] == g.programs.traces["all_steps"] == 1
  assert g.programs.step._cache_size() == g.programs.all_steps._cache_size() == 1
  assert g.programs.traces["read"] == 2  # chunks of 16 and 32 tokens


def test_prompts_longer_than_a_chunk_are_read_in_pieces(monkeypatch):
  monkeypatch.setattr("llm_jax.inference.prompts.CHUNK", 8)
  monkeypatch.setattr("llm_jax.inference.prompts.SHORTEST_CHUNK", 4)
  g = Generator(*network())
  assert tokens(g.generate(PROMPTS, max_new_tokens=12)) == [by_full_forward("pre", tuple(p), 12) for p in PROMPTS]
  assert g.programs.traces["read"] == 1  # one program for the three chunks


def test_ids_and_mask_are_as_good_as_lists():
  ids, mask = np.zeros((2, 3, 20), np.int32)
  for i, row in enumerate(PROMPTS):  # padding on the right
    ids[i, :len(row)], mask[i, :len(row)] = row, 1
  g = generator()
  assert tokens(g.generate((ids, mask), max_new_tokens=5)) == tokens(g.generate(PROMPTS, max_new_tokens=5))


def test_a_row_ends_with_its_eos_and_the_others_go_on():
  g = generator()
  free = tokens(g.generate(PROMPTS, max_new_tokens=12))
  eos = free[0][3]
  ended = g.generate(PROMPTS, max_new_tokens=12, eos_ids=(eos, V - 1))
  for before, after in zip(free, ended):
    cut = before[:before.index(eos) + 1] if eos in before else before
    assert after.tokens == cut and len(after.logprobs) == len(cut)
    assert after.reason == ("eos" if eos in before else "length")
  assert {row.reason for row in ended} == {"eos", "length"} or all(eos in row for row in free)


def test_seeds_reproduce_and_differ():
  g, draw = generator(), lambda seed: tokens(generator().generate([[1]] * 3, max_new_tokens=8, seed=seed,
                                                                   sampling=Sampling()))
  assert draw(1) == draw(1) != draw(2)
  assert len({tuple(row) for row in draw(1)}) == 3  # equal prompts of a batch are drawn independently
  assert tokens(g.generate([[1]], max_new_tokens=8, sampling=Sampling(top_k=1))) == \
      tokens(g.generate([[1]], max_new_tokens=8))


def test_the_repetition_penalty_sees_prompt_and_text():
  result = generator().generate([[1, 2, 3]], max_new_tokens=20,
                                sampling=Sampling(greedy=True, repetition_penalty=1e6))[0].tokens
  assert len(set(result)) == 20 and not set(result) & {1, 2, 3}


def test_stop_strings_end_a_row_and_leave_no_part_of_themselves():
  g, decode = generator(), lambda ids: "".join(f"{i:02d}" for i in ids)
  free = tokens(g.generate(PROMPTS, max_new_tokens=12))
  text = decode(free[1])
  stop = text[7:10]  # begins in the middle of a token, ends in another
  result = g.generate(PROMPTS, max_new_tokens=12, stop=[stop], decode=decode)[1]
  assert result.reason == "stop" and result.text == text[:text.index(stop)]
  assert result.tokens == free[1][:-(-(text.index(stop) + 3) // 2)]
  pieces = list(g.stream_text(PROMPTS[1], decode, max_new_tokens=12, stop=[stop]))
  assert "".join(pieces) == result.text
  assert "".join(g.stream_text(PROMPTS[1], decode, max_new_tokens=12)) == text


def test_sliding_goes_on_beyond_the_models_positions():
  model, params = network("pre", 16)
  g = Generator(model, params)
  draw = lambda seed: tokens(g.generate([[1, 2, 3], [4]], max_new_tokens=40, slide=True, sampling=RANDOM, seed=seed))
  greedy = tokens(g.generate([[1, 2, 3], [4]], max_new_tokens=40, slide=True))
  assert [len(row) for row in greedy] == [40, 40]
  row = [1, 2, 3] + greedy[0]
  again = g.generate([row[:16][-8:], [4]], max_new_tokens=8, loop="python")[0].tokens
  assert row[16:24] == again  # after 16 positions it goes on from the last 8 tokens
  assert draw(1) == draw(1) != draw(2)


def test_a_sliding_row_does_not_depend_on_its_neighbours():
  model, params = network("pre", 16)
  g = Generator(model, params)
  prompts = [[1, 2, 3], list(range(1, 13))]
  for settings in (dict(), dict(eos_ids=tuple(range(0, 20)))):
    together = g.generate(prompts, max_new_tokens=20, slide=True, **settings)
    alone = [g.generate([p], max_new_tokens=20, slide=True, **settings)[0] for p in prompts]
    assert tokens(together) == tokens(alone)


@pytest.mark.parametrize("axes", [dict(data=2, fsdp=2, tensor=2),
                                  pytest.param(dict(stage=2, context=2, expert=2), marks=pytest.mark.slow)])
def test_parameters_on_eight_devices_give_the_same_tokens(axes):
  model, params = network()
  on_mesh = rules.ShardingRules(mesh.make(axes))
  placed = jax.device_put(params, on_mesh.for_params(model.logical_axes, model.shapes))
  g = Generator(model, placed, rules=on_mesh)
  expected = tokens(generator().generate(PROMPTS, max_new_tokens=8))
  assert [list(row) for row in zip(*g.stream(PROMPTS, max_new_tokens=8))] == expected
  assert g.programs.step._cache_size() == 1


@pytest.mark.parametrize("call, key", [
    (dict(prompts=[[1], []], max_new_tokens=4), "prompt 1"),
    (dict(prompts=[], max_new_tokens=4), "prompt"),
    (dict(prompts=[[V]], max_new_tokens=4), "prompt"),
    (dict(prompts=[[1]], max_new_tokens=0), "max_new_tokens"),
    (dict(prompts=[[1] * 60], max_new_tokens=5), "max_new_tokens"),
    (dict(prompts=[[1]], max_new_tokens=4, sampling=Sampling(temperature=0.0)), "sampling.temperature"),
    (dict(prompts=[[1]], max_new_tokens=4, sampling=Sampling(top_p=1.5)), "sampling.top_p"),
    (dict(prompts=[[1]], max_new_tokens=4, stop=["a"]), "stop"),
    (dict(prompts=[[1]], max_new_tokens=4, seed=-1), "seed"),
    (dict(prompts=[[1]], max_new_tokens=4, seed=2**32), "seed"),
    (dict(prompts=[[1]], max_new_tokens=2**31), "max_new_tokens"),
])
def test_mistakes_are_named(call, key):
  with pytest.raises(ConfigError) as caught:
    generate(*network(), **call)
  assert caught.value.key == key
