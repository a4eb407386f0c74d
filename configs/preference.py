"""Learning from preferences: direct preference optimisation and its relatives, and reward models.

    python -m llm_jax.train --config=configs/preference.py:debug --workdir=/tmp/preference
    python -m llm_jax.train --config=configs/preference.py:dpo --workdir=runs/dpo --init_from=runs/gpt2 \
        --config.data.path=hh-rlhf/train.jsonl.gz --config.data.validation_path=hh-rlhf/test.jsonl.gz
    python -m llm_jax.train --config=configs/preference.py:simpo --workdir=runs/simpo --init_from=models/gpt2 \
        --config.data.tokenizer.name=hub --config.data.tokenizer.path=models/gpt2 --config.data.path=pairs.jsonl

Without a path the pairs are passages of Python's prose, whose true continuation is preferred to one with the same words
in another order. The reference of dpo, ipo and kto is the model as the run starts: start from a trained one with
--init_from, or name another with --config.objective.reference. Rate, batch and beta of `dpo` are those of Rafailov et
al. 2023, appendix B, with AdamW for RMSprop; those of the others are of that order and are worth a sweep.

`debug` and `debug-METHOD` train a small GPT from nothing: its reference is as it was drawn, so that all that its
log-ratios say was learned from the pairs.
"""

from ml_collections import ConfigDict

# argument: (objective, learning rate, batch)
METHODS = {
    "dpo": (dict(name="dpo", loss="sigmoid", beta=0.1), 1e-6, 64),
    "ipo": (dict(name="dpo", loss="ipo", beta=0.1), 1e-6, 64),
    "orpo": (dict(name="orpo", beta=0.1), 5e-6, 64),
    "cpo": (dict(name="cpo", loss="sigmoid", beta=0.1), 1e-6, 64),
    "simpo": (dict(name="cpo", loss="simpo", beta=2.0, gamma=1.0, supervised=0.0), 6e-7, 128),
    "kto": (dict(name="kto", beta=0.1), 5e-7, 128),
    "reward": (dict(name="reward"), 1e-5, 64),
}
ARGUMENTS = ("dpo", "ipo", "orpo", "cpo", "simpo", "kto", "reward", "debug-ipo", "debug-orpo", "debug-cpo",
             "debug-simpo", "debug-kto", "debug-reward", "debug")


def get_config(arg: str = "dpo") -> ConfigDict:
  """arg: dpo, ipo, orpo, cpo, simpo, kto or reward; debug (of dpo), debug-ipo, debug-orpo, debug-cpo, debug-simpo,
  debug-kto or debug-reward."""
  size, _, method = arg.rpartition("-")
  small, method = "debug" in (size, method), "dpo" if method == "debug" else method
  objective, peak, batch = METHODS[method]
  c = ConfigDict()
  c.model = dict(name="gpt", variant="124m")
  c.objective = dict(objective)
  c.data = dict(name="preferences", form="unpaired" if method == "kto" else "pairs")
  c.optimizer = dict(name="adamw", peak=peak, warmup=150, decay="linear", weight_decay=0.0)
  c.train = dict(steps=2500, batch_size=batch, length=512)
  c.evaluation = dict(every=250)
  c.checkpoint = dict(every=500, best="eval/loss")
  if small:
    c.model = dict(name="gpt", variant="debug")
    c.data.tokenizer = dict(name="sentencepiece", vocab_size=2048)
    c.optimizer = dict(name="adamw", peak=2e-3, warmup=20, decay="linear", weight_decay=0.1)
    c.train = dict(steps=200, batch_size=16, length=128)
    c.evaluation = dict(every=100, batches=16)
    c.checkpoint = dict(every=100)
  if method == "reward":
    c.model.update(head="sequence", labels=1)
  return c


def sweep(add):
  """How far the policy may go from the reference."""
  for beta in (0.03, 0.1, 0.3):
    add({"objective.beta": beta})
