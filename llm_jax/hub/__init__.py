"""Hugging Face checkpoints in and out (safetensors only), and their tokenizers."""
