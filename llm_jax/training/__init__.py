"""Training: the step, the loop, checkpoints, metrics, the progress bar and the report."""
