"""NNX blocks that carry logical axis names. The residual stream's dtype is the compute dtype, parameters float32."""
