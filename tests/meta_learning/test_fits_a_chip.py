"""Second order on a 124M GPT-2 fits one chip of 16 GB: the real step, compiled for an absent TPU v5e."""

import importlib.util

import pytest

from llm_jax import plan
from llm_jax.core import config as configs
from llm_jax.planning import topology

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'llm_jax[plan]'")


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("adapted, most", [("part", 9), ("lora", 3)])  # by a regular expression, LoRA's factors; GiB
def test_maml_on_124m_parameters_fits_one_v5e(adapted, most):
  """'part' trains all weights: 8.3 GiB when this was written; 'lora' its adapters alone: 2.6 GiB."""
  config = configs.load_file(f"configs/maml_gpt2.py:{adapted}")
  assert config["meta_learning"]["name"] == "maml" and config["meta_learning"].get("order", 2) == 2
  found = plan.planned(config, topology.parse("v5e:1x1"))
  assert found["parameters"] > 1e8
  assert found["memory"]["fits"] and found["memory"]["peak"] < most * 2**30, found["memory"]
