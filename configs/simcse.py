"""Embeddings of rows of text by contrast, without labels: SimCSE (Gao et al. 2021) on BERT, and on a causal model.

    python -m llm_jax.train --config=configs/simcse.py:debug --workdir=/tmp/simcse
    python -m llm_jax.train --config=configs/simcse.py --workdir=runs/simcse --init_from=/models/bert-base-uncased \
        --config.data.name=text_folder --config.data.path=/data/sentences \
        --config.data.tokenizer.name=hub --config.data.tokenizer.path=/models/bert-base-uncased
    python -m llm_jax.train --config=configs/simcse.py:debug-causal --workdir=/tmp/simcse_causal

The published run without labels: BERT-base, a million sentences once, 64 rows of 32 tokens, 3e-5, temperature 0.05,
dropout 0.1, the [CLS] token (through a layer that is thrown away afterwards, which is left out here: the mean over the
tokens is taken instead). The batch is the one that shares negatives. The default text is the embedded one.
"""

from ml_collections import ConfigDict

ARGUMENTS = ("base", "debug", "debug-causal")


def get_config(arg: str = "base") -> ConfigDict:
  """arg: 'base', 'debug' or 'debug-causal'."""
  c = ConfigDict()
  c.model = dict(name="bert", variant="base", head="lm", dropout=0.1)
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000), packing="pad")
  c.objective = dict(name="simcse", form="masked", pooling="mean", temperature=0.05)
  c.optimizer = dict(name="adamw", peak=3e-5, decay="linear", weight_decay=0.0)
  c.train = dict(steps=15_625, batch_size=64, length=32)
  c.evaluation = dict(every=250, batches=20)
  c.checkpoint = dict(every=250)
  if arg.startswith("debug"):
    c.model = dict(name="bert", variant="debug", head="lm", dropout=0.1, scan=False)
    if arg == "debug-causal":
      c.model = dict(name="gpt", variant="debug", dropout=0.1)
      c.objective.form, c.objective.pooling = "causal", "last"
    c.data = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.optimizer = dict(name="adamw", peak=1e-3, warmup=20, decay="linear")
    c.train = dict(steps=200, batch_size=16, length=64)
    c.evaluation = dict(every=100, batches=4)
    c.checkpoint = dict(every=100)
  return c


def sweep(add):
  """Temperature and dropout, the two that the paper varies most."""
  for temperature in (0.02, 0.05, 0.1):
    for dropout in (0.05, 0.1, 0.2):
      add({"objective.temperature": temperature, "model.dropout": dropout})
