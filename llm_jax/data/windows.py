"""Windows over token streams: batch = f(seed, step, plan), for training and for one exact pass of evaluation.

Example g of the run is `step * plan.batch + row`, whatever the host, the worker or the number of either. The mixture
says which domain example g comes from and the how-manieth of that domain it is; a keyed permutation per epoch says
which window that is. So under a constant plan every window is served exactly once per epoch and a resume needs only the
step. A plan that changes batch or length is served as if it had always held: within the stage nothing repeats early.
"""

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from llm_jax.core.errors import ConfigError, DataError
from llm_jax.core.types import Batch, Plan
from llm_jax.data import packing as packings
from llm_jax.data.admission import Order, admitted
from llm_jax.data.continued import CONTINUES, fill, too_little
from llm_jax.data.fingerprint import digest
from llm_jax.data.mixture import Mixture
from llm_jax.data.packing import Packing, Table
from llm_jax.data.permutation import in_laps, offset, permute
from llm_jax.data.rows import FIELDS, concat_rows, empty_rows, packed_rows, whence
from llm_jax.data.token_store import Stream

MOST_HEADS = 1 << 16  # first tokens of documents whose bytes are counted, of a stream

class TrainSource:
  """A DataSource over the training streams. Pickles small: streams are paths, tables are made again where needed."""

  fields: Mapping[str, str] = FIELDS

  def __init__(self, streams: Sequence[Stream], *, fingerprint: str, seed: int, packing: Packing = "concat",
               document_boundaries: bool = True, mixture: Mapping[str, float] | None = None, pad: int = 0,
               order: Order | None = None, what: str = ""):
    """streams: one per domain. mixture: weight of each domain, None for every window alike (in proportion to size).
    pad: id written where segment_ids is 0. order: windows by difficulty, for plans that admit only a part.
    fingerprint: of the streams. what: these data are, for messages.

    Raises:
      ConfigError: mixture weights that do not fit, or boundaries off with a packing that needs them.
    """
    if not document_boundaries and packing != "concat":
      raise ConfigError("config.data.document_boundaries", f"cannot be False with packing={packing!r}",
                        accepted="True, or packing='concat'")
    self.streams, self.domains = tuple(streams), tuple(s.domain for s in streams)
    self.seed, self.packing, self.boundaries, self.pad, self.order = seed, packing, document_boundaries, pad, order
    self.what = what
    self.mixture = dict(mixture) if mixture is not None else None
    if self.mixture is not None:
      Mixture.of(self.mixture, self.domains)
    self.fingerprint = digest(fingerprint, packing, document_boundaries, self.mixture)
    self.content = digest(fingerprint, packing, document_boundaries)  # what the windows hold, whatever the mixture
    self.label_domains = False
    self._tables: dict[tuple[int, int], Table] = {}

  def serving(self, *, order: Order | None = None, label_domains: bool = False) -> "TrainSource":
    """A source of the same windows that can admit by difficulty, and that says which domain each row is from: the
    field 'domain', (B,) int32, the place of its name in `domains`."""
    other = copy.copy(self)
    other.order, other.label_domains = order or self.order, label_domains or self.label_domains
    return other

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`; the fields are those of `FIELDS`.

    Raises:
      DataError: fewer windows of this length than rows in a batch, or none in a domain that has weight.
      ConfigError: the plan names an unknown domain or admits a part of the data that has no order.
    """
    domain, window, start = self.examples(step, plan, rows)
    length = plan.window or plan.length
    batch = empty_rows(len(domain), length, self.pad)
    for d in _present(domain):
      mine = np.flatnonzero(domain == d)
      self._fill(batch, mine, d, window[mine], start[mine], length)
    if length != plan.length:
      batch = {name: a[:, :plan.length] for name, a in batch.items()}
    return batch | {"domain": domain.astype(np.int32)} if self.label_domains else batch

  def window_rows(self, domain: str, windows: np.ndarray, length: int) -> Batch:
    """The rows of these windows of a domain as they lie in the stream, for scoring; fields as in `FIELDS`, and those of
    rows.WHENCE."""
    d = self.domains.index(domain)
    batch = empty_rows(len(windows), length, self.pad)
    self._fill(batch, np.arange(len(windows)), d, windows, windows * length, length)
    table = None if self.packing == "concat" else self._table(d, length)
    return batch | whence(d, self.streams[d], windows, length, table)

  def _fill(self, batch: Batch, rows: np.ndarray, d: int, windows: np.ndarray, starts: np.ndarray, length: int) -> None:
    if self.packing == "concat":
      concat_rows(batch, rows, self.streams[d], starts, boundaries=self.boundaries, wrap=True, pad=self.pad)
    else:
      packed_rows(batch, rows, self.streams[d], self._table(d, length), windows)

  def examples(self, step: int, plan: Plan, rows: slice | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the rows are: (domain number, window number, first token in the stream), (R,) int64 each.

    With `concat` the windows of an epoch start at an offset of that epoch and wrap around, so that their borders fall
    elsewhere every time; the first token is given for `concat` only, else 0. While only a part is admitted the windows
    start where they were scored.
    """
    example = step * plan.batch + np.arange(plan.batch, dtype=np.int64)[rows or slice(None)]
    plan = plan if plan.window is None else dataclasses.replace(plan, length=plan.window)
    counts = self._admitted(plan)
    mixture = plan.mixture if plan.mixture is not None else self.mixture
    if mixture is None:
      domain, place, lap = self._evenly(example, counts, plan.length)
    else:
      domain, place, lap = self._by_weight(example, counts, mixture, plan)
    start = np.zeros_like(place)
    for d, epoch in sorted(set(zip(domain.tolist(), lap.tolist()))):
      mine = (domain == d) & (lap == epoch)
      shift = 0
      if self.order is not None and plan.admit < 1:
        place[mine] = self.order(self.domains[d], plan.length)[0][place[mine]]
      elif self.packing == "concat":
        shift = offset(plan.length, f"{self.seed}/shift/{self.domains[d]}/{plan.length}/{epoch}")
      if self.packing == "concat":
        start[mine] = (place[mine] * plan.length + shift) % self.streams[d].size
    return domain, place, start

  def windows(self, length: int) -> dict[str, int]:
    """{domain: windows in an epoch} for rows of `length` tokens."""
    return {s.domain: s.size // length if self.packing == "concat" else self._table(d, length).count
            for d, s in enumerate(self.streams)}

  def _admitted(self, plan: Plan) -> np.ndarray:
    """(domains,) windows that the plan lets in."""
    counts = np.array(list(self.windows(plan.length).values()), np.int64)
    if counts.sum() < plan.batch:
      raise too_little(self.what, int(counts.sum()), plan)
    return np.array([admitted(self.order, name, plan.length, int(count), plan.admit)
                     for name, count in zip(self.domains, counts, strict=True)])

  def _evenly(self, example: np.ndarray, counts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every admitted window of every domain once per epoch: (domain, window, epoch) of each example."""
    ends = np.cumsum(counts)
    place, lap = in_laps(example, int(ends[-1]), f"{self.seed}/all/{length}")
    domain = np.searchsorted(ends, place, side="right")
    return domain, place - (ends - counts)[domain], lap

  def _by_weight(self, example: np.ndarray, counts: np.ndarray, weights: Mapping[str, float],
                 plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Domains by weight, every window of a domain once per epoch of that domain."""
    domain, index = Mixture.of(weights, self.domains, "plan.mixture" if plan.mixture is not None else
                               "config.data.mixture").locate(example)
    # Weights that drift could hold a domain's index still and serve the same windows again: they get their own order.
    salt = digest(dict(weights)) if plan.mixture is not None else ""
    lap, place = np.zeros_like(index), np.zeros_like(index)
    for d in _present(domain):
      if not counts[d]:
        raise DataError(f"domain {self.domains[d]!r} has weight but no window of {plan.length} tokens")
      mine = np.flatnonzero(domain == d)
      key = f"{self.seed}/{self.domains[d]}/{plan.length}/{salt}"
      place[mine], lap[mine] = in_laps(index[mine], int(counts[d]), key)
    return domain, place, lap

  def _table(self, d: int, length: int) -> Table:
    if (d, length) not in self._tables:
      self._tables[d, length] = packings.table(self.packing, self.streams[d].offsets, length)
    return self._tables[d, length]

  def __getstate__(self) -> dict:
    return self.__dict__ | {"_tables": {}}


class EvaluationSource:
  """A DataSource whose steps 0 .. batches - 1 are one pass: every target of every stream exactly once.

  Windows are always `concat`, so that losses compare whatever the training's packing is; their order is mixed by a
  fixed key, so that the first few batches are a fair sample of all domains. The last batch is filled up with rows of
  weight 0.
  """

  def __init__(self, streams: Sequence[Stream], *, fingerprint: str, token_bytes: np.ndarray,
               document_boundaries: bool = True, pad: int = 0, continued: bool = False):
    """token_bytes: (V,) UTF-8 bytes of each id, as in Tokenizer. continued: rows go on where those of the batch before
    ended (continued.py), instead of the windows in mixed order."""
    self.streams, self.boundaries, self.pad, self.continued = tuple(streams), document_boundaries, pad, continued
    self.fields = FIELDS | CONTINUES if continued else FIELDS
    self._token_bytes = token_bytes
    self.fingerprint = digest(fingerprint, [s.domain for s in streams], document_boundaries)

  def windows(self, length: int) -> int:
    """Windows of `length` tokens in a pass."""
    return int(self._counts(length).sum())

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass."""
    return -(-self.windows(length) // batch)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of batch `step` of the pass.

    Raises:
      IndexError: `step` is past the end of the pass.
    """
    if step >= self.batches(plan.batch, plan.length):
      raise IndexError(f"batch {step} of a pass of {self.batches(plan.batch, plan.length)}")
    if self.continued:
      steps = self.batches(plan.batch, plan.length)
      window = np.arange(plan.batch, dtype=np.int64)[rows or slice(None)] * steps + step
      return fill(self.streams, self._counts(plan.length), window, step, plan.length, boundaries=self.boundaries,
                  wrap=False, pad=self.pad)
    index = step * plan.batch + np.arange(plan.batch, dtype=np.int64)[rows or slice(None)]
    ends = np.cumsum(self._counts(plan.length))
    batch = empty_rows(len(index), plan.length, self.pad)
    real = np.flatnonzero(index < ends[-1])
    window = permute(index[real], int(ends[-1]), f"evaluation/{plan.length}")
    domain = np.searchsorted(ends, window, side="right")
    for d in _present(domain):
      mine = domain == d
      first = ends[d - 1] if d else 0
      starts = (window[mine] - first) * plan.length
      concat_rows(batch, real[mine], self.streams[d], starts, boundaries=self.boundaries, wrap=False, pad=self.pad)
    return batch

  def target_bytes(self, batch: Batch) -> int:
    """UTF-8 bytes of the text that a batch's targets of weight 1 stand for."""
    return int((self._token_bytes[batch["targets"]] * (batch["weights"] > 0)).sum())

  @functools.cached_property
  def bytes_per_token(self) -> float:
    """UTF-8 bytes per target over a whole pass: bits per byte = mean nats per target / (bytes_per_token * ln 2)."""
    return bytes_per_target(self.streams, self._token_bytes, self.boundaries)

  def _counts(self, length: int) -> np.ndarray:
    return np.array([-(-(s.size - 1) // length) for s in self.streams], np.int64)


def bytes_per_target(streams: Sequence[Stream], token_bytes: np.ndarray, boundaries: bool) -> float:
  """UTF-8 bytes of the text of all targets, over their number. The first token of a document (without `boundaries`, of
  a stream) is no target; of more than 65,536 documents the bytes of theirs are those of an even sample.

  token_bytes: (V,) UTF-8 bytes of each id, as in Tokenizer.
  """
  targets, total = 0, 0.0
  for stream in streams:
    heads = stream.offsets[:-1] if boundaries else stream.offsets[:1]
    sampled = heads[::-(-len(heads) // MOST_HEADS)]
    total += stream.text_bytes - len(heads) * float(token_bytes[stream.tokens[sampled]].mean())
    targets += stream.size - len(heads)
  return total / max(targets, 1)


def _present(domain: np.ndarray) -> list[int]:
  """The different numbers in `domain`, ascending; a few times faster than np.unique for small batches."""
  return sorted(set(domain.tolist()))
