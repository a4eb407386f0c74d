"""Random small configs of BERT, RoBERTa, DistilBERT, ELECTRA and ERNIE for generate.py, with inputs for their heads."""

import random
from typing import Any

import torch
import transformers

VOCAB, ROWS, LENGTH, LABELS = 97, 3, 17, 3
ACTIVATIONS = ["gelu", "gelu_new", "relu", "silu", "gelu_pytorch_tanh", "quick_gelu"]
HEADS = ["ForMaskedLM", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
         "ForMultipleChoice", "Model"]
PAIRS = [*HEADS, "ForPreTraining", "ForPreTraining", "ForNextSentencePrediction"]


def labels(head: str) -> int:
  return 2 if head == "ForQuestionAnswering" else LABELS


def sizes(r: random.Random, head: str) -> dict[str, Any]:
  """What all but DistilBERT share."""
  heads = r.choice([1, 2, 3])
  return dict(vocab_size=VOCAB, hidden_size=heads * r.choice([8, 12]), num_attention_heads=heads,
              num_hidden_layers=r.choice([1, 2, 3]), intermediate_size=r.choice([24, 40]),
              hidden_act=r.choice(ACTIVATIONS), layer_norm_eps=r.choice([1e-12, 1e-5, 1e-3]),
              max_position_embeddings=r.choice([24, 40]), type_vocab_size=r.choice([1, 2, 4]),
              pad_token_id=r.choice([0, 0, 3]), classifier_dropout=r.choice([None, 0.3]),
              tie_word_embeddings=r.choice([True, True, False]), num_labels=labels(head))


def bert(r: random.Random) -> tuple[str, Any]:
  head = r.choice(PAIRS)
  return f"Bert{head}", transformers.BertConfig(**sizes(r, head))


def roberta(r: random.Random) -> tuple[str, Any]:
  head = r.choice(HEADS)
  return f"Roberta{head}", transformers.RobertaConfig(**sizes(r, head) | dict(pad_token_id=r.choice([0, 1, 4])))


def ernie(r: random.Random) -> tuple[str, Any]:
  head = r.choice(PAIRS)
  tasks = dict(use_task_id=r.choice([True, True, False]), task_type_vocab_size=r.choice([3, 5]))
  return f"Ernie{head}", transformers.ErnieConfig(**sizes(r, head), **tasks)


def electra(r: random.Random) -> tuple[str, Any]:
  head = r.choice([*HEADS, "ForPreTraining", "ForPreTraining"])
  said = sizes(r, head)
  said["embedding_size"] = r.choice([said["hidden_size"], 10, 20])
  return f"Electra{head}", transformers.ElectraConfig(**said)


def distilbert(r: random.Random) -> tuple[str, Any]:
  heads, head = r.choice([1, 2, 3]), r.choice(HEADS)
  return f"DistilBert{head}", transformers.DistilBertConfig(
      vocab_size=VOCAB, dim=heads * r.choice([8, 12]), n_heads=heads, n_layers=r.choice([1, 2, 3]),
      hidden_dim=r.choice([24, 40]), activation=r.choice(["gelu", "relu"]), pad_token_id=r.choice([0, 0, 3]),
      max_position_embeddings=r.choice([24, 40]), tie_word_embeddings=r.choice([True, True, False]),
      num_labels=labels(head))


FAMILIES = {f.__name__: f for f in (bert, roberta, distilbert, electra, ernie)}


def inputs_for(architecture: str, config: Any) -> dict[str, torch.Tensor]:
  """Rows of unequal length, padded on the right with the config's padding token, and targets for the head."""
  mask = (torch.arange(LENGTH) < torch.tensor([[LENGTH], [11], [6]])).long()
  if architecture.endswith("ForMultipleChoice"):
    mask = torch.stack([mask, mask.flip(0)], 1)
  ids = torch.randint(5, VOCAB, mask.shape).masked_fill(mask == 0, config.pad_token_id)
  found = dict(input_ids=ids, attention_mask=mask)
  if getattr(config, "type_vocab_size", 1) > 1:
    found["token_type_ids"] = torch.randint(0, config.type_vocab_size, mask.shape)
  if getattr(config, "use_task_id", False):
    found["task_type_ids"] = torch.randint(0, config.task_type_vocab_size, mask.shape)
  return found | targets(architecture, mask)


def targets(architecture: str, mask: torch.Tensor) -> dict[str, torch.Tensor]:
  """Labels by the ending of the class's name."""
  tokens = lambda high: torch.randint(0, high, mask.shape).masked_fill(mask == 0, -100)
  rows = lambda high: torch.randint(0, high, (ROWS,))
  makers = {
      "ElectraForPreTraining": lambda: dict(labels=torch.randint(0, 2, mask.shape)),
      "ForPreTraining": lambda: dict(labels=tokens(VOCAB), next_sentence_label=rows(2)),
      "ForMaskedLM": lambda: dict(labels=tokens(VOCAB)), "ForTokenClassification": lambda: dict(labels=tokens(LABELS)),
      "ForSequenceClassification": lambda: dict(labels=rows(LABELS)), "ForMultipleChoice": lambda: dict(labels=rows(2)),
      "ForNextSentencePrediction": lambda: dict(labels=rows(2)),
      "ForQuestionAnswering": lambda: dict(start_positions=rows(9), end_positions=rows(9)), "Model": dict,
  }
  return next(make() for ending, make in makers.items() if architecture.endswith(ending))


@torch.no_grad()
def one_bias(model: torch.nn.Module) -> None:
  """An untied decoder's bias also as the head's, which transformers 5 keeps and does not read."""
  for head in (m for m in model.modules() if hasattr(m, "decoder") and hasattr(m, "bias")):
    head.bias.copy_(head.decoder.bias)
