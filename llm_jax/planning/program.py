"""Reading the text of a compiled XLA program: computations, instructions, how often each runs, where it comes from.

XLA offers no other door to a scheduled program than its text. What is read here is only what the text says plainly:
names, types, operands, the computations that an instruction calls, its source line; trip counts come from a loop's
condition, step and start, since the compiler leaves them out for TPUs.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16,
        "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64}
ARRAY = re.compile(r"\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\](?:\{([^{}]*)\})?")
CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|branch_computations)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)")


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation; `text` is everything after the operands."""

  name: str
  type: str
  op: str
  operands: tuple[str, ...]
  literal: str  # what stands between the parentheses
  text: str
  root: bool

  def attribute(self, key: str) -> str | None:
    """The computation or word that `key=` names; None if it is not there."""
    found = re.search(rf"\b{key}=%?([\w.\-]+)", self.text)
    return found.group(1) if found else None

  @property
  def called(self) -> list[str]:
    """Names of the computations that it calls."""
    return [n.strip().lstrip("%") for group in CALLED.findall(self.text) for n in group.split(",")]

  @property
  def source_name(self) -> str:
    """JAX's name of the operation, e.g. 'jit(step)/jvp()/while/body/dot_general'; '' if none."""
    found = re.search(r'op_name="([^"]*)"', self.text)
    return found.group(1) if found else ""


@dataclasses.dataclass(frozen=True)
class Program:
  """A parsed module: {computation: its instructions in order}, the entry's name, {stack frame: (file, line, outer)}."""

  computations: dict[str, tuple[Instruction, ...]]
  entry: str
  frames: dict[int, tuple[str, int, int]]

  def source(self, instruction: Instruction, below: str = "llm_jax/") -> str:
    """'layers/block.py:62': the innermost line of this package that made the instruction; '' if it is not known."""
    found = re.search(r"stack_frame_id=(\d+)", instruction.text)
    number = int(found.group(1)) if found else 0
    while number in self.frames:
      file, line, outer = self.frames[number]
      if below in file:
        return f"{file.rpartition(below)[2]}:{line}"
      number = outer if outer != number else 0
    plain = re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.text)
    return f"{plain.group(1).rpartition(below)[2]}:{plain.group(2)}" if plain and below in plain.group(1) else ""

  def executed(self, name: str | None = None, times: int = 1) -> Iterator[tuple[Instruction, int, str]]:
    """(instruction, how often it runs, its computation) of all that one step schedules; fusions count as one."""
    name = self.entry if name is None else name
    for instruction in self.computations.get(name, ()):
      yield instruction, times, name
      if instruction.op == "while":
        inner = times * trip_count(self, name, instruction)
        for part in ("body", "condition"):
          yield from self.executed(instruction.attribute(part) or "", inner)
      elif instruction.op in ("call", "conditional"):
        for called in instruction.called:  # of a conditional every branch: an upper bound
          yield from self.executed(called, times)

  def inside(self, instruction: Instruction) -> Iterator[tuple[Instruction, str]]:
    """(instruction, its computation) of all that a fusion or an asynchronous start holds."""
    queue, seen = list(instruction.called), set()
    while queue:
      name = queue.pop()
      if name not in seen:
        seen.add(name)
        for inner in self.computations.get(name, ()):
          yield inner, name
          queue += inner.called


@functools.lru_cache(maxsize=2)
def parse(text: str) -> Program:
  """The program that this text of an optimised HLO module describes."""
  computations: dict[str, list[Instruction]] = {}
  entry, name, pending = "", "", ""
  for line in text.splitlines():
    opens = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line) if line[:1] in "%E" and line else None
    starts = re.match(r"  (ROOT )?%[\w.\-]+ = ", line)
    if pending and (starts or line == "}"):
      computations[name].append(_instruction(pending))
      pending = ""
    if opens and not line.startswith("HloModule"):
      name = opens.group(2)
      computations[name] = []
      entry = name if opens.group(1) else entry
    elif name and (starts or pending):  # an attribute may hold line ends: they belong to the line before
      pending += line
    if line == "}":
      name = ""
  return Program({n: tuple(lines) for n, lines in computations.items()}, entry, _frames(text))


def _instruction(line: str) -> Instruction:
  left, right = line.strip().split(" = ", 1)
  kind, rest = _balanced(right) if right.startswith("(") else right.split(" ", 1)
  op, rest = rest.strip().split("(", 1)
  inside, text = _balanced("(" + rest)
  operands = tuple(re.findall(r"%([\w.\-]+)", inside)) if op != "constant" else ()
  return Instruction(left.removeprefix("ROOT ").lstrip("%"), kind, op, operands, inside[1:-1], text,
                     left.startswith("ROOT "))


def _balanced(text: str) -> tuple[str, str]:
  """Splits after the parenthesis that closes the first one."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter == "(") - (letter == ")")
    if depth == 0:
      return text[: i + 1], text[i + 1:]
  return text, ""


def _frames(text: str) -> dict[int, tuple[str, int, int]]:
  head = text[: text.find("\n%")]
  section = lambda title: (re.search(rf"^{title}\n((?:\d+ .*\n?)*)", head, re.MULTILINE) or ["", ""])[1]
  files = dict(re.findall(r'^(\d+) "(.*)"$', section("FileNames"), re.MULTILINE))
  places = {number: (files.get(file, ""), int(line)) for number, file, line in
            re.findall(r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", section("FileLocations"), re.MULTILINE)}
  frames = re.findall(r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", section("StackFrames"),
                      re.MULTILINE)
  return {int(n): (*places.get(place, ("", 0)), int(outer or 0)) for n, place, outer in frames}


def type_bytes(kind: str, padded: bool = False) -> int:
  """Bytes of all arrays of a type; padded: in whole tiles, as a TPU stores them, and none for what is not in HBM."""
  total = 0.0
  for dtype, dims, layout in ARRAY.findall(kind):
    bits = BITS.get(dtype, 8 if dtype.startswith("f8") else 0)
    sizes = [int(d) for d in dims.split(",") if d]
    if padded and (space := re.search(r"S\((\d+)\)", layout)) and space.group(1) != "0":
      continue
    total += math.prod(_tiled(sizes, layout) if padded else sizes) * bits / 8
  return int(total)


def _tiled(sizes: list[int], layout: str) -> list[int]:
  tile = re.search(r"T\(([\d,]+)\)", layout)
  order = [int(d) for d in re.match(r"[\d,]*", layout).group().split(",") if d]  # type: ignore[union-attr]
  if not tile or not sizes or len(order) != len(sizes):
    return sizes
  sizes = list(sizes)
  for place, step in zip(order, reversed([int(t) for t in tile.group(1).split(",")])):
    sizes[place] = math.ceil(sizes[place] / step) * step
  return sizes


def trip_count(program: Program, caller: str, loop: Instruction) -> int:
  """How often the body of a loop runs; 1 if that cannot be read."""
  known = re.search(r"known_trip_count[^0-9]*(\d+)", loop.text)
  if known:
    return int(known.group(1))
  condition = {i.name: i for i in program.computations.get(loop.attribute("condition") or "", ())}
  body = {i.name: i for i in program.computations.get(loop.attribute("body") or "", ())}
  outside = {i.name: i for i in program.computations.get(caller, ())}
  test = next((i for i in condition.values() if i.root), None)
  if test is None or test.op != "compare":
    return 1
  place, bound = None, None
  for operand in test.operands:
    found = condition.get(operand)
    if found is not None and found.op == "get-tuple-element":
      place = int(re.search(r"index=(\d+)", found.text).group(1))  # type: ignore[union-attr]
    else:
      bound = _constant(condition, operand)
  if place is None or bound is None:
    return 1
  start = step = None
  first = outside.get(loop.operands[0]) if loop.operands else None
  if first is not None and first.op == "tuple" and place < len(first.operands):
    start = _constant(outside, first.operands[place])
  last = next((i for i in body.values() if i.root), None)
  if last is not None and last.op == "tuple" and place < len(last.operands):
    grown = body.get(last.operands[place])
    constants = [_constant(body, o) for o in grown.operands] if grown and grown.op in ("add", "fusion") else []
    step = next((c for c in constants if c is not None), None)
  bound += "direction=LE" in test.text
  return max(0, math.ceil((bound - (start or 0)) / (step or 1)))


def _constant(known: dict[str, Instruction], name: str, depth: int = 0) -> int | None:
  found = known.get(name)
  if found is None or depth > 6:
    return None
  if found.op == "constant":
    return int(found.literal) if re.fullmatch(r"-?\d+", found.literal.strip()) else None
  if found.op in ("copy", "bitcast", "convert", "copy-start", "copy-done") and found.operands:
    return _constant(known, found.operands[0], depth + 1)
  return None
