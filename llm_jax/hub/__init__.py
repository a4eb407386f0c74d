"""Hugging Face folders in and out: `model, params, tokenizer = hub.load(folder)`, `hub.save(folder, model, params)`."""

from llm_jax.hub.folder import load, save
from llm_jax.hub.tokenizer import find_tokenizer

__all__ = ["find_tokenizer", "load", "save"]
