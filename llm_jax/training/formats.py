"""How numbers read to people: one spelling for the progress bar, the report, the plots and the dry run."""

import math


def si(value: float, unit: str = "") -> str:
  """Three significant digits with an SI prefix: 41_234 -> '41.2k', 3.1e12 with unit 'FLOP/s' -> '3.10 TFLOP/s'."""
  if not math.isfinite(value):
    return f"{value} {unit}".rstrip()
  prefix = ""
  for size, name in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= 0.9995 * size:
      value, prefix = value / size, name
      break
  digits = number(value) if not prefix else f"{value:.{max(0, 2 - math.floor(math.log10(abs(value) * 1.0005)))}f}"
  return f"{digits} {prefix}{unit}" if unit else f"{digits}{prefix}"


def number(value: float | int | str | None) -> str:
  """A number as a table shows it: 1_200 -> '1,200', 1.93214 -> '1.9321', 6e-05 -> '6.00e-05', None -> 'none'."""
  if value is None or isinstance(value, str):
    return value if isinstance(value, str) else "none"
  if not math.isfinite(value):
    return str(value)
  if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
    return f"{int(value):,}"
  if abs(value) >= 1_000:
    return f"{value:,.1f}"
  return f"{value:.5g}" if abs(value) >= 1e-3 else f"{value:.2e}"


def duration(seconds: float) -> str:
  """'0:42', '12:05', '3:07:09', '2 d 03:07'; '?' when unknown."""
  if not math.isfinite(seconds) or seconds < 0:
    return "?"
  whole = round(seconds)
  days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
  if days:
    return f"{days} d {hours:02d}:{minutes:02d}"
  return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def percent(share: float) -> str:
  """0.4132 -> '41.3%'."""
  return f"{100 * share:.1f}%"
