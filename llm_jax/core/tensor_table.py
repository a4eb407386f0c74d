"""How tensors of Hugging Face folders become ours, and back: the words in which a models/ file says it.

A family's table maps our dotted names to theirs, and serves both directions. Our leaves are stacked over layers; theirs
carry the layer in the name, so a template has one `{placeholder}` per stacked axis:

    linear("blocks.feed_forward.up", "model.layers.{layer}.mlp.up_proj")   # a kernel and a bias, if the model has them
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

Shapes = Sequence[tuple[int, ...]]
Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One of their tensors per layer, and how it becomes ours.

  name: template with one placeholder per stacked axis of ours; load(theirs, shapes of ours for one layer) -> ours;
  save(ours) -> theirs. Several of ours share one of theirs when it is fused. Axes are never guessed from sizes.
  layers: their numbers of our layers, where a stack holds only some; None: 0, 1, 2 ...
  """

  name: str
  load: Callable[[np.ndarray, Shapes], Arrays]
  save: Callable[[Arrays], np.ndarray]
  layers: tuple[int, ...] | None = None


Names = dict[str | tuple[str, ...], Tensor]  # {our name, or names of a fused tensor: their tensor}


def same(ours: str, theirs: str, axes: tuple[int, ...] | None = None) -> Names:
  """The same array on both sides; `axes`: permutation that takes theirs to ours (convolutions)."""
  back = None if axes is None else tuple(int(i) for i in np.argsort(axes))
  turn = lambda x, order: x if order is None else np.transpose(x, order)
  return {ours: Tensor(theirs, lambda x, shapes: (turn(x, axes),), lambda parts: turn(parts[0], back))}


def vector(ours: str | tuple[str, ...], theirs: str) -> Names:
  """A bias or scale, flat on their side: (H * K,) for our (H, K); several of ours lie one after the other."""
  return {ours: Tensor(theirs, lambda x, shapes: _columns(x[None], shapes, 0), lambda parts: _matrix(parts, 0)[0])}


def matrix(ours: str | tuple[str, ...], theirs: str, *, inputs: int = 1, transposed: bool = True) -> Names:
  """A kernel, a matrix on their side; several of ours lie one after the other along its outputs.

  Args:
    ours: kernel of shape (*in, *out). theirs: the template.
    inputs: how many leading axes of ours are inputs; a kernel (H, K, D) has two.
    transposed: True: theirs is (out, in) as in torch.nn.Linear; False: (in, out) as in GPT-2's Conv1D.
  """
  turn = (lambda x: x.T) if transposed else (lambda x: x)
  return {ours: Tensor(theirs, lambda x, shapes: _columns(turn(x), shapes, inputs),
                       lambda parts: turn(_matrix(parts, inputs)))}


def linear(ours: str | Sequence[str], theirs: str, *, inputs: int = 1, transposed: bool = True) -> Names:
  """`kernel` and `bias` of our modules against `weight` and `bias` of theirs; a fused module takes several of ours."""
  modules = (ours,) if isinstance(ours, str) else tuple(ours)
  key = lambda leaf: f"{modules[0]}.{leaf}" if len(modules) == 1 else tuple(f"{m}.{leaf}" for m in modules)
  return (matrix(key("kernel"), f"{theirs}.weight", inputs=inputs, transposed=transposed)
          | vector(key("bias"), f"{theirs}.bias"))


def norm(ours: str, theirs: str) -> Names:
  """`scale` and `bias` against `weight` and `bias`."""
  return vector(f"{ours}.scale", f"{theirs}.weight") | vector(f"{ours}.bias", f"{theirs}.bias")


def embedding(ours: str, theirs: str) -> Names:
  """A table (count, width), the same on both sides."""
  return same(f"{ours}.embedding", f"{theirs}.weight")


def only_layers(layers: Sequence[int], names: Names) -> Names:
  """These rows for a stack that holds only the layers of these numbers; `{layer}` is its first axis."""
  return {ours: dataclasses.replace(tensor, layers=tuple(layers)) for ours, tensor in names.items()}


def _columns(x_IO: np.ndarray, shapes: Shapes, inputs: int) -> Arrays:
  """Cuts the columns among ours; a matrix of any other size is an error, not a silent reshape."""
  widths = [math.prod(s[inputs:]) for s in shapes]
  if x_IO.shape != (math.prod(shapes[0][:inputs]), sum(widths)):
    raise ValueError("does not fit")
  ends = np.cumsum(widths)
  return tuple(x_IO[:, end - width:end].reshape(s) for end, width, s in zip(ends, widths, shapes))


def _matrix(parts: Arrays, inputs: int) -> np.ndarray:
  return np.concatenate([p.reshape(math.prod(p.shape[:inputs]), -1) for p in parts], axis=1)
