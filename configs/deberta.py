"""DeBERTa: masked words for versions 1 and 2 and for the encoders of version 3.

    python -m llm_jax.train --config=configs/deberta.py:debug --workdir=/tmp/deberta
    python -m llm_jax.train --config=configs/deberta.py:base --workdir=runs/deberta \
        --config.data.name=text_folder --config.data.path=/data/books --config.mesh.fsdp=-1

The sizes follow He et al. 2021 (2,048 rows of 512 tokens, a million updates, 2e-4). The default text is the embedded
one, so that every size can be tried; it is far too small for a real run.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "base") -> ConfigDict:
  """arg: a size of llm_jax/models/deberta.py; 'debug' trains on a laptop in two minutes."""
  c = ConfigDict()
  c.model = dict(name="deberta", variant=arg, dtype="bfloat16", dropout=0.1, remat="split")
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000))
  c.objective = dict(name="masked_lm", unit="word")
  c.optimizer = dict(name="adamw", peak=2e-4, warmup=10_000, decay="linear", b2=0.999, eps=1e-6, weight_decay=0.01)
  c.train = dict(steps=1_000_000, batch_size=2_048, length=512)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=1_000, batches=50)
  c.checkpoint = dict(every=1_000)
  if arg == "debug":
    c.model = dict(name="deberta", variant="debug")
    c.data = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.objective = dict(name="masked_lm")
    c.optimizer = dict(name="adamw", peak=3e-3, warmup=50, decay="linear", b2=0.98, eps=1e-6, weight_decay=0.01)
    c.train = dict(steps=600, batch_size=16, length=128)
    c.evaluation = dict(every=200, batches=8)
    c.checkpoint = dict(every=200)
  return c


def sweep(add):
  """With and without the mask decoder, at two learning rates."""
  for enhanced_decoder in (True, False):
    for peak in (1e-3, 3e-3):
      add({"optimizer.peak": peak, "model.enhanced_decoder": enhanced_decoder})
