"""Studies: one folder per question with README.md (claim, command, tables, figure), config.py (sweep and measures),
results.json and figure.svg. `python -m experiments.run NAME` makes the last two."""
