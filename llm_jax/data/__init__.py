"""Data: from files to batches.

A plug-in (`stdlib`, `text_folder`, `tfds`) reads documents; `corpus.prepare` splits, tokenises them once into a
memory-mapped `token_store` and hands back sources whose batch is a pure function of (seed, step, plan); `loader` runs
ahead of the training loop. Reading order: documents, corpus, token_store, windows, loader.
"""
