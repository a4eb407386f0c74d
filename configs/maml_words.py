"""A small GPT pre-trained on text with meta steps mixed in: which of two words was masked here?

    python -m llm_jax.train --config=configs/maml_words.py --workdir=runs/words
    python -m llm_jax.train --config=configs/maml_words.py:debug --workdir=/tmp/debug
"""

from ml_collections import ConfigDict

ARGUMENTS = ("debug",)


def get_config(arg: str = "") -> ConfigDict:
  """arg: 'debug' runs in seconds."""
  c = ConfigDict()
  c.model = dict(name="gpt", variant="124m", width=192, depth=4, heads=6)
  c.data = dict(name="masked_words", text=dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=4096)),
                tasks=4, ways=2, shots=4, query=4)
  c.meta_learning = dict(name="mixed", probability=0.25, meta=dict(name="fomaml", inner_steps=3, inner_lr=0.1))
  c.optimizer = dict(name="adamw", peak=3e-3, warmup=100, decay="cosine", b2=0.99, weight_decay=0.1)
  c.train = dict(steps=1200, batch_size=16, length=128)
  c.evaluation = dict(every=300, batches=20)
  c.adaptation = dict(steps=(0, 1, 3, 10))
  c.checkpoint = dict(every=300)
  if arg == "debug":
    c.model = dict(name="gpt", variant="debug")
    c.data.text = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.data.eval_tasks = 16
    c.optimizer.warmup = 5
    c.train = dict(steps=20, batch_size=8, length=64)
    c.evaluation = dict(every=10, batches=2)
    c.checkpoint = dict(every=10)
  return c


def sweep(add):
  """How often a meta step is taken."""
  for probability in (0.0, 0.1, 0.25, 0.5):
    add({"meta_learning.probability": probability})
