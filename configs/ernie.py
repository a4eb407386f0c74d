"""ERNIE of Baidu: phrases and entities are masked whole, and the relation of two texts is learned beside them.

    python -m llm_jax.train --config=configs/ernie.py:debug --workdir=/tmp/ernie
    python -m llm_jax.train --config=configs/ernie.py:3.0-base --workdir=runs/ernie --config.mesh.fsdp=-1 \
        --config.data.text.name=text_folder --config.data.text.path=/data/books

Phrases are learned from the training text, or read from a file (--config.data.lexicon=entities.txt; Sun et al. 2019,
section 3.2). The recipe is that of Sun et al. 2020, section 4.1 (Adam 5e-5, warm-up over 4,000 steps). The default text
is the embedded one, so that every size can be tried; it is far too small for a real run.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "3.0-base") -> ConfigDict:
  """arg: a size of llm_jax/models/ernie.py; 'debug' trains on a laptop in two minutes."""
  c = ConfigDict()
  c.model = dict(name="ernie", variant=arg, head="pretraining", dtype="bfloat16", dropout=0.1, remat="split")
  c.data = dict(name="phrases",
                text=dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000)))
  c.objective = dict(name="bert_pretraining", unit="phrase",
                     relation="next_sentence" if arg == "1.0" else "sentence_order")
  c.optimizer = dict(name="adamw", peak=5e-5, warmup=4_000, decay="linear", b2=0.98, eps=1e-6, weight_decay=0.01)
  c.train = dict(steps=1_000_000, batch_size=512, length=512)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=1_000, batches=50)
  c.checkpoint = dict(every=1_000)
  if arg == "debug":
    c.model = dict(name="ernie", variant="debug", head="pretraining", scan=False)
    c.data.text.tokenizer = dict(name="bytes")
    c.optimizer = dict(name="adamw", peak=3e-3, warmup=50, decay="linear", b2=0.98, eps=1e-6, weight_decay=0.01)
    c.train = dict(steps=600, batch_size=16, length=128)
    c.evaluation = dict(every=200, batches=8)
    c.checkpoint = dict(every=200)
  return c


def sweep(add):
  """What is masked as a whole."""
  for unit in ("token", "word", "phrase"):
    add({"objective.unit": unit})
