"""Llama, Mistral, Mixtral, Qwen and Gemma sizes.

    python -m llm_jax.train --config=configs/decoder.py:debug --workdir=/tmp/llama
    python -m llm_jax.train --config=configs/decoder.py:llama3.2-1b --workdir=runs/llama \
        --config.data.name=text_folder --config.data.path=/data/books
    python -m llm_jax.train --config=configs/decoder.py:qwen3-0.6b --workdir=runs/tuned --init_from=/models/Qwen3-0.6B
    python -m llm_jax.train --config=configs/decoder.py:mixtral-8x7b --workdir=runs/mixtral --config.mesh.fsdp=-1

The default text is the embedded one, so that every size can be tried.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "llama3.2-1b") -> ConfigDict:
  """arg: a size of llm_jax/models/decoder.py; 'debug' and 'debug-FAMILY' run on a laptop in seconds."""
  c = ConfigDict()
  c.model = dict(name="decoder", variant=arg, dtype="bfloat16", remat="split")
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000))
  c.objective = dict(name="causal_lm", z_loss=1e-4)
  c.optimizer = dict(name="adamw", peak=3e-4, warmup=2_000, decay="cosine", b2=0.95, weight_decay=0.1)
  c.train = dict(steps=100_000, batch_size=512, length=4_096)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=1_000, batches=50)
  c.checkpoint = dict(every=1_000)
  if arg.startswith("debug"):
    c.model = dict(name="decoder", variant=arg)
    c.data = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.optimizer.peak, c.optimizer.warmup = 3e-3, 20
    c.train = dict(steps=200, batch_size=8, length=128)
    c.evaluation = dict(every=100, batches=4)
    c.checkpoint = dict(every=100)
  return c


def sweep(add):
  """Learning rate."""
  for peak in (1e-4, 3e-4, 1e-3):
    add({"optimizer.peak": peak})
