"""Word language models with LSTMs: Zaremba et al. 2014 on the Penn Treebank, for whoever has it.

    python -m llm_jax.train --config=configs/lstm.py:debug --workdir=/tmp/lstm
    python -m llm_jax.train --config=configs/lstm.py --workdir=runs/ptb --config.data.name=text_folder \
        --config.data.path=PTB/ptb.train.txt --config.data.validation_path=PTB/ptb.valid.txt
    python -m llm_jax.train --config=configs/lstm.py:zaremba-medium --workdir=runs/ptb_medium ...

The small network (2 layers of 200, 20 steps, batch 20, SGD with rate 1 halved every epoch after the fourth, clipping at
5, 13 epochs) has no dropout; published: 114.5 perplexity on the test set. The state goes on from batch to batch, in
training and in evaluation: data packing 'stream'. The text is one stream of words with ends of lines as words, 10,000
of them; an epoch of the treebank's 929,589 is 2,323 batches. The loss is a mean per word where Zaremba's is a sum over
20 steps, so the rate of 1 is 20 here and the norm of 5 is 0.25.

The default data is the embedded text, so that the config can be tried without the treebank.
"""

from ml_collections import ConfigDict

EPOCH = 929_589 // (20 * 20)


def get_config(arg: str = "zaremba-small") -> ConfigDict:
  """arg: zaremba-small, zaremba-medium, gal-medium ... (llm_jax/models/lstm.py), 'debug', or 'debug-gru'."""
  c = ConfigDict()
  c.model = dict(name="lstm", variant=arg)
  c.data = dict(name="stdlib", mixture="proportional", packing="stream", document_boundaries=False, bos=False,
                eod=False, tokenizer=dict(name="words", vocab_size=10_000))
  # epochs, of which the last so many are halved; rate per summed step
  length, epochs, falling = (20, 13, 9) if arg == "zaremba-small" else (35, 39, 33)
  c.optimizer = dict(name="sgd", momentum=0.0, peak=float(length), decay="halve", cooldown=falling / epochs,
                     halvings=falling, clip=5.0 / length)
  c.train = dict(steps=epochs * EPOCH * 20 // length, batch_size=20, length=length)
  c.evaluation = dict(every=EPOCH)
  c.checkpoint = dict(every=EPOCH)
  if arg.startswith("debug"):
    c.model = dict(name="lstm", variant="debug", cell="gru" if arg == "debug-gru" else "lstm")
    c.data = dict(name="stdlib", domains=("prose",), mixture="proportional", packing="stream",
                  document_boundaries=False, bos=False,
                  tokenizer=dict(name="words", vocab_size=1_000, special=("eod",)))
    c.optimizer = dict(name="adamw", peak=5e-3, warmup=20, decay="linear", weight_decay=0.0)
    c.train = dict(steps=1000, batch_size=16, length=32)
    c.evaluation = dict(every=100, batches=20)
    c.checkpoint = dict(every=100)
  return c


def sweep(add):
  """Dropout, per token or one mask for a row."""
  for rate in (0.0, 0.2, 0.5):
    for variational in (False, True):
      add({"model.dropout": rate, "model.variational": variational})
