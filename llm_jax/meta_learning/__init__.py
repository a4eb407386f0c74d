"""Loss schedulers: how a loss becomes a gradient."""
