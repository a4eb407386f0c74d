"""Starting a run: processes on this machine, under supervision, on a TPU slice, through SLURM, on Kubernetes.

Each file is a door of its own (`python -m experiments.launch.local ...`) and with `--print` shows what it would run
instead of running it. What follows `--` are the arguments of `python -m llm_jax.train`.
"""
