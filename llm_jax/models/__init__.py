"""Architectures, one per file: a config, the published sizes as variants, the module, the Hugging Face name table."""
