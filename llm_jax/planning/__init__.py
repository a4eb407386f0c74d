"""What a run needs and takes before it runs: compiled for hardware that is not here, or estimated from shapes."""
