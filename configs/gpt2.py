"""GPT-2 and GPT-3 sizes.

    python -m llm_jax.train --config=configs/gpt2.py:debug --workdir=/tmp/gpt2
    python -m llm_jax.train --config=configs/gpt2.py:124m --workdir=runs/gpt2 \
        --config.data.name=text_folder --config.data.path=/data/openwebtext
    python -m llm_jax.train --config=configs/gpt2.py:gpt3-1.3b --workdir=runs/gpt3 --config.mesh.fsdp=-1
    python -m llm_jax.train --config=configs/gpt2.py:distilgpt2 --workdir=runs/distilgpt2 \
        --config.objective.teacher=runs/gpt2
    python -m llm_jax.train --config=configs/gpt2.py:debug --workdir=/tmp/student --config.model.depth=1 \
        --config.objective.name=causal_distillation --config.objective.teacher=/tmp/gpt2

The 124M recipe is nanoGPT's reproduction: 0.5M tokens a step, AdamW 6e-4, cosine to a tenth over 600,000 steps.
distilgpt2 is the 124M with half its layers, which learns from what the whole one says as well (Hinton et al. 2015). The
default text is the embedded one, so that every size can be tried; it is far too small for a real run.
"""

from ml_collections import ConfigDict

# Peak learning rates: Brown et al. 2020, table 2.1; GPT-2's were not published and take those of the nearest size.
PEAK = {"124m": 6e-4, "distilgpt2": 6e-4, "355m": 3e-4, "774m": 2.5e-4, "1.5b": 2e-4, "gpt1": 2.5e-4,
        "gpt3-125m": 6e-4, "gpt3-350m": 3e-4, "gpt3-760m": 2.5e-4, "gpt3-1.3b": 2e-4, "gpt3-2.7b": 1.6e-4,
        "gpt3-6.7b": 1.2e-4, "gpt3-13b": 1e-4, "gpt3-175b": 6e-5}


def get_config(arg: str = "124m") -> ConfigDict:
  """arg: 'debug', 'distilgpt2', or a size of llm_jax/models/gpt.py."""
  c = ConfigDict()
  length = 2048 if arg.startswith("gpt3") else 512 if arg == "gpt1" else 1024
  c.model = dict(name="gpt", variant=arg, dtype="bfloat16", remat="split")
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000))
  c.optimizer = dict(name="adamw", peak=PEAK.get(arg, 1e-3), warmup=2_000, decay="cosine", b2=0.95, weight_decay=0.1)
  c.train = dict(steps=600_000, batch_size=(1 << 19) // length, length=length)
  c.mesh = dict(data=1, fsdp=-1)
  if arg == "distilgpt2":
    c.model.update(variant="124m", depth=6)
    c.objective = dict(name="causal_distillation", teacher="runs/gpt2")
  if arg in ("124m", "distilgpt2", "gpt1", "gpt3-125m"):  # fit any device: one sum of gradients, no gathering of layers
    c.mesh = dict(data=-1)
    c.train.split_state = True
  c.evaluation = dict(every=1_000, batches=100)
  c.checkpoint = dict(every=1_000)
  c.sample = dict(every=5_000, prompts=["The "])
  if arg == "debug":
    c.model = dict(name="gpt", variant="debug")
    c.data = dict(name="stdlib", tokenizer=dict(name="bytes"))
    c.optimizer.peak, c.optimizer.warmup = 3e-3, 20
    c.train = dict(steps=200, batch_size=8, length=128)
    c.evaluation = dict(every=100, batches=4)
    c.checkpoint = dict(every=100)
    c.sample = dict(every=0)
  return c


def sweep(add):
  """Learning rate around the published one."""
  for factor in (0.5, 1.0, 2.0):
    add({"optimizer.peak": 6e-4 * factor})
