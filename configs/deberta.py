"""DeBERTa: masked words for versions 1 and 2, replaced tokens for version 3.

    python -m llm_jax.train --config=configs/deberta.py:debug --workdir=/tmp/deberta
    python -m llm_jax.train --config=configs/deberta.py:debug-v3 --workdir=/tmp/deberta3
    python -m llm_jax.train --config=configs/deberta.py:v3-base --workdir=runs/deberta \
        --config.data.name=text_folder --config.data.path=/data/books --config.mesh.fsdp=-1

Version 1 follows He et al. 2021 (2,048 rows of 512 tokens, a million updates, 2e-4), version 3 He, Gao and Chen 2023
(8,192 rows, half a million updates). The default text is the embedded one, so that every size can be tried; it is far
too small for a real run.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "base") -> ConfigDict:
  """arg: a size of llm_jax/models/deberta.py, those of version 3 as pairs; 'debug' and 'debug-v3' take two minutes."""
  c = ConfigDict()
  debug, pair = arg.startswith("debug"), "v3" in arg
  size = "debug" if debug else arg.removeprefix("v3-") if pair else arg
  c.model = dict(name="deberta_pair" if pair else "deberta", variant=size)
  if debug:
    c.model.scan = False
    c.data = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.objective = dict(name="replaced_token") if pair else dict(name="masked_lm")
    c.optimizer = dict(name="adamw", peak=3e-3, warmup=50, decay="linear", b2=0.98, eps=1e-6, weight_decay=0.01)
    c.train = dict(steps=400 if pair else 600, batch_size=16, length=128)
    c.evaluation = dict(every=200, batches=8)
    c.checkpoint = dict(every=200)
    return c
  c.model.update(dtype="bfloat16", dropout=0.1, remat="split")
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000))
  c.objective = dict(name="replaced_token" if pair else "masked_lm", unit="word")
  c.optimizer = dict(name="adamw", peak=5e-4 if pair else 2e-4, warmup=10_000, decay="linear",
                     b2=0.98 if pair else 0.999, eps=1e-6, weight_decay=0.01)
  c.train = dict(steps=500_000 if pair else 1_000_000, batch_size=8_192 if pair else 2_048, length=512)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=1_000, batches=50)
  c.checkpoint = dict(every=1_000)
  return c


def sweep(add):
  """With and without the mask decoder, at two learning rates."""
  for enhanced_decoder in (True, False):
    for peak in (1e-3, 3e-3):
      add({"optimizer.peak": peak, "model.enhanced_decoder": enhanced_decoder})
