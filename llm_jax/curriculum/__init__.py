"""Data schedulers: what the next batch is made of, and how much each example counts."""
