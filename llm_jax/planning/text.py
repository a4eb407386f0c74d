"""A plan as people read it: what does it need, does it fit, how fast, and what moves between devices."""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.planning.hardware import GIB


def describe(found: Mapping[str, Any]) -> str:
  """The whole text of one plan (planning/compiled.py)."""
  parts = [_head(found), _memory(found["memory"]), _advice(found), _time(found.get("time") or {}), _collectives(found),
           _kernels(found), _measured(found), f"compiled in {found['compile_seconds']:.0f} s"]
  return "\n\n".join(p for p in parts if p)


def gib(size: float | None) -> str:
  """Bytes in GiB; '?' if unknown."""
  return "?" if size is None else f"{size / GIB:.2f} GiB"


def _head(found: Mapping[str, Any]) -> str:
  mesh = " x ".join(f"{a}={n}" for a, n in found["mesh"].items() if n > 1) or "one device"
  return (f"{found['config']} on {found['topology']}: {found['devices']} x {found['chip']}, {found['hosts']} host(s), "
          f"mesh {mesh}\n{found['parameters']:,} parameters, {found['tokens']:,} tokens a step, "
          f"{found['tokens'] // found['devices']:,} per device")


def _memory(memory: Mapping[str, Any]) -> str:
  lines = ["memory per device"]
  lines += [f"  {kind:<14}{gib(size):>12}" for kind, size in memory["by_kind"].items() if size]
  if "temporaries" in memory:
    lines.append(f"  {'temporaries':<14}{gib(memory['temporaries']):>12}  (activations, gradients, gathered weights)")
  if memory.get("host"):
    lines.append(f"  {'on the host':<14}{gib(memory['host']):>12}")
  lines.append(f"  {'peak':<14}{gib(memory['peak']):>12}" + (f" of {gib(memory['capacity'])}"
                                                                if memory["capacity"] else ""))
  lines.append("it fits" if memory["fits"] else "IT DOES NOT FIT")
  lines += [f"  {line}" for line in memory.get("reason", ())]
  if memory["largest"]:
    lines.append("largest temporaries at the fullest moment")
    lines += [f"  {gib(b['bytes']):>12}  {b['type'][:56]:<56}  {b['source']} {b['op']}".rstrip()
              for b in memory["largest"][:8]]
  return "\n".join(lines)


def _advice(found: Mapping[str, Any]) -> str:
  if "advice" not in found:
    return ""
  nothing = ["nothing on so many devices: more of them, or a smaller model, batch or length"]
  return "\n".join(["what would fit, by estimate", *(f"  {line}" for line in found["advice"] or nothing)])


def _time(time: Mapping[str, Any]) -> str:
  if not time:
    return ""
  return (f"time of a step: {time['step_seconds']:.3f} s estimated, {time['cycles'] / 1e9:.4f} G cycles, MFU "
          f"{time['mfu']:.1%}, {time['tokens_per_second_per_device']:,.0f} tokens/s per device\n"
          f"  ideal {time['ideal_seconds']:.3f} s; transfers alone {time['transfer_seconds_if_nothing_hides']:.3f} s "
          f"at full link speed\n  how: {time['method']}")


def _collectives(found: Mapping[str, Any]) -> str:
  rows = found.get("collectives")
  if not rows:
    return ""
  lines = [f"  {r['op']:<20}{r['axes']:<22}{r['count']:>7}{r['bytes'] / 1e9:>10.3f} GB" for r in rows]
  return "\n".join(["collectives of a step (over axes, how many, bytes of results per device)", *lines])


def _kernels(found: Mapping[str, Any]) -> str:
  kernels = found.get("kernels")
  if not kernels:
    return ""
  return "\n".join(["kernels of a step", *(f"  {k['calls']:>5} x {name}" for name, k in kernels.items())])


def _measured(found: Mapping[str, Any]) -> str:
  here = found.get("measured")
  if not here:
    return ""
  lines = ["measured here, beside the plan"]
  lines += [f"  {kind:<14}{gib(size):>12}  planned {gib(found['memory']['by_kind'][kind])}"
            for kind, size in here["by_kind"].items() if size]
  if here["peak"]:
    lines.append(f"  {'peak':<14}{gib(here['peak']):>12}  planned {gib(found['memory']['peak'])}")
  return "\n".join([*lines, f"  a step takes {here['step_seconds']:.3f} s"])


def estimate(found: Mapping[str, Any]) -> str:
  """The text of an estimate (planning/estimate.py)."""
  memory = found["memory"]
  lines = [f"on {found['topology']}, by estimate: memory per device"]
  lines += [f"  {kind:<14}{gib(size):>12}" for kind, size in memory.items() if size and kind != "peak"]
  lines.append(f"  {'peak':<14}{gib(memory['peak']):>12} of {gib(found['capacity'])}")
  lines.append("it fits" if found["fits"] else "IT DOES NOT FIT")
  lines += [_advice(found)] if "advice" in found else []
  parts = ", ".join(f"{what} {seconds:.3f}" for what, seconds in found["parts"].items())
  lines.append(f"time of a step: {found['seconds']:.3f} s, MFU {found['mfu']:.1%} ({parts} s)")
  return "\n".join(lines)


def ranking(ranked: Sequence[Any], most: int = 10) -> str:
  """The best ways to run (llm_jax/plan_search.py), one line each."""
  rows = [_row(c) for c in ranked[:most]]
  wide = max([len("mesh"), *(len(mesh) for mesh, _ in rows)])
  head = f"{'remat':<12}{'micro':>6}{'split state':>12}{'peak GiB':>10}{'step s':>9}{'MFU':>7}"
  return "\n".join([f"{'':>3} {'mesh':<{wide}} {head}",
                    *(f"{n:>3} {mesh:<{wide}} {rest}" for n, (mesh, rest) in enumerate(rows, 1))])


def _row(c: Any) -> tuple[str, str]:
  way, f = c.way, c.found
  mesh = " x ".join(f"{a}={n}" for a, n in way.mesh.items() if n > 1) or "one device"
  mesh += f" in {way.microbatches}" if way.microbatches else ""
  return mesh, (f"{way.remat or '-':<12}{way.accumulate:>6}{'yes' if way.split_state else 'no':>12}"
                f"{f['memory']['peak'] / GIB:>10.2f}{f['seconds']:>9.3f}{f['mfu']:>7.1%}" +
                ("" if f["fits"] else "  does not fit"))
