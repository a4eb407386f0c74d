"""Hugging Face folders in and out: `model, params, tokenizer = hub.load(folder)`, `hub.save(folder, model, params)`,
and adapters alone with `hub.save_adapter(folder, model, params)`.
"""

from llm_jax.hub.adapters import save as save_adapter
from llm_jax.hub.folder import load, save
from llm_jax.hub.tokenizer import find_tokenizer

__all__ = ["find_tokenizer", "load", "save", "save_adapter"]
