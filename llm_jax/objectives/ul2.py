"""UL2's mixture of denoisers (Tay et al. 2022, section 3.1 and table 1): each row is corrupted by one of several, and
the source begins with the token of its mode.

R is span corruption as T5 has it; X leaves out long spans or half of the text; S leaves out the end: a prefix is read
and the rest is written.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from llm_jax.core.errors import ConfigError
from llm_jax.core.types import Batch, Key, Knobs, Losses, Objective, Params, Vocabulary
from llm_jax.objectives import noise_spans, source_and_target
from llm_jax.objectives.source_and_target import Form, SourceTarget
from llm_jax.objectives.span_corruption import check_knobs
from llm_jax.objectives.text_rows import real_tokens, row_keys, two_keys

MODES = ("R", "X", "S")
KEY = "config.objective.denoisers"
# Tay et al. 2022, table 1: mean length of a span (None: one span, at the end), and share that is left out.
DENOISERS: tuple[dict, ...] = (
    dict(mode="R", mean=3.0, ratio=0.15), dict(mode="R", mean=8.0, ratio=0.15),
    dict(mode="S", mean=None, ratio=0.25),
    dict(mode="X", mean=3.0, ratio=0.5), dict(mode="X", mean=8.0, ratio=0.5), dict(mode="X", mean=64.0, ratio=0.15),
    dict(mode="X", mean=64.0, ratio=0.5))


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """mode: 'R', 'X' or 'S'; mean: length of a span, inf for a single one; ratio: share left out; weight: how often."""

  mode: str
  mean: float
  ratio: float
  weight: float


@dataclasses.dataclass(frozen=True)
class UL2(Objective):
  """Cross-entropy in nats per token of the target; metric `accuracy`. The last sentinels are the modes' tokens."""

  denoisers: tuple[Denoiser, ...]
  modes: bool
  form: Form
  chunk: int | str
  needs: tuple[str, ...] = ()
  tokenizer: Vocabulary | None = None
  fields: tuple[str, ...] = ("tokens", "weights")

  def for_tokenizer(self, tokenizer: Vocabulary) -> "UL2":
    made: UL2 = noise_spans.with_tokenizer(self, tokenizer, 1 + len(MODES) * self.modes)
    return made

  def __call__(self, apply: Callable, params: Params, batch: Batch, key: Key | None, knobs: Knobs) -> Losses:
    corrupt_key, model_key = two_keys(key)
    made = self.corrupted(batch, corrupt_key)
    assert self.tokenizer is not None
    return source_and_target.losses(self.form, apply, params, made, self.tokenizer, model_key, chunk=self.chunk)

  def corrupted(self, batch: Batch, key: Key | None) -> SourceTarget:
    """Every row under a denoiser of its own, with the token of its mode in front."""
    tokenizer = self.tokenizer
    assert tokenizer is not None
    length = batch["tokens"].shape[1]
    counts = [noise_spans.Counts.of(length, d.ratio, d.mean) for d in self.denoisers]
    spans = max(int(c.spans.max()) for c in counts)
    noise_spans.check_sentinels(tokenizer, spans + len(MODES) * self.modes)
    which_key, key = two_keys(key)
    share = jnp.asarray([d.weight for d in self.denoisers]) / sum(d.weight for d in self.denoisers)
    which_B = jax.vmap(lambda k: jax.random.choice(k, len(share), p=share))(row_keys(which_key, batch["tokens"]))
    size_B = real_tokens(batch).sum(1)
    noise_DN, spans_DN = (jnp.asarray([getattr(c, name) for c in counts]) for name in ("noise", "spans"))
    widths = tuple(max(c.widths[i] for c in counts) for i in (0, 1))
    made = noise_spans.leave_out(tokenizer, batch, key, noise_DN[which_B, size_B], spans_DN[which_B, size_B],
                                 (widths[0], widths[1]), spans)
    if not self.modes:
      return made
    ids = jnp.asarray([tokenizer.sentinels[-1 - MODES.index(d.mode)] for d in self.denoisers])
    source = jnp.concatenate([ids[which_B][:, None], made.source], axis=1)
    return made._replace(source=source, source_size=made.source_size + 1)


def build(*, denoisers: list | None = None, modes: bool = True, form: Form = "encoder_decoder",
          chunk: int | str = "auto") -> UL2:
  """A mixture of denoisers.

  Args:
    denoisers: [dict(mode='R', mean=3.0, ratio=0.15, weight=1.0), ...]; mean=None leaves out the end of the row; None is
      UL2's own seven, each as often as any other.
    modes: put the token of the mode, one of the last three sentinels, in front of the source.
    form: encoder_decoder; or prefix, source and target in one row, the source read from both sides; or causal.
    chunk: tokens whose logits are held at once; 'auto' holds all when they are few.
  """
  made = tuple(_denoiser(d, f"{KEY}[{i}]") for i, d in enumerate(denoisers or DENOISERS))
  return UL2(made, modes, form, chunk, (form,))


def _denoiser(spec: Mapping, key: str) -> Denoiser:
  needed = {"mode", "mean", "ratio"}
  if not isinstance(spec, Mapping) or not needed <= spec.keys() <= {*needed, "weight"}:
    raise ConfigError(key, f"got {spec!r}", accepted="dict(mode=..., mean=..., ratio=..., weight=1.0)")
  if spec["mode"] not in MODES:
    raise ConfigError(f"{key}.mode", f"got {spec['mode']!r}", accepted=", ".join(MODES))
  mean, weight = math.inf if spec["mean"] is None else float(spec["mean"]), float(spec.get("weight", 1.0))
  check_knobs(spec["ratio"], mean, key)
  if weight <= 0:
    raise ConfigError(f"{key}.weight", f"got {weight:g}", accepted="a number above 0")
  return Denoiser(spec["mode"], mean, float(spec["ratio"]), weight)
