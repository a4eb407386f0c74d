"""MAML on a GPT-2 of 124M parameters that fits one 16 GB chip: the inner loop adapts a part of the weights.

    python -m llm_jax.plan --config=configs/maml_gpt2.py --topology=v5e:1x1
    python -m llm_jax.train --config=configs/maml_gpt2.py:lora --workdir=runs/maml_lora --init_from=/models/gpt2
    python -m llm_jax.train --config=configs/maml_gpt2.py:debug --workdir=/tmp/debug

Which of two words was masked here? Each episode has its own pair of words. The outer loop trains all weights ('part')
or the adapters alone ('lora'); second derivatives go through the adapted part only.
"""

from ml_collections import ConfigDict

ARGUMENTS = ("part", "lora", "debug")


def get_config(arg: str = "part") -> ConfigDict:
  """arg: 'part' adapts the value projections, 'lora' adapts LoRA's factors; 'debug' runs in seconds."""
  c = ConfigDict()
  c.model = dict(name="gpt", variant="124m", dtype="bfloat16", remat="full")
  c.data = dict(name="masked_words", text=dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000)),
                tasks=4, ways=2, shots=4, query=4)
  c.meta_learning = dict(name="maml", inner_steps=3, inner_lr=0.05, adapt=r"attention\.value")
  c.optimizer = dict(name="adamw", peak=1e-4, warmup=100, decay="cosine", weight_decay=0.1)
  c.train = dict(steps=2_000, batch_size=4, length=256)
  c.evaluation = dict(every=500, batches=20)
  c.checkpoint = dict(every=500)
  if arg == "lora":
    c.peft = dict(name="lora")
    c.meta_learning.adapt = "lora"
  if arg == "debug":
    c.model = dict(name="gpt", variant="debug")
    c.data.text = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.data.eval_tasks = 16
    c.optimizer.warmup = 5
    c.train = dict(steps=10, batch_size=4, length=64)
    c.evaluation = dict(every=5, batches=2)
    c.checkpoint = dict(every=5)
  return c


def sweep(add):
  """Inner learning rate."""
  for rate in (0.01, 0.05, 0.2):
    add({"meta_learning.inner_lr": rate})
