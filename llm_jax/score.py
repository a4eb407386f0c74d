"""Door: score every training row by difficulty, once, for curricula that admit rows by it.

    python -m llm_jax.score --config=configs/curriculum_rarity.py --scorer=rarity --out=runs/scores
    python -m llm_jax.score --config=... --scorer=perplexity --scorer_knobs='{"checkpoint": "runs/small"}' --out=...
    python -m llm_jax.train --config=... --config.curriculum.scores=runs/scores

The folder holds, for each length and domain, one score per row and the rows from easy to hard; scores.json says which
scorer, tokenizer and data they are of, and a run with other ones refuses them.
"""

import os
import pathlib
from typing import Any

from absl import flags

from llm_jax import doors
from llm_jax.core.errors import ConfigError


def define(values: flags.FlagValues) -> None:
  """The flags of this door."""
  flags.DEFINE_string("config", None, "FILE.py or FILE.py:argument; then --config.key=value.", flag_values=values)
  flags.DEFINE_string("scorer", None, "Plug-in of data/scorers, e.g. rarity.", flag_values=values)
  flags.DEFINE_string("scorer_knobs", "{}", "The scorer's knobs as a Python or JSON dict.", flag_values=values)
  flags.DEFINE_string("out", None, "Folder to write; must not exist yet.", flag_values=values)
  flags.DEFINE_multi_integer("length", [], "Tokens per row; default: every length of the config's curriculum.",
                             flag_values=values)


def main(values: Any, overrides: doors.Overrides) -> int:
  """Reads the config's data and writes their scores."""
  from llm_jax import experiment, scoring
  from llm_jax.core import cache, plugins
  from llm_jax.core.config import parse_value, plain, resolve
  from llm_jax.data import difficulty, scorers, sealed_folder
  from llm_jax.data.corpus import DataContext
  from llm_jax.training import given_paths, settings

  knobs = parse_value(values.scorer_knobs)
  if not isinstance(knobs, dict):
    raise ConfigError("--scorer_knobs", f"got {values.scorer_knobs!r}", accepted="""a dict, e.g. '{"reduce": "sum"}'""")
  spec = {"name": values.scorer, **knobs}
  spec = {"name": values.scorer, **scorer_knobs(spec)}
  if values.out is None:
    raise ConfigError("--out", "required but not given", accepted="a folder to write")
  folder = pathlib.Path(values.out)
  if os.path.lexists(folder):
    raise ConfigError("--out", f"{values.out!r} exists", accepted="a folder that is not there yet")
  given_paths.check_folder(folder, "--out")
  config = doors.read_config(values.config, None, overrides, experiment.SCHEMA)
  resolved = resolve(plain(config), experiment.SCHEMA)
  train = settings.train(**resolved["train"])
  corpus = plugins.bind("data", resolved["data"], "config.data")(DataContext(train.seed, cache.folder("data")))
  source = scoring.rankable(corpus, "config.data")
  for length in values.length:
    if length < 1:
      raise ConfigError("--length", f"got {length}", accepted="a number of tokens from 1")
    if not sum(source.windows(length).values()):
      raise ConfigError("--length", f"the training data have no row of {length} tokens", accepted="shorter rows")
  lengths = values.length or scoring.lengths_of(experiment.make_curriculum(resolved["curriculum"], train))
  score = scoring.scorer(corpus, source, spec, "--scorer")
  made_from = difficulty.identity(source, corpus.tokenizer, spec)
  sealed_folder.open_or_build(folder, lambda f: difficulty.write(f, source, score, made_from, lengths))
  for table in difficulty.read_index(folder)["tables"]:
    shown = ", ".join(f"{q:.4g}" for q in table["quantiles"])
    print(f"{table['domain']}: {table['windows']:,} rows of {table['length']} tokens; least, quartiles, most: {shown}")
  print(f"{folder} (scorers: {', '.join(plugins.available(scorers.ROOM))})")
  return 0


def scorer_knobs(spec: dict[str, Any]) -> dict[str, Any]:
  """Every knob of the scorer written out, as a resolved config has them, so that both name the same scores.

  Raises:
    ConfigError: an unknown scorer or knob.
  """
  from llm_jax.core import plugins
  from llm_jax.core.config import Section, resolve
  from llm_jax.data import scorers

  if spec["name"] is None:
    raise ConfigError("--scorer", "required but not given", accepted=", ".join(plugins.available(scorers.ROOM)))
  plugins.find(scorers.ROOM, spec["name"], "--scorer")
  try:
    resolved = resolve({"scorer": spec}, {"scorer": Section("difficulty of a row", room=scorers.ROOM)})["scorer"]
  except ConfigError as e:
    here = lambda key: key and key.replace("config.scorer", "--scorer_knobs", 1)
    raise ConfigError(here(e.key), e.problem, accepted=e.accepted, nearest=here(e.nearest)) from None
  return {name: value for name, value in resolved.items() if name != "name"}


if __name__ == "__main__":
  doors.run(main, define)
