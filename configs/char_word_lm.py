"""A word language model that reads characters (Kim et al. 2016): convolutions, a highway layer, an LSTM.

    python -m llm_jax.train --config=configs/char_word_lm.py:debug --workdir=/tmp/char_word
    python -m llm_jax.train --config=configs/char_word_lm.py:small --workdir=runs/kim --config.data.name=text_folder \
        --config.data.path=PTB/ptb.train.txt --config.data.validation_path=PTB/ptb.valid.txt

Published test perplexity on the Penn Treebank: 92.3 (small), 78.9 (large), after 25 epochs of SGD with rate 1 on the
sum over 35 words, batch 20, clipped at 5. There the rate is halved when validation no longer improves; here it is
halved in each of the last 10 epochs.
"""

from ml_collections import ConfigDict

EPOCH = 929_589 // (20 * 35)


def get_config(arg: str = "small") -> ConfigDict:
  """arg: small, large or debug."""
  c = ConfigDict()
  c.model = dict(name="char_word_lm", variant=arg)
  c.objective = dict(name="spelled_lm", longest=65)
  c.data = dict(name="stdlib", mixture="proportional", packing="stream", document_boundaries=False, bos=False,
                eod=False, tokenizer=dict(name="words", vocab_size=10_000))
  c.optimizer = dict(name="sgd", momentum=0.0, peak=35.0, decay="halve", cooldown=10 / 25, halvings=10, clip=5.0 / 35)
  c.train = dict(steps=25 * EPOCH, batch_size=20, length=35)
  c.evaluation = dict(every=EPOCH)
  c.checkpoint = dict(every=EPOCH)
  c.sample = dict(every=0)
  if arg == "debug":
    c.model = dict(name="char_word_lm", variant="debug")
    c.objective = dict(name="spelled_lm", longest=12)
    c.data = dict(name="stdlib", domains=("prose",), mixture="proportional", packing="stream",
                  document_boundaries=False, bos=False,
                  tokenizer=dict(name="words", vocab_size=1_000, special=("eod",)))
    c.optimizer = dict(name="adamw", peak=1e-2, warmup=20, decay="linear", weight_decay=0.0)
    c.train = dict(steps=600, batch_size=32, length=24)
    c.evaluation = dict(every=50, batches=10)
    c.checkpoint = dict(every=50)
  return c


def sweep(add):
  """Dropout."""
  for rate in (0.0, 0.25, 0.5):
    add({"model.dropout": rate})
