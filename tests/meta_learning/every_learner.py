"""Every learner as one config line over episodes of text: for a decoder, an encoder with masks, and an LSTM."""

import pathlib

import numpy as np

INNER = dict(inner_steps=2, inner_lr=0.05)
ADAPTED = "bias$"  # what CAVIA sets to zero for every task
LEARNERS = {name: dict(name=name, **INNER) for name in (
    "maml", "fomaml", "reptile", "meta_sgd", "maml_plus_plus", "imaml")} | {
        "anil": dict(name="anil", adapt="norm|head", **INNER), "cavia": dict(name="cavia", adapt=ADAPTED, **INNER),
        "reweight": dict(name="reweight"), "meta_weight_net": dict(name="meta_weight_net", hidden=4),
        "mixed": dict(name="mixed", meta=dict(name="maml", **INNER)), "none": dict(name="none")}
MODELS = {"gpt": (dict(name="gpt", variant="debug", width=16, depth=2, heads=2), "causal_lm"),
          "bert": (dict(name="bert", variant="debug", width=16, depth=2, heads=2, head="lm"), "masked_lm"),
          "lstm": (dict(name="lstm", variant="debug", embedding=16, hidden=16, depth=1), "causal_lm")}
SPECIAL = ("eod", "pad", "cls", "sep", "mask")


def write_classes(folder: pathlib.Path, classes: int = 4, documents: int = 24) -> pathlib.Path:
  """Documents of `classes` classes, each of its own letters, as subfolders."""
  random = np.random.default_rng(0)
  for c in range(classes):
    (folder / f"class{c}").mkdir(parents=True)
    for i in range(documents):
      letters = random.choice(list("abcdefgh"[2 * c:2 * c + 2] + " "), 40)
      (folder / f"class{c}" / f"{i:02d}.txt").write_text("".join(letters))
  return folder


def config(folder: pathlib.Path, model: str, learner: str, **changes):
  """A run of 4 steps on 2 x 2 x 2 devices, in two micro-batches, computed in bfloat16."""
  network, objective = MODELS[model]
  text = dict(name="text_folder", path=str(folder), tokenizer=dict(name="bytes", special=SPECIAL),
              validation_fraction=0.25, split="documents")
  episodes = dict(name="labelled_episodes", text=text, ways=2, shots=2, query=2, held_out=0.0, eval_tasks=8)
  if learner == "mixed":
    episodes = dict(name="masked_words", text=text, tasks=4, ways=2, shots=2, query=2, eval_tasks=8)
  data = text if learner == "none" else episodes
  found = dict(
      model=network | dict(dtype="bfloat16"), data=data, objective=dict(name=objective),
      meta_learning=LEARNERS[learner], optimizer=dict(name="adamw", peak=1e-2, decay="constant"),
      train=dict(steps=4, batch_size=8, length=24, accumulate=2), mesh=dict(data=2, fsdp=2, tensor=2),
      evaluation=dict(every=2, batches=1, batch_size=8), checkpoint=dict(every=2, keep=None),
      log=dict(every=1, tensorboard=False, report=False))
  return found | changes
