"""Which temporaries fill the memory: live ranges of a scheduled program, and the arrays alive where they sum highest.

XLA says how many bytes of temporaries a program needs and not what they are. Here every result lives from its line to
its last use; loops and updates of a slice write in place, and inside a loop the body's own temporaries come on top.
XLA's own figure is the one that decides; the list says what to look at.
"""

import collections
import dataclasses
import re

from llm_jax.planning.program import ARRAY, Instruction, Program, type_bytes

VIEWS = frozenset({"get-tuple-element", "tuple", "bitcast", "parameter", "constant", "while", "opt-barrier",
                   "after-all", "copy-done", "all-gather-done", "all-reduce-done", "collective-permute-done",
                   "async-done"})


@dataclasses.dataclass(frozen=True)
class Buffer:
  """bytes on one device, in whole tiles; type without layout; source: file and line; op: JAX's name of it."""

  bytes: int
  type: str
  source: str
  op: str


def _writers(program: Program) -> dict[str, Instruction]:
  """{type: an instruction that writes slices into an array of that type}: who fills what began as zeros."""
  found = {}
  for instruction, _, _ in program.executed():
    if instruction.op == "fusion" and program.source(instruction):
      new = {(d, s) for d, s, _ in ARRAY.findall(_made(program, instruction))}
      found.update({f"{d}[{s}]": instruction for d, s, _ in ARRAY.findall(instruction.type) if (d, s) not in new})
  return found


@dataclasses.dataclass
class _Peak:
  bytes: int
  buffers: tuple[tuple[Instruction, int], ...]


def largest(program: Program, count: int = 12) -> tuple[int, list[Buffer]]:
  """-> (bytes of temporaries that are alive at the fullest moment, the largest of them; equal ones added up)."""
  peak = _peak(program, program.entry)
  writers = _writers(program)
  sums: dict[tuple[str, str, str], int] = collections.Counter()
  for instruction, size in peak.buffers:
    kinds = [f"{d}[{s}]" for d, s, _ in ARRAY.findall(_made(program, instruction))[:3]]
    maker = instruction if program.source(instruction) else writers.get(kinds[0], instruction)
    sums[", ".join(kinds), program.source(maker), maker.source_name.rpartition("/")[2]] += size
  ranked = sorted(sums.items(), key=lambda item: -item[1])[:count]
  return peak.bytes, [Buffer(size, *what) for what, size in ranked]


def _made(program: Program, instruction: Instruction) -> str:
  """The arrays of an instruction's result that are new: without those that a slice is written into."""
  updated = {a[:2] for inner, _ in program.inside(instruction) if inner.op == "dynamic-update-slice"
             for a in ARRAY.findall(inner.type)} if instruction.op == "fusion" else set()
  return " ".join(f"{d}[{s}]{{{layout}}}" for d, s, layout in ARRAY.findall(instruction.type)
                  if (d, s) not in updated)


def _peak(program: Program, name: str) -> _Peak:
  lines = program.computations.get(name, ())
  owners: dict[str, frozenset[str]] = {}  # the buffers that a name may stand for
  parts: dict[str, list[frozenset[str]]] = {}  # of a tuple, by element
  last: dict[str, int] = {}
  for i, line in enumerate(lines):
    of_each = [owners.get(o, frozenset()) for o in line.operands]
    if line.op == "tuple":
      parts[line.name] = of_each
    elif line.op in ("while", "opt-barrier") and line.operands[0] in parts:
      parts[line.name] = parts[line.operands[0]]
    if line.op == "get-tuple-element" and line.operands[0] in parts:
      of_each = [parts[line.operands[0]][int(re.search(r"index=(\d+)", line.text)[1])]]  # type: ignore[index]
    carried = frozenset().union(*of_each)
    made = "" if line.op in VIEWS else _made(program, line)
    in_place = line.op in VIEWS or made.count("[") < len(ARRAY.findall(line.type))
    owners[line.name] = (carried if in_place else frozenset()) | (frozenset({line.name}) if made else frozenset())
    for owner in carried:
      last[owner] = i
    if line.root:
      for owner in owners[line.name]:
        last[owner] = -1 if name == program.entry else len(lines)  # a step's results are not temporaries
  return _sweep(program, lines, last)


def _sweep(program: Program, lines: tuple[Instruction, ...], last: dict[str, int]) -> _Peak:
  """The fullest moment over the lines in order."""
  alive: dict[str, tuple[Instruction, int]] = {}
  total, best = 0, _Peak(0, ())
  for i, line in enumerate(lines):
    made = "" if line.op in VIEWS or last.get(line.name) == -1 else _made(program, line)
    size = type_bytes(made, padded=True)
    if size:
      alive[line.name] = (line, size)
      total += size
    inner = _Peak(0, ())
    if line.op in ("while", "conditional", "call"):
      inner = max((_peak(program, c) for c in line.called), key=lambda p: p.bytes, default=inner)
    if total + inner.bytes > best.bytes:
      best = _Peak(total + inner.bytes, (*alive.values(), *inner.buffers))
    for owner in [o for o in alive if last.get(o, i) <= i]:
      total -= alive.pop(owner)[1]
  return best
