"""A small GPT trained to learn in context: rows of labelled examples of a task and a query (MetaICL: Min et al. 2022).

    python -m llm_jax.train --config=configs/metaicl.py --workdir=runs/metaicl
    python -m llm_jax.train --config=configs/metaicl.py:channel --workdir=runs/metaicl_channel
    python -m llm_jax.train --config=configs/metaicl.py:debug --workdir=/tmp/debug
    python -m llm_jax.evaluate --workdir=runs/metaicl --seeds=5     # 0, 1 and 4 shots, in context and by gradient

The tasks are made from the text itself (which word was masked?). Labelled text of one's own, a class per subfolder or,
in .jsonl and .parquet, per value of a column:

    --config.data.name=labelled_episodes --config.data.text="dict(name='text_folder', path='reviews')"
    --config.data.text="dict(name='text_folder', path='reviews.jsonl', domain_column='label')"
"""

from ml_collections import ConfigDict

ARGUMENTS = ("channel", "grow", "debug")


def get_config(arg: str = "") -> ConfigDict:
  """arg: 'channel' predicts the passage from the label, 'grow' starts with one example, 'debug' runs in seconds."""
  c = ConfigDict()
  c.model = dict(name="gpt", variant="124m", width=192, depth=4, heads=6)
  c.data = dict(name="masked_words", form="in_context", channel=arg == "channel", ways=2, shots=4, query=4,
                text=dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=4096)))
  c.optimizer = dict(name="adamw", peak=3e-3, warmup=100, decay="cosine", b2=0.99, weight_decay=0.1)
  c.train = dict(steps=3000, batch_size=16, length=256)
  c.evaluation = dict(every=500, batches=20)
  c.adaptation = dict(lr=0.1, steps=(0, 1, 5))
  c.checkpoint = dict(every=500)
  if arg == "grow":
    c.curriculum = dict(name="knobs", until=0.5, knobs={"k_shot": dict(start=1, end=4, whole=True)})
  if arg == "debug":
    c.model = dict(name="gpt", variant="debug")
    c.data.text, c.data.eval_tasks = dict(name="stdlib", tokenizer=dict(name="bytes")), 16
    c.optimizer.warmup = 5
    c.train = dict(steps=20, batch_size=8, length=128)
    c.evaluation = dict(every=10, batches=2)
    c.checkpoint = dict(every=10)
  return c


def sweep(add):
  """Direct and channel, and how many examples are shown."""
  for channel in (False, True):
    for shots in (1, 4):
      add({"data.channel": channel, "data.shots": shots})
