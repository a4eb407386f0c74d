"""Measuring a model: loss, perplexity, bits per byte; later task metrics, few-shot, bias."""
