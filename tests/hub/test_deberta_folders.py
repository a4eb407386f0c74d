"""Folders of Microsoft's own release: no class in config.json, and every head of pre-training in one file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import hub
from llm_jax.models import deberta
from llm_jax.models.deberta_config import DebertaConfig

SIZES = dict(vocab_size=23, positions=16, width=16, heads=2, hidden=24, depth=2, buckets=6, shared=True,
             relative_norm=True)
WITH = {"masked": dict(enhanced_decoder=True), "plain": dict(), "replaced": dict(head="replaced")}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
  """(folder, {what: (model, parameters)}): one encoder with the heads and positions of generator and discriminator."""
  folder = tmp_path_factory.mktemp("released")
  draw, shared, models, tensors = np.random.default_rng(0), {}, {}, {}
  for what, changes in WITH.items():
    model = deberta.from_config(DebertaConfig(**SIZES | changes))
    params = {n: shared.setdefault(n, draw.normal(size=s.shape).astype(np.float32)) for n, s in model.shapes.items()}
    models[what] = model, params
    hub.save(folder / what, model, params)
    tensors |= load_file(folder / what / "model.safetensors")
  save_file(tensors, folder / "model.safetensors")
  config = json.loads((folder / "plain" / "config.json").read_text())
  said = {k: v for k, v in config.items() if k not in ("architectures", "legacy", "head")}
  (folder / "config.json").write_text(json.dumps(said | dict(pos_att_type="p2c|c2p")))
  return folder, models


@pytest.mark.parametrize("what", WITH)
def test_each_part_of_the_release_can_be_asked_for(released, what):
  folder, models = released
  model, params, _ = hub.load(folder, **WITH[what])
  wanted, want = models[what]
  assert params.keys() == want.keys()
  ids = jax.random.randint(jax.random.key(0), (2, 7), 0, 23)
  positions = jnp.broadcast_to(jnp.arange(7), ids.shape)
  got, expected = (jax.jit(lambda p, m=m: m.apply(p, ids, position_ids=positions).logits)(p)
                   for m, p in ((model, params), (wanted, want)))
  np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_mask_decoder_survives_a_folder_of_our_own(released):
  folder, models = released
  model, params, _ = hub.load(folder / "masked")
  assert model.config.enhanced_decoder
  assert all(np.array_equal(params[n], a) for n, a in models["masked"][1].items())
