"""k-parity with mixed inputs: y is the product of k of d signs, x is sparse or dense (Abbe, Cornacchia, Lotfi 2023).

Two domains. `dense`: every sign is -1 with probability 1/2; `sparse`: with probability p, so that x is mostly +1 and
each of the k signs shows on its own. Which domain a row is from is the mixture's business: the same mixture in another
order is another curriculum. Held-out rows are dense, and sparse apart.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Plan
from llm_jax.data.corpus import Corpus, DataContext
from llm_jax.data.episodes import generator, joined
from llm_jax.data.fingerprint import digest
from llm_jax.data.mixture import Mixture
from llm_jax.data.pool import Pool, checked_size

FIELDS = {"inputs": "(B, d) float32: signs", "targets": "(B, 1) float32: their product over the k",
          "weights": "(B,) float32: 1", "domain": "(B,) int32: 0 dense, 1 sparse"}
DOMAINS = ("dense", "sparse")


@dataclasses.dataclass(frozen=True)
class ParitySource:
  """A DataSource of fresh rows for ever: those of step s are drawn with the key (seed, 'parity', s)."""

  dimensions: int
  k: int
  p: float
  mixture: Mapping[str, float]
  seed: int
  fingerprint: str
  fields: Mapping[str, str] = dataclasses.field(default_factory=lambda: FIELDS)
  domains: tuple[str, ...] = DOMAINS
  boundaries: bool = False
  label_domains: bool = True

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of the batch of `step`."""
    example = step * plan.batch + np.arange(plan.batch, dtype=np.int64)
    domain, _ = Mixture.of(plan.mixture or self.mixture, self.domains).locate(example)
    batch = draw(generator(self.seed, "parity", step), domain, self.dimensions, self.k, self.p)
    return {name: a[rows] for name, a in batch.items()} if rows is not None else batch


@dataclasses.dataclass(frozen=True)
class ParityEvaluation:
  """`rows` held-out rows of one domain, the same ones for every seed of a run."""

  dimensions: int
  k: int
  p: float
  domain: int
  rows: int
  fingerprint: str
  fields: Mapping[str, str] = dataclasses.field(default_factory=lambda: FIELDS)
  bytes_per_token: float | None = None  # nothing here is text

  def batches(self, batch: int, length: int) -> int:
    """Steps in a pass."""
    return -(-self.rows // batch)

  def take(self, step: int, plan: Plan, rows: slice | None = None) -> Batch:
    """Rows `rows` (default all) of batch `step` of the pass; the last one is filled up with weight 0."""
    domain = np.full(plan.batch, self.domain, np.int64)
    batch = draw(generator("parity evaluation", self.domain, step), domain, self.dimensions, self.k, self.p)
    batch["weights"] *= step * plan.batch + np.arange(plan.batch) < self.rows
    return {name: a[rows] for name, a in batch.items()} if rows is not None else batch


def draw(random: np.random.Generator, domain: np.ndarray, dimensions: int, k: int, p: float) -> Batch:
  """One row per entry of `domain`; the parity is over the first k coordinates, which no network knows."""
  chance = np.where(domain == DOMAINS.index("sparse"), p, 0.5)[:, None]
  minus = random.random((len(domain), dimensions), np.float32) < chance
  odd = minus[:, :k].sum(-1) % 2
  return {"inputs": np.where(minus, -1.0, 1.0).astype(np.float32),
          "targets": np.where(odd, -1.0, 1.0).astype(np.float32)[:, None],
          "weights": np.ones(len(domain), np.float32), "domain": domain.astype(np.int32)}


def of_ids(ids: np.ndarray, plan: Plan, *, dimensions: int, k: int, p: float, mixture: Mapping[str, float]) -> Batch:
  """The rows of a pool with these ids; a share of them is sparse as the mixture says."""
  domain, _ = Mixture.of(mixture, DOMAINS).locate(ids)
  rows = joined([draw(generator("parity pool", i), domain[[n]], dimensions, k, p) for n, i in enumerate(ids.tolist())])
  return {name: a for name, a in rows.items() if name != "domain"}


def minus_signs(rows: Batch) -> np.ndarray:
  """(R,) how many signs of each row are -1."""
  return (rows["inputs"] < 0).sum(-1)


def build(context: DataContext, *, dimensions: int = 100, k: int = 5, p: float = 0.05,
          mixture: dict = {"sparse": 0.3, "dense": 0.7},  # noqa: B006, never changed
          pool: int = 0, eval_rows: int = 4096) -> Corpus:
  """Parities of `k` out of `dimensions` signs.

  Args:
    dimensions: signs in a row.
    k: how many of them are multiplied.
    p: probability of -1 in sparse rows.
    mixture: {'sparse': weight, 'dense': weight}, unless a curriculum says otherwise.
    pool: train on so many examples over and over, which can be ranked by their structure; 0 draws fresh ones for ever.
    eval_rows: held-out rows of each domain.

  Raises:
    ConfigError: k or p out of range, or an unknown domain.
  """
  if not 1 <= k <= dimensions:
    raise ConfigError("config.data.k", f"{k} of {dimensions} signs", accepted=f"1 to {dimensions}")
  if not 0 < p < 1:
    raise ConfigError("config.data.p", f"got {p:g}", accepted="between 0 and 1")
  Mixture.of(mixture, DOMAINS)
  name = digest("parity", dimensions, k, p)
  train: Any = ParitySource(dimensions, k, p, dict(mixture), context.seed, digest(name, dict(mixture)))
  if checked_size(pool):
    fields = {field: meaning for field, meaning in FIELDS.items() if field != "domain"}
    train = Pool(pool, partial(of_ids, dimensions=dimensions, k=k, p=p, mixture=dict(mixture)), minus_signs,
                 context.seed, digest(name, dict(mixture), pool), fields)
  evaluation = lambda d: ParityEvaluation(dimensions, k, p, d, eval_rows, digest(name, d, eval_rows))
  return Corpus(None, train, {"validation": evaluation(0), "validation/sparse": evaluation(1)}, train.fingerprint,
                f"parity of {k} of {dimensions} signs, {f'{pool:,}' if pool else 'fresh'} rows, {mixture}", None)
