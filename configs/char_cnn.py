"""Text classification from characters (Zhang, Zhao and LeCun 2015), as on AG's News.

    python -m llm_jax.train --config=configs/char_cnn.py:debug --workdir=/tmp/char_cnn
    python -m llm_jax.train --config=configs/char_cnn.py:small --workdir=runs/ag_news --config.model.labels=4 \
        --config.data.path=ag_news/train.csv --config.data.validation_path=ag_news/test.csv

The paper's AG's News is a .csv without header: label, title, description. 1014 characters of an alphabet of 70, read
from their end; SGD with momentum 0.9, batch 128, rate 0.01 halved every 3 epochs 10 times. An epoch of its 120,000
texts is 938 batches. The best published network has a test error of 9.51 %, with capital letters and a thesaurus.

Without a path the texts are passages of Python's library, labelled code, docstring or manual.
"""

from ml_collections import ConfigDict

EPOCH = 120_000 // 128 + 1


def get_config(arg: str = "small") -> ConfigDict:
  """arg: small, large or debug."""
  c = ConfigDict()
  c.model = dict(name="char_cnn", variant=arg, labels=4)
  c.data = dict(name="labelled_text", path=None, validation_path=None, header=False, label_column="1",
                text_columns=("2", "3"), reverse=True, tokenizer=dict(name="alphabet"))
  c.objective = dict(name="classification")
  c.optimizer = dict(name="sgd", momentum=0.9, peak=0.01, decay="halve", cooldown=30 * EPOCH, halvings=10, clip=None)
  c.train = dict(steps=33 * EPOCH, batch_size=128, length=1014)
  c.evaluation = dict(every=EPOCH)
  c.checkpoint = dict(every=EPOCH)
  if arg == "debug":
    c.model = dict(name="char_cnn", variant="debug", labels=3)
    c.data = dict(name="labelled_text", reverse=True, tokenizer=dict(name="alphabet"))
    c.optimizer = dict(name="adamw", peak=2e-3, warmup=20, decay="linear", weight_decay=0.0)
    c.train = dict(steps=200, batch_size=32, length=258)
    c.evaluation = dict(every=100, batches=20)
    c.checkpoint = dict(every=100)
  return c


def sweep(add):
  """Learning rate."""
  for peak in (0.003, 0.01, 0.03):
    add({"optimizer.peak": peak})
