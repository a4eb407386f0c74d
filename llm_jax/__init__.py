"""llm_jax: a research codebase for training language models in JAX.

Start with the README's reading order. The doors are `python -m llm_jax.train | evaluate | generate | convert`;
from Python, `from llm_jax import experiment, hub`.
"""

__version__ = "0.1.0"
