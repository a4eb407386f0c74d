"""BERT, RoBERTa and DistilBERT sizes, from scratch.

    python -m llm_jax.train --config=configs/bert.py:debug --workdir=/tmp/bert
    python -m llm_jax.train --config=configs/bert.py:base --workdir=runs/bert \
        --config.data.name=text_folder --config.data.path=/data/books --config.mesh.fsdp=-1
    python -m llm_jax.train --config=configs/bert.py:roberta-base --workdir=runs/roberta \
        --config.data.name=text_folder --config.data.path=/data/openwebtext
    python -m llm_jax.train --config=configs/bert.py:distilbert --workdir=runs/distilbert \
        --config.objective.teacher=runs/bert

BERT learns masked tokens and the next sentence (Devlin et al. 2019, appendix A.2: 256 rows of 512 tokens, a million
updates, Adam 1e-4); RoBERTa masked tokens alone, in larger batches (Liu et al. 2019, table 9); DistilBERT masked tokens
and what a BERT says of the same rows (Sanh et al. 2019), and may start from its layers (llm_jax/models/distilled.py).
The default text is the embedded one, so that every size can be tried; it is far too small for a real run.
"""

from ml_collections import ConfigDict

# (peak learning rate, steps, batch, second moment's decay, warmup): Devlin et al. 2019, A.2; Liu et al. 2019, table 9.
BERT = (1e-4, 1_000_000, 256, 0.999, 10_000)
RECIPES = {"roberta-base": (6e-4, 500_000, 8_192, 0.98, 24_000), "roberta-large": (4e-4, 500_000, 8_192, 0.98, 30_000),
           "distilbert": (5e-4, 100_000, 4_096, 0.98, 5_000)}  # Sanh et al. give the batch only


def get_config(arg: str = "base") -> ConfigDict:
  """arg: a size of llm_jax/models/bert.py; 'debug', 'debug-roberta' and 'debug-distilbert' train on a laptop."""
  c = ConfigDict()
  pairs = "bert" not in arg  # only BERT's own sizes learn the next sentence
  peak, steps, batch, b2, warmup = RECIPES.get(arg, BERT)
  c.model = dict(name="bert", variant=arg, head="pretraining" if pairs else "lm", dtype="bfloat16", dropout=0.1,
                 remat="split")
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000))
  c.objective = dict(name="bert_pretraining" if pairs else "masked_lm")
  if arg == "distilbert":
    c.objective = dict(name="distillation", teacher="runs/bert")
  c.optimizer = dict(name="adamw", peak=peak, warmup=warmup, decay="linear", b2=b2, eps=1e-6, weight_decay=0.01)
  c.train = dict(steps=steps, batch_size=batch, length=512)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=1_000, batches=50)
  c.checkpoint = dict(every=1_000)
  if arg.startswith("debug"):
    c.model = dict(name="bert", variant=arg, head=c.model.head, scan=False)
    c.data = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.optimizer = dict(name="adamw", peak=3e-3, warmup=50, decay="linear", b2=0.98, eps=1e-6, weight_decay=0.01)
    c.train = dict(steps=600, batch_size=16, length=128)
    c.evaluation = dict(every=200, batches=8)
    c.checkpoint = dict(every=200)
  return c


def sweep(add):
  """Learning rate, with and without the next sentence."""
  for peak in (1e-3, 3e-3):
    for head, objective in (("pretraining", "bert_pretraining"), ("lm", "masked_lm")):
      add({"optimizer.peak": peak, "model.head": head, "objective.name": objective})
