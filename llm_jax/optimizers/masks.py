"""Which parameters are decayed and which are trained, by name.

Default of the decay mask: GPT-2's convention as nanoGPT writes it: matrices and embeddings are decayed, biases and norm
scales are not. A stack over layers makes every bias two-dimensional, so the rule goes by leaf name and by the number of
axes of one layer, not by `ndim`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from llm_jax.core.errors import ConfigError
from llm_jax.core.names import select
from llm_jax.optimizers.matrices import Axes, batch_axes

T = TypeVar("T")
VECTORS = frozenset({"bias", "scale"})


def leaf_name(name: str) -> str:
  """'kernel' of 'blocks.attention.query.kernel'."""
  return name.rsplit(".", 1)[-1]


def decayed(axes: Mapping[str, Axes], exclude: str | Iterable[str] | None, key: str) -> frozenset[str]:
  """Names that weight decay, L1 and L2 act on.

  Args:
    axes: logical axes of every parameter.
    exclude: regular expressions over names; None is the default above, `()` excludes nothing.
    key: path of this knob in error messages.

  Raises:
    ConfigError: a pattern is wrong or takes no parameter.
  """
  if exclude is not None:
    return frozenset(axes) - select(axes, exclude, key)
  return frozenset(n for n, a in axes.items() if leaf_name(n) not in VECTORS and len(a) - batch_axes(a) >= 2
                   and not n.startswith("meta."))  # a learned rate that decays would stop the inner loop


def split(params: Mapping[str, T], freeze: str | Iterable[str] = (), key: str = "config.optimizer.freeze"
          ) -> tuple[dict[str, T], dict[str, T]]:
  """(trained, frozen): `params` divided by the regular expressions `freeze`; values are handed through.

  Raises:
    ConfigError: a pattern is wrong or takes no parameter, or nothing is left to train.
  """
  frozen = select(params, freeze, key)
  if params and len(frozen) == len(params):
    raise ConfigError(key, f"{freeze!r} freezes every parameter", accepted="patterns that leave something to train")
  return {n: v for n, v in params.items() if n not in frozen}, {n: v for n, v in params.items() if n in frozen}


def size(shapes: Mapping[str, Any], names: Iterable[str]) -> int:
  """Number of parameters under these names."""
  return sum(int(shapes[n].size) for n in names)
