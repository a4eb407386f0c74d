"""How a stacked kernel is a batch of matrices: what Muon orthogonalises and Adafactor factors, layer by layer.

Logical axis names decide, never sizes: leading 'layers' (and 'experts') axes are a batch, 'heads' and 'head' together
are one side of the map. A query kernel ('layers', 'embed', 'heads', 'head') is N matrices of D x HK, the output kernel
('layers', 'heads', 'head', 'embed') N matrices of HK x D. An update rule that looked at the stack as a whole would make
the scanned model train differently from the same layers kept apart.
"""

import dataclasses

BATCH = frozenset({"layers", "experts"})
HEADS = frozenset({"heads", "kv_heads"})

Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class MatrixView:
  """Axis numbers of an array that holds a batch of matrices: batch axes first, then rows (inputs), then columns."""

  batch: tuple[int, ...]
  rows: tuple[int, ...]
  columns: tuple[int, ...]


def batch_axes(axes: Axes) -> int:
  """How many leading axes stack independent parameters."""
  return next((i for i, axis in enumerate(axes) if axis not in BATCH), len(axes))


def matrix_view(axes: Axes) -> MatrixView | None:
  """The view of a parameter with these logical axes; None if it is no batch of matrices (a bias, a scale, a filter)."""
  first = batch_axes(axes)
  sides: list[list[int]] = []
  for i in range(first, len(axes)):
    if axes[i] == "head" and sides and axes[sides[-1][-1]] in HEADS:
      sides[-1].append(i)
    else:
      sides.append([i])
  if len(sides) != 2:
    return None
  return MatrixView(tuple(range(first)), tuple(sides[0]), tuple(sides[1]))
