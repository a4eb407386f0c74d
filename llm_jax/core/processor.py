"""What Linux says of this machine's first processor."""


def described(field: str) -> str:
  """A field of /proc/cpuinfo, such as "model name" or "flags"; "" where there is none, or no such file."""
  try:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
      return next((line.partition(":")[2].strip() for line in file if line.startswith(field)), "")
  except OSError:
    return ""
