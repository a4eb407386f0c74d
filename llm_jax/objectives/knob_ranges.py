"""What several objectives ask of the numbers among their knobs, before anything is built of them."""

from llm_jax.core.errors import ConfigError


def check_positive(knob: str, value: float) -> None:
  """Raises ConfigError if a knob is not above 0."""
  if value <= 0:
    raise ConfigError(f"config.objective.{knob}", f"got {value:g}", accepted="a number above 0")


def check_not_negative(knob: str, value: float) -> None:
  """Raises ConfigError if a knob is below 0."""
  if value < 0:
    raise ConfigError(f"config.objective.{knob}", f"got {value:g}", accepted="a number from 0")
