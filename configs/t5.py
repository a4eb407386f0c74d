"""T5 sizes, version 1.0 and 1.1, from scratch.

    python -m llm_jax.train --config=configs/t5.py:debug --workdir=/tmp/t5
    python -m llm_jax.train --config=configs/t5.py:debug-ul2 --workdir=/tmp/ul2
    python -m llm_jax.train --config=configs/t5.py:v1.1-base --workdir=runs/t5 \
        --config.data.name=text_folder --config.data.path=/data/c4 --config.mesh.fsdp=-1
    python -m llm_jax.generate --workdir=/tmp/t5 --prompt="In the beginning God created the heaven"

Span corruption with 15% of the tokens in spans of three (Raffel et al. 2020, section 3.1): 2^19 updates of 128 rows of
512 tokens by AdaFactor, whose rate is 0.01 for 10,000 updates and then falls with the square root of their number;
'-ul2' behind a size learns the mixture of denoisers (Tay et al. 2023) instead. The paper pre-trains with dropout 0.1 in
version 1.0 and without in 1.1. The default text is the embedded one, so that every size can be tried; it is far too
small for a real run.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "small") -> ConfigDict:
  """arg: a size of llm_jax/models/t5.py, with '-ul2' behind it for UL2; 'debug' trains on a laptop."""
  c = ConfigDict()
  variant = arg.removesuffix("-ul2")
  c.model = dict(name="t5", variant=variant, dtype="bfloat16", dropout=0.0 if "v1.1" in variant else 0.1,
                 remat="none" if variant.endswith("small") else "split")
  c.data = dict(name="stdlib", tokenizer=dict(name="sentencepiece", vocab_size=32_000, sentinels=100))
  c.objective = dict(name="ul2" if arg.endswith("-ul2") else "span_corruption")
  c.optimizer = dict(name="adafactor", peak=1e-2, warmup=10_000, decay="rsqrt")
  c.train = dict(steps=1 << 19, batch_size=128, length=512)
  c.mesh = dict(data=1, fsdp=-1)
  c.evaluation = dict(every=1_000, batches=50)
  c.checkpoint = dict(every=1_000)
  if variant.startswith("debug"):
    c.model = dict(name="t5", variant=variant, scan=False)
    c.data = dict(name="stdlib", tokenizer=dict(name="bytes", sentinels=40))
    c.optimizer = dict(name="adamw", peak=1e-3, warmup=50, decay="cosine", b2=0.98, weight_decay=0.01)
    c.train = dict(steps=600, batch_size=16, length=128)
    c.evaluation = dict(every=200, batches=8)
    c.checkpoint = dict(every=200)
  return c


def sweep(add):
  """Learning rate, and the two ways to corrupt."""
  for objective in ("span_corruption", "ul2"):
    for peak in (1e-3, 3e-3):
      add({"optimizer.peak": peak, "objective.name": objective})
