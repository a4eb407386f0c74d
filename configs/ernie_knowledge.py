"""ERNIE with knowledge (Zhang et al. 2019, Tsinghua): masked words, and which entity each mention means.

    python -m llm_jax.train --config=configs/ernie_knowledge.py:debug --workdir=/tmp/ernie_knowledge
    python -m llm_jax.train --config=configs/ernie_knowledge.py --workdir=runs/ernie_knowledge \
        --config.data.triples=/data/triples.tsv --config.data.names=/data/names.tsv

Without files the graph is that of the Python standard library, which the embedded text is about; its TransE vectors are
trained at the start, once. The published recipe: 512 rows of 256 tokens, one pass over Wikipedia from BERT's weights.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "base") -> ConfigDict:
  """arg: 'base', or 'debug', which trains on a laptop in two minutes."""
  c = ConfigDict()
  c.model = dict(name="ernie_knowledge", variant=arg, dtype="bfloat16", dropout=0.1)
  text = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000))
  c.data = dict(name="knowledge_text", text=text, transe=dict(width=100))
  c.objective = dict(name="mix", parts=[dict(name="masked_lm", unit="word"), dict(name="entity_alignment")])
  c.optimizer = dict(name="adamw", peak=5e-5, warmup=4_000, decay="linear", b2=0.999, eps=1e-6, weight_decay=0.01)
  c.train = dict(steps=40_000, batch_size=512, length=256)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=1_000, batches=50)
  c.checkpoint = dict(every=1_000)
  if arg == "debug":
    c.model = dict(name="ernie_knowledge", variant="debug", scan=False)
    c.data = dict(name="knowledge_text", text=dict(name="stdlib", tokenizer=dict(name="bytes")))
    c.objective = dict(name="mix", parts=[dict(name="masked_lm"), dict(name="entity_alignment")])
    c.optimizer = dict(name="adamw", peak=3e-3, warmup=50, decay="linear", b2=0.98, eps=1e-6, weight_decay=0.01)
    c.train = dict(steps=500, batch_size=16, length=128)
    c.evaluation = dict(every=250, batches=8)
    c.checkpoint = dict(every=250)
  return c


def sweep(add):
  """Shares of alignments that are wrong or gone."""
  for gone in (0.15, 0.5):
    add({"objective.parts": [dict(name="masked_lm"), dict(name="entity_alignment", gone=gone)]})
