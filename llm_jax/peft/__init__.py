"""Parameter-efficient fine-tuning: a model becomes the same model with a few more parameters, which alone are trained."""
