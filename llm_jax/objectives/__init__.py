"""What is learned: each file turns a batch and a model's outputs into losses per target with their weights."""
