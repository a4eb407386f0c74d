"""A look at the text that a model will see: rows of a batch as text, cut where one piece ends and another begins."""

from collections.abc import Iterator

import numpy as np

from llm_jax.core.row_parts import COMPLETION, PROMPT
from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus
from llm_jax.data.tokenizers import Tokenizer

PARTS = {PROMPT: "prompt", COMPLETION: "completion"}


def sample(corpus: Corpus, count: int, length: int = 128, step: int = 0) -> list[str]:
  """`count` training rows of `length` tokens as text, with a line before each piece: what it is and its tokens. A piece
  is a document, an example of a task, or the prompt or completion of one side of a preference."""
  if corpus.tokenizer is None:
    return [f"{name}: {what}" for name, what in corpus.train.fields.items()]
  batch = corpus.train.take(step, Plan(batch=count, length=length))
  return ["\n".join(_told(corpus.tokenizer, name, ids) for name, ids in _pieces(batch, row)) for row in range(count)]


def _pieces(batch: Batch, row: int) -> Iterator[tuple[str, np.ndarray]]:
  """Name and ids of each piece of a row."""
  for name, tokens in batch.items():
    if name.endswith("tokens"):
      segments = batch[name.removesuffix("tokens") + "segment_ids"][row]
      examples = zip(*(x.reshape(-1, x.shape[-1]) for x in (tokens[row], segments)))
      for number, (ids, cuts) in enumerate(examples, 1):
        for segment in sorted(set(cuts.tolist()) - {0}):
          what = f"document {segment}" if name == "tokens" else f"{name.removesuffix('.tokens')} {number}"
          yield what, ids[cuts == segment]
    elif f"{name}_parts" in batch:
      for part, what in PARTS.items():
        yield f"{name}, {what}", tokens[row][batch[f"{name}_parts"][row] == part]


def _told(tokenizer: Tokenizer, name: str, ids: np.ndarray) -> str:
  known = {"begins": tokenizer.begin_of_document, "ends": tokenizer.end_of_document}
  edges = " and ".join(edge for edge, i in known.items() if i is not None and i in ids)
  return f"--- {name}: {len(ids)} tokens{f', {edges} here' if edges else ''} ---\n{tokenizer.decode(ids)}"
