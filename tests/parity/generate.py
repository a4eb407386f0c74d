"""Writes random small Hugging Face models with recorded outputs: `python tests/parity/generate.py OUT --seed N`.

Needs torch and transformers (`pip install 'llm_jax[parity]'`), in an environment of its own; nothing is downloaded. For
each family some configs are drawn: sizes, head widths, biases, ties, windows, rope scalings, heads. Every folder has
config.json, model.safetensors, reference.npz (in.*, out.*, valid.*) and meta.json (gradient norms), and config_v4.json
where the keys of transformers 4 differ. `tests/parity/compare.py OUT` reads them.
"""

import argparse
import inspect
import json
import os
import pathlib
import random
import zlib
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import encoder_cases
import numpy as np
import t5_xlnet_cases
import torch
import transformers

VOCAB, ROWS, LENGTH = 97, 3, 17
LM, SEQUENCE, TOKEN, QUESTION, NONE = "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", \
    "ForQuestionAnswering", "Model"


# ---- configs, one function per family: (random numbers) -> (class, config)


def rope(r: random.Random, length: int) -> dict[str, Any]:
  """One of the published scalings; `length` is max_position_embeddings."""
  kind = r.choice(["default", "linear", "dynamic", "llama3", "yarn"])
  said: dict[str, Any] = {"rope_type": kind, "rope_theta": r.choice([1e4, 5e5, 1e6])}
  if kind != "default":
    said["factor"] = r.choice([2.0, 4.0, 8.0])
  if kind == "llama3":
    said |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": r.choice([32, 128])}
  if kind == "yarn":
    said["original_max_position_embeddings"] = r.choice([length, length // 2])
    said |= r.choice([{}, {"attention_factor": 0.8}, {"mscale": 0.7, "mscale_all_dim": 1.0}, {"truncate": False},
                      {"beta_fast": 16, "beta_slow": 2}])
  return said


def decoder_sizes(r: random.Random) -> dict[str, Any]:
  """Sizes that all of the Llama family share; short max_position_embeddings let dynamic scaling act."""
  kv_heads = r.choice([1, 2])
  heads = kv_heads * r.choice([1, 2, 3])
  return dict(vocab_size=VOCAB, hidden_size=heads * r.choice([8, 12]), intermediate_size=r.choice([24, 40]),
              num_hidden_layers=r.choice([2, 3, 5]), num_attention_heads=heads, num_key_value_heads=kv_heads,
              max_position_embeddings=r.choice([8, 64]), rms_norm_eps=r.choice([1e-5, 1e-6]), bos_token_id=None,
              eos_token_id=None, pad_token_id=0, tie_word_embeddings=r.choice([True, False]))


def layer_types(r: random.Random, count: int) -> list[str]:
  return [r.choice(["full_attention", "sliding_attention"]) for _ in range(count)]


def llama(r: random.Random) -> tuple[str, Any]:
  sizes = decoder_sizes(r) | dict(attention_bias=r.choice([True, False]), mlp_bias=r.choice([True, False]),
                                  hidden_act=r.choice(["silu", "gelu", "relu"]))
  sizes |= r.choice([{}, {"head_dim": 6}])
  head = r.choice([LM, SEQUENCE, TOKEN, QUESTION, NONE])
  return f"Llama{head}", transformers.LlamaConfig(**sizes, rope_parameters=rope(r, sizes["max_position_embeddings"]))


def mistral(r: random.Random) -> tuple[str, Any]:
  sizes = decoder_sizes(r) | dict(sliding_window=r.choice([None, 3, 6]))
  head = r.choice([LM, LM, SEQUENCE, TOKEN, QUESTION])
  return f"Mistral{head}", transformers.MistralConfig(
      **sizes, rope_parameters=rope(r, sizes["max_position_embeddings"]))


def qwen2(r: random.Random) -> tuple[str, Any]:
  sizes = decoder_sizes(r)
  sizes |= dict(use_sliding_window=r.choice([True, False]), sliding_window=5, max_window_layers=r.choice([0, 1, 28]))
  if sizes["use_sliding_window"] and r.random() < 0.5:
    sizes["layer_types"] = layer_types(r, sizes["num_hidden_layers"])
  return f"Qwen2{r.choice([LM, LM, SEQUENCE, TOKEN, QUESTION])}", transformers.Qwen2Config(
      **sizes, rope_parameters=rope(r, sizes["max_position_embeddings"]))


def qwen3(r: random.Random) -> tuple[str, Any]:
  sizes = decoder_sizes(r) | dict(head_dim=r.choice([8, 10]), attention_bias=r.choice([True, False]))
  sizes |= dict(use_sliding_window=r.choice([True, False]), sliding_window=4, max_window_layers=1)
  return f"Qwen3{r.choice([LM, LM, SEQUENCE, TOKEN, QUESTION])}", transformers.Qwen3Config(
      **sizes, rope_parameters=rope(r, sizes["max_position_embeddings"]))


def gemma(r: random.Random) -> tuple[str, Any]:
  sizes = decoder_sizes(r) | dict(head_dim=r.choice([8, 12]), attention_bias=r.choice([True, False]))
  return f"Gemma{r.choice([LM, LM, SEQUENCE, TOKEN, NONE])}", transformers.GemmaConfig(
      **sizes, hidden_act=r.choice(["gelu", "gelu_pytorch_tanh"]),
      rope_parameters=rope(r, sizes["max_position_embeddings"]))


def gemma2(r: random.Random) -> tuple[str, Any]:
  sizes = decoder_sizes(r) | dict(head_dim=8, query_pre_attn_scalar=r.choice([8, 20]), sliding_window=r.choice([3, 5]),
                                  attn_logit_softcapping=r.choice([None, 2.0]),
                                  final_logit_softcapping=r.choice([None, 9.0]))
  if r.random() < 0.5:
    sizes["layer_types"] = layer_types(r, sizes["num_hidden_layers"])
  return f"Gemma2{r.choice([LM, LM, SEQUENCE, TOKEN, NONE])}", transformers.Gemma2Config(
      **sizes, rope_parameters=rope(r, sizes["max_position_embeddings"]))


def gemma3(r: random.Random) -> tuple[str, Any]:
  sizes = decoder_sizes(r) | dict(head_dim=8, query_pre_attn_scalar=r.choice([8, 24]), sliding_window=r.choice([3, 5]),
                                  sliding_window_pattern=r.choice([2, 3, 6]), attention_bias=r.choice([True, False]),
                                  attn_logit_softcapping=r.choice([None, 2.0]),  # this class keeps and never reads it
                                  final_logit_softcapping=r.choice([None, 9.0]))
  ropes = dict(full_attention=rope(r, sizes["max_position_embeddings"]),
               sliding_attention=dict(rope_type="default", rope_theta=r.choice([1e4, 2e4])))
  if ropes["full_attention"]["rope_type"] == "dynamic":  # the reference keeps its state between calls
    ropes["full_attention"]["rope_type"] = "linear"
  head = r.choice(["Gemma3ForCausalLM", "Gemma3TextModel"])
  return head, transformers.Gemma3TextConfig(**sizes, rope_parameters=ropes)


def mixtral(r: random.Random) -> tuple[str, Any]:
  sizes = decoder_sizes(r) | dict(num_local_experts=r.choice([3, 4]), num_experts_per_tok=r.choice([1, 2]),
                                  sliding_window=r.choice([None, 4]), router_aux_loss_coef=r.choice([0.1, 0.02]))
  turned = rope(r, sizes["max_position_embeddings"])
  if turned["rope_type"] != "default":  # the reference needs it said then
    sizes["head_dim"] = sizes["hidden_size"] // sizes["num_attention_heads"]
  head = r.choice([LM, LM, SEQUENCE, TOKEN, QUESTION])
  return f"Mixtral{head}", transformers.MixtralConfig(**sizes, rope_parameters=turned)


def qwen3_moe(r: random.Random) -> tuple[str, Any]:
  sizes = decoder_sizes(r) | dict(head_dim=8, num_experts=r.choice([3, 5]), num_experts_per_tok=r.choice([1, 2]),
                                  moe_intermediate_size=r.choice([12, 20]), norm_topk_prob=r.choice([True, False]),
                                  num_hidden_layers=r.choice([3, 4]), router_aux_loss_coef=0.2,
                                  use_sliding_window=r.choice([True, False]), sliding_window=4)
  sizes |= r.choice([dict(mlp_only_layers=[0]), dict(decoder_sparse_step=2), dict(mlp_only_layers=[1, 2]), {}])
  return f"Qwen3Moe{r.choice([LM, LM, SEQUENCE, TOKEN, QUESTION])}", transformers.Qwen3MoeConfig(
      **sizes, rope_parameters=rope(r, sizes["max_position_embeddings"]))


def gpt2(r: random.Random) -> tuple[str, Any]:
  heads = r.choice([2, 3])
  head = r.choice(["LMHeadModel", SEQUENCE, TOKEN, QUESTION, "DoubleHeadsModel", NONE])
  return f"GPT2{head}", transformers.GPT2Config(
      vocab_size=VOCAB, n_positions=24, n_embd=heads * 10, n_layer=r.choice([2, 3]), n_head=heads, pad_token_id=0,
      n_inner=r.choice([None, 44]), activation_function=r.choice(["gelu_new", "gelu", "relu", "silu", "quick_gelu"]),
      scale_attn_weights=r.choice([True, False]), scale_attn_by_inverse_layer_idx=r.choice([True, False]),
      reorder_and_upcast_attn=r.choice([True, False]), tie_word_embeddings=r.choice([True, True, False]),
      bos_token_id=None, eos_token_id=None)


def gpt1(r: random.Random) -> tuple[str, Any]:
  heads = r.choice([2, 3])
  head = r.choice(["LMHeadModel", SEQUENCE, "DoubleHeadsModel", NONE])
  return f"OpenAIGPT{head}", transformers.OpenAIGPTConfig(
      vocab_size=VOCAB, n_positions=24, n_embd=heads * 10, n_layer=r.choice([2, 3]), n_head=heads, pad_token_id=0,
      afn=r.choice(["gelu", "relu", "silu"]), layer_norm_epsilon=r.choice([1e-5, 1e-3]))


def deberta_sizes(r: random.Random) -> dict[str, Any]:
  """Sizes that both versions share; a short span lets distances be clipped."""
  heads = r.choice([2, 3])
  terms: list[list[str]] = [["c2p", "p2c"], ["p2c", "c2p"], ["c2p"], ["p2c"], []]
  sizes = dict(vocab_size=VOCAB, hidden_size=heads * r.choice([8, 12]), num_attention_heads=heads,
               num_hidden_layers=r.choice([2, 3]), intermediate_size=r.choice([24, 40]),
               max_position_embeddings=r.choice([24, 40]), relative_attention=r.random() < 0.85,
               pos_att_type=r.choice(terms), position_biased_input=r.choice([True, False]), pad_token_id=0,
               max_relative_positions=r.choice([-1, 7, 30]), type_vocab_size=r.choice([0, 0, 3]),
               hidden_act=r.choice(["gelu", "gelu_new", "relu"]), pooler_hidden_act=r.choice(["gelu", "tanh"]),
               layer_norm_eps=r.choice([1e-7, 1e-5]), legacy=r.choice([True, False]))
  return sizes | ({"embedding_size": 20} if sizes["legacy"] and r.random() < 0.5 else {})


def deberta(r: random.Random) -> tuple[str, Any]:
  head = r.choice(["ForMaskedLM", "ForMaskedLM", SEQUENCE, TOKEN, QUESTION, NONE])
  return f"Deberta{head}", transformers.DebertaConfig(**deberta_sizes(r))


def deberta_v2(r: random.Random) -> tuple[str, Any]:
  sizes = deberta_sizes(r)
  sizes |= dict(share_att_key=r.choice([True, False]), position_buckets=r.choice([-1, 2, 6, 9]),
                norm_rel_ebd=r.choice(["none", "layer_norm"]), conv_kernel_size=r.choice([0, 1, 3, 5]),
                conv_act=r.choice(["tanh", "gelu"]), conv_groups=r.choice([1, sizes["num_attention_heads"]]))
  head = r.choice(["ForMaskedLM", "ForMaskedLM", SEQUENCE, TOKEN, QUESTION, NONE, "ForMultipleChoice"])
  return f"DebertaV2{head}", transformers.DebertaV2Config(**sizes)


FAMILIES = {f.__name__: f for f in (gpt1, gpt2, llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3,
                                    mixtral, qwen3_moe, deberta, deberta_v2)}
FAMILIES |= encoder_cases.FAMILIES | t5_xlnet_cases.FAMILIES


# ---- weights, inputs, outputs


@torch.no_grad()
def loud(model: torch.nn.Module) -> None:
  """Weights of a size at which every parameter changes the outputs: flat attention would hide mistakes."""
  for name, p in model.named_parameters():
    if p.dim() < 2:
      p.add_(0.3 * torch.randn(p.shape))
    elif any(word in name for word in ("embed", "wte", "wpe")):
      p.copy_(0.5 * torch.randn(p.shape))
    else:
      fan_in = p.shape[0] if ".c_" in name else p.shape[1]
      p.copy_(1.3 * torch.randn(p.shape) / fan_in**0.5)


def inputs_for(architecture: str, window: int | None) -> dict[str, torch.Tensor]:
  """Rows of unequal length, padded on the right with token 0, and targets for the head.

  Whole rows where the loss reads padding (the places of an answer) and a window may hold nothing else: eager attention
  is even there, since the mask's number swallows the scores, but sends scores a gradient as though it had not.
  """
  short = [LENGTH] * 2 if architecture.endswith(QUESTION) and window else [11, 6]
  mask = (torch.arange(LENGTH) < torch.tensor([LENGTH, *short])[:, None]).long()
  ids = torch.randint(5, VOCAB, (ROWS, LENGTH)) * mask
  if architecture.endswith("DoubleHeadsModel"):
    ids = torch.randint(5, VOCAB, (ROWS, 2, LENGTH))
    return dict(input_ids=ids, mc_token_ids=torch.randint(3, LENGTH, (ROWS, 2)), labels=ids.clone(),
                mc_labels=torch.randint(0, 2, (ROWS,)))
  if architecture.endswith("ForMultipleChoice"):
    ids, mask = (torch.stack([a, a.flip(0)], 1) for a in (ids, mask))
    return dict(input_ids=ids, attention_mask=mask, labels=torch.randint(0, 2, (ROWS,)))
  found = dict(input_ids=ids, attention_mask=mask)
  if architecture.endswith(("LMHeadModel", LM, "ForMaskedLM")):
    found["labels"] = ids.masked_fill(mask == 0, -100)
  elif architecture.endswith(SEQUENCE):
    found["labels"] = torch.randint(0, 2, (ROWS,))
  elif architecture.endswith(TOKEN):
    found["labels"] = torch.randint(0, 2, (ROWS, LENGTH)).masked_fill(mask == 0, -100)
  elif architecture.endswith(QUESTION):
    found |= dict(start_positions=torch.tensor([3, 1, 0]), end_positions=torch.tensor([9, 10, 4]))
  return found


def outputs_of(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
  routed = hasattr(model.config, "output_router_logits") and type(model).__name__.endswith(LM)
  out = t5_xlnet_cases.run(model, inputs | ({"output_router_logits": True} if routed else {}))
  names = ("last_hidden_state", "logits", "start_logits", "end_logits", "mc_logits", "mc_loss", "loss",
           "prediction_logits", "seq_relationship_logits", "pooler_output", "encoder_last_hidden_state")
  found = {name: out[name] for name in names if out.get(name) is not None}
  if "mc_loss" in found:
    found |= dict(lm_loss=out.loss, loss=out.loss + out.mc_loss)
  else:
    for stem in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states", "mems"):
      found |= {f"{stem}.{i}": h for i, h in enumerate(out.get(stem) or ())}
  if routed:
    found |= {f"router_logits.{i}": h for i, h in enumerate(out.router_logits)} | dict(aux_loss=out.aux_loss)
  return found


def greedy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
  """Greedy continuations of a prompt and of a left-padded pair, where no step is nearly a tie."""
  found = {}
  pair = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
  for name, mask in (("single", torch.ones(1, 5, dtype=torch.long)), ("leftpad", pair)):
    prompt = torch.randint(5, VOCAB, mask.shape) * mask
    out = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=8, pad_token_id=0,
                         output_logits=True, return_dict_in_generate=True)
    best = torch.stack(out.logits).topk(2, -1).values
    if (best[..., 0] - best[..., 1]).min() > 1e-2:
      found |= {f"generate.{name}.prompt": prompt, f"generate.{name}.mask": mask, f"generate.{name}.ids": out.sequences}
  return found


def older(config: dict[str, Any]) -> dict[str, Any] | None:
  """config.json in the keys of transformers 4, where they differ."""
  if config["model_type"] in encoder_cases.FAMILIES:
    return {k: v for k, v in config.items() if k != "dtype"} | dict(torch_dtype="float32",
                                                                    position_embedding_type="absolute")
  if "rope_parameters" not in config:
    return None
  said = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype")} | {"torch_dtype": "float32"}
  if config["model_type"] == "qwen3_moe":
    said["num_experts"] = said.pop("num_local_experts")
  scaling = dict(config["rope_parameters"])
  if "full_attention" in scaling:
    said["rope_local_base_freq"] = scaling["sliding_attention"]["rope_theta"]
    scaling = dict(scaling["full_attention"])
  said["rope_theta"] = scaling.pop("rope_theta")
  return said | {"rope_scaling": None if scaling["rope_type"] == "default" else scaling}


def write(folder: pathlib.Path, family: str, seed: int) -> None:
  """One case."""
  r = random.Random(zlib.crc32(f"{family}/{seed}".encode()))
  torch.manual_seed(seed)
  architecture, config = FAMILIES[family](r)
  cls = getattr(transformers, architecture)
  model = cls._from_config(config, attn_implementation="eager").eval()
  loud(model)
  encoder = family in encoder_cases.FAMILIES
  encoder_cases.one_bias(model)
  t5_xlnet_cases.tuned(model)
  special = encoder_cases if encoder else t5_xlnet_cases if family in t5_xlnet_cases.FAMILIES else None
  window = getattr(config, "sliding_window", None)
  inputs = inputs_for(architecture, window) if special is None else special.inputs_for(architecture, config)
  found = outputs_of(model, inputs)
  norms: dict[str, float] = {}
  if "loss" in found:
    found["loss"].backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
  # Cached keys keep the base they were rotated with, which in the reference depends on the calls before.
  dynamic = (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "dynamic"
  if "past_key_values" in inspect.signature(cls.forward).parameters and architecture.endswith(("LMHeadModel", LM)):
    with torch.no_grad():
      found |= {} if dynamic else greedy(model)
  if architecture.endswith("ForConditionalGeneration"):
    found |= t5_xlnet_cases.written(model, inputs)
  folder.mkdir(parents=True, exist_ok=True)
  model.save_pretrained(folder)
  arrays = {f"in.{k}": v.numpy() for k, v in inputs.items()}
  arrays |= {f"out.{k}": v.detach().numpy() for k, v in found.items()}
  if "attention_mask" in inputs:
    mask = inputs["attention_mask"]
    arrays |= {f"valid.{k}": mask.bool().numpy() for k, v in found.items() if v.dim() > 1 and v.shape[:2] == mask.shape}
  np.savez_compressed(folder / "reference.npz", **arrays)
  (folder / "meta.json").write_text(json.dumps({"class": architecture, "grad_norm": norms, "seed": seed}) + "\n")
  said = older(json.loads((folder / "config.json").read_text()))
  if said is not None:
    (folder / "config_v4.json").write_text(json.dumps(said, indent=2) + "\n")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--count", type=int, default=3, help="configs per family")
  parser.add_argument("--only", default=",".join(FAMILIES), help="comma-separated families")
  arguments = parser.parse_args()
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  torch.set_num_threads(1)
  for family in arguments.only.split(","):
    for i in range(arguments.count):
      name = f"{family}_{arguments.seed}_{i}"
      write(arguments.out / name, family, 1000 * arguments.seed + i)
      print(name, flush=True)


if __name__ == "__main__":
  main()
