"""T5ForConditionalGeneration of transformers, the peer of the training benchmark for T5 shapes: eager or torch.compile,
fused AdamW, fused attention, no dropout; every token of the target counts."""

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
  config = transformers.T5Config(
      vocab_size=spec["vocab"], d_model=spec["width"], num_layers=spec["depth"], num_heads=spec["heads"],
      d_ff=4 * spec["width"], dropout_rate=0.0, use_cache=False, decoder_start_token_id=0)
  model = transformers.T5ForConditionalGeneration._from_config(config, attn_implementation="sdpa").train()
  draw = lambda length: torch.randint(1, spec["vocab"], (spec["batch"], length))
  ids, labels = draw(spec["length"]), draw(spec["written"])
  mask = torch.ones_like(ids)  # ours has one too
  return stepper(model, lambda ids, mask, labels: model(input_ids=ids, attention_mask=mask, labels=labels).loss,
                 (ids, mask, labels), spec)


if __name__ == "__main__":
  worker.serve(make_step(SPEC), {"torch": torch.__version__, "transformers": transformers.__version__})
