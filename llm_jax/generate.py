"""Door: write text with a trained model, token by token as it comes.

    python -m llm_jax.generate --workdir=runs/quickstart --prompt="The "
    python -m llm_jax.generate --hf=gpt2_folder --prompt="The " --prompt="def " --temperature=0.8 --top_p=0.95
"""

import pathlib
import sys
from typing import Any

from absl import flags

from llm_jax import doors
from llm_jax.core.errors import ConfigError

SAMPLING = ("temperature", "top_k", "top_p", "min_p")  # beam search reads none of these; greedy it is by itself
TYPED = {"max_new_tokens": "--max_new_tokens", "prompt": "--prompt"}  # argument: its flag


def define(values: flags.FlagValues) -> None:
  """The flags of this door."""
  flags.DEFINE_string("workdir", None, "Folder of a run.", flag_values=values)
  flags.DEFINE_string("hf", None, "A Hugging Face folder, instead of a run.", flag_values=values)
  flags.DEFINE_integer("step", None, "Checkpoint; default the newest good one.", flag_values=values)
  flags.DEFINE_bool("ema", False, "The averaged weights.", flag_values=values)
  flags.DEFINE_multi_string("prompt", [""], "Text to go on from; may be given several times.", flag_values=values)
  flags.DEFINE_integer("max_new_tokens", 256, "Length of each continuation.", lower_bound=1, flag_values=values)
  flags.DEFINE_bool("greedy", False, "Always the most probable token.", flag_values=values)
  flags.DEFINE_float("temperature", 1.0, "Of sampling; 0 is greedy.", flag_values=values)
  flags.DEFINE_integer("top_k", 0, "Sample among so many most probable tokens.", flag_values=values)
  flags.DEFINE_float("top_p", 1.0, "Sample among the most probable tokens of this total mass.", flag_values=values)
  flags.DEFINE_float("min_p", 0.0, "Sample among tokens of at least this share of the most probable one.",
                     flag_values=values)
  flags.DEFINE_float("repetition_penalty", 1.0, "Above 1: tokens that were there become less probable.",
                     flag_values=values)
  flags.DEFINE_integer("beams", 1, "Above 1: beam search instead of sampling.", lower_bound=1, flag_values=values)
  flags.DEFINE_multi_string("stop", [], "End at this text; may be given several times.", flag_values=values)
  flags.DEFINE_integer("seed", 0, "Of sampling.", lower_bound=0, upper_bound=2**32 - 1, flag_values=values)


def main(values: Any, overrides: doors.Overrides) -> int:
  """Loads the model and prints each continuation."""
  if overrides:
    raise ConfigError(f"--config.{overrides[0][0]}", "this door takes no config", accepted="--workdir or --hf")
  check(values)
  from llm_jax import pretrained
  from llm_jax.inference.generate import Generator
  from llm_jax.inference.sampling import Sampling

  greedy = values.greedy or values.temperature == 0
  how = Sampling(greedy=greedy, temperature=values.temperature or 1.0, top_k=values.top_k, top_p=values.top_p,
                 min_p=values.min_p, repetition_penalty=values.repetition_penalty).check("--", "0 is --greedy")
  model, params, tokenizer = (pretrained.from_workdir(pathlib.Path(values.workdir), step=values.step, ema=values.ema)
                              if values.workdir else pretrained.from_hub(pathlib.Path(values.hf)))
  if values.beams > tokenizer.vocab_size:
    raise ConfigError("--beams", f"got {values.beams}, more than the {tokenizer.vocab_size} tokens of the vocabulary",
                      accepted=f"at most {tokenizer.vocab_size}")
  try:
    write(Generator(model, params, start=tokenizer.special.get("pad")), tokenizer, how, values)
  except ConfigError as e:  # of an argument in Python
    raise ConfigError(TYPED.get(e.key, e.key), e.problem, accepted=e.accepted, nearest=e.nearest) from None
  return 0


def check(values: Any) -> None:
  """What can be said before a model is loaded.

  Raises:
    ConfigError: not one model, a flag that would not be read, or a text that is none.
  """
  if (values.workdir is None) == (values.hf is None):
    raise ConfigError("--workdir", "give either --workdir or --hf", accepted="a run's folder, or a Hugging Face folder")
  if values.hf is not None and (unread := [n for n in ("step", "ema") if values[n].present]):
    raise ConfigError(f"--{unread[0]}", "a Hugging Face folder has no checkpoints", accepted="--workdir")
  greedy = values.greedy or values.temperature == 0
  sampled = [] if greedy else [n for n in SAMPLING if values[n].value != values[n].default]
  if values.beams > 1 and sampled:
    raise ConfigError(f"--{sampled[0]}", f"beam search (--beams={values.beams}) does not sample",
                      accepted="--repetition_penalty, --stop and --max_new_tokens, or --beams=1")
  if "" in values.stop:
    raise ConfigError("--stop", "got ''", accepted="a text that ends the continuation")
  for name, text in [("prompt", t) for t in values.prompt] + [("stop", t) for t in values.stop]:
    if text.encode("utf-8", "ignore").decode() != text:
      raise ConfigError(f"--{name}", f"{text!r} is not UTF-8", accepted="text in UTF-8")


def write(generator: Any, tokenizer: Any, how: Any, values: Any) -> None:
  """Prints each prompt and its continuation, or what a decoder makes of the prompt; a single prompt streams."""
  from llm_jax.inference.beam import beam_search
  from llm_jax.inference.samples import ends, prompt_ids, source_ids

  common = dict(max_new_tokens=values.max_new_tokens, eos_ids=ends(tokenizer))
  for number, prompt in enumerate(values.prompt):
    if len(values.prompt) > 1:
      print(f"--- {number + 1}")
    ids = (source_ids if generator.programs.encodes else prompt_ids)(tokenizer, prompt)
    shown = prompt + "\n" * generator.programs.encodes
    if values.beams > 1:
      best = beam_search(generator, [ids], beams=values.beams, repetition_penalty=how.repetition_penalty, **common)[0]
      text = tokenizer.decode(best.tokens)
      print(shown + text[:min((text.find(s) for s in values.stop if s in text), default=len(text))])
      continue
    print(shown, end="", flush=True)
    for piece in generator.stream_text(ids, tokenizer.decode, sampling=how, seed=values.seed, stop=values.stop,
                                       slide=True, **common):
      print(piece, end="", flush=True)
    print()
  sys.stdout.flush()


if __name__ == "__main__":
  doors.run(main, define)
