"""The report of a run: DIR/report.html, one self-contained page made from nothing but the files of the run directory.

It can be made at any time, also of a run that has just begun or that crashed: a part without a file is left out, a
damaged file becomes a notice. No network, no script; the page's own policy forbids both, because samples and data are
text that others wrote. `python -m llm_jax.training.report DIR` makes it again.
"""

import argparse
import html
import json
import os
import pathlib
import re
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_jax.core.errors import DataError, LlmJaxError
from llm_jax.training import metrics, run_directory
from llm_jax.training.formats import number
from llm_jax.training.panels import panels
from llm_jax.training.plots import draw, svg
from llm_jax.training.summary import Tile, notices, numbers, tiles

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
SHOWN_SAMPLES = 3  # of the last step; the others are folded


def write(workdir: str | os.PathLike) -> pathlib.Path:
  """Writes DIR/report.html from the files of DIR and returns its path.

  Reads metrics.jsonl, samples.jsonl, config.json, schedules.json, status.json, machine.json, data.json and
  parameters.json, each if it is there; docs/metrics.md says what they hold.
  """
  workdir = pathlib.Path(workdir)
  trouble: list[str] = []

  def get(read: Callable[[], Any]) -> Any:
    try:
      return read() or {}
    except DataError as e:
      trouble.append(str(e))
      return {}

  document = lambda name: get(lambda: run_directory.read_document(workdir, name))
  rows = get(lambda: metrics.rows(workdir)) or []
  samples = get(lambda: metrics.samples(workdir)) or []
  status, parameters = document(run_directory.STATUS), document(run_directory.PARAMETERS)
  schedules, machine = document(run_directory.SCHEDULES), document(run_directory.MACHINE)
  body = [
      _plots(rows, schedules),
      _samples(samples),
      _numbers(rows),
      _pair(_tree("Data", document(run_directory.DATA)), _tree("Machine", machine)),
      _parameters(parameters),
      _tree("Config", document(run_directory.CONFIG)),
  ]
  page = string.Template(TEMPLATE.read_text("utf-8")).substitute(
      title=_text(workdir.resolve().name),
      subtitle=_text(_subtitle(rows, status, machine)),
      tiles=_tiles(tiles(rows, status, parameters)),
      notices=_notices(trouble + notices(rows, status)),
      body="\n".join(part for part in body if part))
  path = workdir / run_directory.REPORT
  run_directory.replace_text(path, page)
  return path


def _subtitle(rows: Sequence[Mapping[str, Any]], status: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
  state = str(status.get("state", "")).capitalize()
  step = f"step {number(rows[-1]['step'])}" if rows else "no step logged yet"
  devices = machine.get("devices") or {}
  where = f"on {devices.get('count', '?')} x {devices['kind']}" if devices.get("kind") else ""
  if devices.get("platform") == "cpu":
    where += f" ({(machine.get('host') or {}).get('cpu', '')})"
  return " · ".join(part for part in (state, step, where) if part)


def _tiles(found: Sequence[Tile]) -> str:
  cells = [f'<div class="tile"><div class="name">{_text(t.name)}</div><div class="value">{_text(t.value)}</div>'
           f'<div class="note">{_text(t.note) or "&nbsp;"}</div></div>' for t in found]
  return f'<section class="tiles">{"".join(cells)}</section>' if cells else ""


def _notices(found: Sequence[str]) -> str:
  return f'<p class="notice">{_text(chr(10).join(found))}</p>' if found else ""


def _plots(rows: Sequence[Mapping[str, Any]], schedules: Mapping[str, Any]) -> str:
  found = panels(rows, schedules)
  card = lambda panel: f'<figure class="card" role="img" aria-label="{_text(panel.title)}">{svg(draw(panel))}</figure>'
  grid = lambda chosen: f'<div class="plots">{"".join(map(card, chosen))}</div>'
  main, rest = [p for p in found if p.main], [p for p in found if not p.main]
  parts = [f"<h2>Curves</h2>{grid(main)}"] if main else []
  if rest:
    parts.append(f"<details><summary>{len(rest)} more metrics</summary>{grid(rest)}</details>")
  return "\n".join(parts)


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
  if not samples:
    return ""
  last = [s for s in samples if s.get("step") == samples[-1].get("step")]
  shown = last[:SHOWN_SAMPLES]
  rest = [s for s in reversed(samples) if s not in shown]
  one = lambda s: (f'<div class="soft">step {_text(number(s.get("step")))}</div>'
                   f'<pre><span class="prompt">{_text(s.get("prompt", ""))}</span>{_text(s.get("text", ""))}</pre>')
  fold = f"<details><summary>{len(rest)} other samples</summary>{''.join(map(one, rest))}</details>" if rest else ""
  return f'<h2>Samples</h2><div class="card">{"".join(map(one, shown))}{fold}</div>'


def _numbers(rows: Sequence[Mapping[str, Any]]) -> str:
  found = numbers(rows)
  if not found:
    return ""
  return ('<h2>Numbers</h2><div class="card scroll">'
          + _table(("metric", "last", "at step", "best", "at step", "median", "unit", "meaning"),
                   [(n.name, n.last, n.last_step, n.best, n.best_step, n.median, n.unit, n.meaning) for n in found],
                   numeric=(1, 2, 3, 4, 5), long=(7,))
          + "</div>")


def _parameters(parameters: Any) -> str:
  """A table of parameters.json: a list of objects whose keys are the columns."""
  listed = parameters.get("parameters", []) if isinstance(parameters, Mapping) else parameters
  if not listed:
    return ""
  columns = list(dict.fromkeys(key for row in listed for key in row))
  cells = [[_cell(row.get(column, "")) for column in columns] for row in listed]
  counted = [c for c in columns if all(isinstance(row.get(c, 0), int | float) for row in listed)]
  total = sum(row.get("count", 0) for row in listed)
  caption = f"{len(listed)} arrays" + (f", {number(total)} parameters" if total else "")
  return (f'<h2>Parameters</h2><div class="card"><details><summary>{_text(caption)}</summary><div class="scroll">'
          + _table(columns, cells, numeric=[columns.index(c) for c in counted]) + "</div></details></div>")


def _pair(*sections: str) -> str:
  found = [f"<section>{section}</section>" for section in sections if section]
  return f'<div class="pair">{"".join(found)}</div>' if found else ""


def _tree(title: str, value: Any) -> str:
  branch = lambda: _branch(value if isinstance(value, Mapping | list) else [value], 0)
  return f'<h2>{_text(title)}</h2><div class="card">{branch()}</div>' if value else ""


def _branch(value: Any, depth: int) -> str:
  """Nested dicts (and lists of dicts) as foldable lines: plain values first, the first level open."""
  leaves, branches = [], []
  for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
    nested = isinstance(inner, Mapping) or (isinstance(inner, list) and any(isinstance(v, Mapping) for v in inner))
    if nested and inner:
      about = inner.get("name", "") if isinstance(inner, Mapping) else f"{len(inner)} entries"
      branches.append(f'<details{" open" if depth == 0 and len(inner) <= 12 else ""}><summary>{_text(key)} '
                      f'<span class="key">{_text(about)}</span></summary>'
                      f'<div class="inner">{_branch(inner, depth + 1)}</div></details>')
    else:
      leaves.append(f'<div class="leaf mono"><span class="key">{_text(key)}</span> {_text(_exact(inner))}</div>')
  return "".join(leaves + branches)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[int] = (),
           long: Sequence[int] = ()) -> str:
  kind = lambda i: ' class="n"' if i in numeric else ' class="long"' if i in long else ""
  head = "".join(f"<th{kind(i)}>{_text(c)}</th>" for i, c in enumerate(columns))
  body = "".join("<tr>" + "".join(f"<td{kind(i)}>{_text(c)}</td>" for i, c in enumerate(row)) + "</tr>" for row in rows)
  return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _exact(value: Any) -> str:
  """A value as JSON spells it, a text without its quotes."""
  return value if isinstance(value, str) else json.dumps(value)


def _cell(value: Any) -> str:
  if isinstance(value, bool) or value is None:
    return str(value).lower()
  if isinstance(value, int | float):
    return number(value)
  return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)


def _text(value: Any) -> str:
  """`value` as text of the page: escaped, without control characters and half surrogate pairs."""
  return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "\ufffd", str(value)))


def main(arguments: Sequence[str] | None = None) -> int:
  """Writes the report of the directory named on the command line; the exit code."""
  parser = argparse.ArgumentParser(prog="llm_jax.training.report", description="Write DIR/report.html again.")
  parser.add_argument("workdir", help="a run directory, e.g. runs/quickstart")
  workdir = pathlib.Path(parser.parse_args(arguments).workdir)
  if not (workdir / run_directory.METRICS).exists() and not (workdir / run_directory.CONFIG).exists():
    print(f"{workdir}: not a run directory (it has neither metrics.jsonl nor config.json)", file=sys.stderr)
    return 2
  try:
    print(write(workdir))
  except LlmJaxError as e:
    print(e, file=sys.stderr)
    return e.exit_code
  return 0


if __name__ == "__main__":
  sys.exit(main())
