"""Parameter-efficient fine-tuning: a model becomes itself with a few more parameters, which alone are trained."""
