"""Random small configs of T5 and XLNet for generate.py, with inputs for their heads, their states and their texts."""

import random
from typing import Any

import torch
import transformers

VOCAB, ROWS, LENGTH, WRITTEN, LABELS, EOS = 97, 3, 17, 8, 3, 1
SEQUENCE, TOKEN, QUESTION, CHOICE = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", \
    "ForMultipleChoice"


def labels(head: str) -> int:
  return 2 if head.startswith(QUESTION) else LABELS


def t5(r: random.Random) -> tuple[str, Any]:
  head = r.choice(["ForConditionalGeneration", "ForConditionalGeneration", SEQUENCE, TOKEN, QUESTION, "EncoderModel"])
  return f"T5{head}", transformers.T5Config(
      vocab_size=VOCAB, d_model=r.choice([24, 36]), d_kv=r.choice([6, 10]), d_ff=r.choice([20, 44]),
      num_layers=r.choice([1, 2, 3]), num_decoder_layers=r.choice([None, 1, 2, 3]), num_heads=r.choice([2, 3]),
      relative_attention_num_buckets=r.choice([4, 8, 12, 32]), relative_attention_max_distance=r.choice([17, 20, 128]),
      layer_norm_epsilon=r.choice([1e-6, 1e-3]), tie_word_embeddings=r.choice([True, False]), num_labels=labels(head),
      feed_forward_proj=r.choice(["relu", "gelu", "silu", "gated-gelu", "gated-silu", "gated-relu"]),
      pad_token_id=0, eos_token_id=EOS, decoder_start_token_id=r.choice([0, 2]))


def xlnet(r: random.Random) -> tuple[str, Any]:
  head = r.choice(["LMHeadModel"] * 4 + [SEQUENCE, TOKEN, f"{QUESTION}Simple", CHOICE, "Model"])
  heads = r.choice([1, 2, 3])
  return f"XLNet{head}", transformers.XLNetConfig(
      vocab_size=VOCAB, d_model=heads * r.choice([8, 12]), n_layer=r.choice([1, 2, 3]), n_head=heads,
      d_inner=r.choice([20, 44]), ff_activation=r.choice(["gelu", "relu", "silu", "gelu_new"]),
      layer_norm_eps=r.choice([1e-12, 1e-3]), attn_type=r.choice(["bi", "bi", "uni"]), clamp_len=r.choice([-1, 4]),
      same_length=r.choice([True, False]), bi_data=head == "LMHeadModel" and r.random() < 0.3,
      mem_len=r.choice([None, 5]), reuse_len=r.choice([None, 7]), use_mems_eval=r.choice([True, False]),
      tie_word_embeddings=r.choice([True, True, False]), summary_type=r.choice(["last", "first", "mean", "cls_index"]),
      summary_use_proj=r.choice([True, True, False]), summary_activation=r.choice(["tanh", "relu"]),
      num_labels=labels(head))


FAMILIES = {f.__name__: f for f in (t5, xlnet)}


def inputs_for(architecture: str, config: Any) -> dict[str, torch.Tensor]:
  """Rows of unequal length and targets; XLNet's language model predicts after an earlier segment, in an order."""
  rows = 2 if getattr(config, "bi_data", False) else ROWS
  mask = (torch.arange(LENGTH) < torch.tensor([[LENGTH], [11], [6]])).long()[:rows]
  if architecture.endswith(CHOICE):
    mask = torch.stack([mask, mask.flip(0)], 1)
  ids = torch.randint(6, VOCAB, mask.shape).masked_fill(mask == 0, config.pad_token_id)
  found = dict(input_ids=ids, attention_mask=mask)
  if architecture == f"T5{SEQUENCE}":
    ids[torch.arange(rows), mask.sum(-1) - 1] = EOS
  if architecture.startswith("XLNet"):
    found["token_type_ids"] = torch.randint(0, 2, mask.shape)
  if architecture == "XLNetLMHeadModel":
    found |= permuted(rows) | dict(first_ids=torch.randint(6, VOCAB, (rows, 9)))
  elif architecture.endswith("ForConditionalGeneration"):
    written = torch.randint(6, VOCAB, (rows, WRITTEN))
    found["labels"] = written.masked_fill(torch.arange(WRITTEN) >= torch.tensor([[8], [5], [3]]), -100)
  elif architecture.endswith(TOKEN):
    found["labels"] = torch.randint(0, LABELS, mask.shape).masked_fill(mask == 0, -100)
  elif architecture.endswith((SEQUENCE, CHOICE)):
    found["labels"] = torch.randint(0, 2, (rows,))
  elif QUESTION in architecture:
    found |= dict(start_positions=torch.tensor([3, 1, 0]), end_positions=torch.tensor([9, 10, 4]))
  if getattr(config, "attn_type", "bi") == "uni":  # the reference cannot add a mask of rows to the one of the past
    found = {name: array for name, array in found.items() if name not in ("attention_mask", "perm_mask")}
  return found


def permuted(rows: int) -> dict[str, torch.Tensor]:
  """Three of the first six tokens are predicted, one after the other in a random order."""
  perm, mapping = torch.zeros(rows, LENGTH, LENGTH), torch.zeros(rows, 3, LENGTH)
  for row in range(rows):
    chosen = torch.randperm(6)[:3]
    rank = torch.zeros(LENGTH, dtype=torch.long)
    rank[chosen] = torch.arange(1, 4)
    perm[row] = ((rank[None] > 0) & (rank[None] >= rank[:, None])).float()
    mapping[row, torch.arange(3), chosen.sort().values] = 1.0
  return dict(perm_mask=perm, target_mapping=mapping, labels=torch.randint(6, VOCAB, (rows, 3)))


@torch.no_grad()
def tuned(model: torch.nn.Module) -> None:
  """Queries of T5, whose scores are not divided, and XLNet's (width, heads, head width) at a fitting size; of half of
  T5's models whose output is not scaled the head is its own, as in the published version 1.1."""
  for name, p in model.named_parameters():
    if name.endswith(("SelfAttention.q.weight", "EncDecAttention.q.weight")):
      p.mul_(0.4)
    if "rel_attn" in name and p.dim() == 3 and "seg_embed" not in name:
      p.copy_(1.2 * torch.randn(p.shape) / p.shape[0] ** 0.5)
  own_head = model.config.model_type == "t5" and not model.config.scale_decoder_outputs and model.config.d_kv == 6
  if own_head and hasattr(model, "lm_head"):
    model.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn(VOCAB, model.config.d_model))
    model.all_tied_weights_keys.pop("lm_head.weight", None)


def run(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
  """The model's output with all states; an earlier segment, where there is one, is run first and remembered."""
  inputs = dict(inputs)
  first = inputs.pop("first_ids", None)
  if first is None:
    return model(**inputs, output_hidden_states=True)
  with torch.no_grad():
    mems = model(first, use_mems=True).mems
  return model(**inputs, mems=mems, use_mems=True, output_hidden_states=True)


def written(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
  """Greedy text of an encoder-decoder, where no step is nearly a tie; the reference's cache has as many layers as the
  encoder, so that it is not used."""
  out = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, max_new_tokens=8,
                       num_beams=1, use_cache=False, output_logits=True, return_dict_in_generate=True)
  best = torch.stack(out.logits).topk(2, -1).values
  return {"generate.encoder.ids": out.sequences} if (best[..., 0] - best[..., 1]).min() > 1e-3 else {}
