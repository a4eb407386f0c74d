"""BertForMaskedLM of transformers, the peer of the training benchmark for BERT shapes: eager or torch.compile, fused
AdamW, fused attention, no dropout; 15% of the tokens are targets, the others have label -100."""

import os

import worker

if __name__ == "__main__":
  SPEC = worker.read_spec()

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch_gpt2 import stepper


def make_step(spec):
  """One train step -> its loss."""
  torch.set_num_threads(spec["threads"])
  torch.manual_seed(0)
  transformers.logging.set_verbosity_error()
  config = transformers.BertConfig(
      vocab_size=spec["vocab"], hidden_size=spec["width"], num_hidden_layers=spec["depth"],
      num_attention_heads=spec["heads"], intermediate_size=4 * spec["width"], hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0, hidden_act="gelu_new" if spec["gelu"] == "tanh" else "gelu")
  model = transformers.BertForMaskedLM._from_config(config, attn_implementation="sdpa").train()
  words = torch.randint(1, spec["vocab"], (spec["batch"], spec["length"]))
  masked = torch.rand(words.shape) < 0.15
  ids, labels = words.masked_fill(masked, 0), words.masked_fill(~masked, -100)
  return stepper(model, lambda ids, labels: model(input_ids=ids, labels=labels).loss, (ids, labels), spec)


if __name__ == "__main__":
  worker.serve(make_step(SPEC), {"torch": torch.__version__, "transformers": transformers.__version__})
