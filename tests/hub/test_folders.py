"""Hugging Face folders: what is read is what was saved, in every published layout; the rest is refused."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import hub
from llm_jax.core.errors import CheckpointError, ConfigError
from llm_jax.data.tokenizers.bytes import ByteTokenizer
from llm_jax.models import decoder, gpt

TINY = dict(width=16, depth=3, heads=2, hidden=24)


def tiny_gpt(**more):
  return gpt.from_config(gpt.GPTConfig(vocab_size=31, positions=20, **TINY | more))


def tiny_decoder(variant="debug", **more):
  sizes = decoder.VARIANTS[variant] | TINY | dict(kv_heads=1, head_width=8) | more
  return decoder.from_config(decoder.DecoderConfig(vocab_size=31, **sizes))


MODELS = {
    "gpt2": tiny_gpt, "gpt1": lambda: tiny_gpt(norms="post", hidden=None), "gpt2_untied": lambda: tiny_gpt(tied=False),
    "gpt2_double": lambda: tiny_gpt(head="double"),
    "gpt1_double": lambda: tiny_gpt(norms="post", hidden=None, head="double"),
    "gpt2_sequence": lambda: tiny_gpt(head="sequence", labels=3), "gpt2_question": lambda: tiny_gpt(head="question"),
    "gpt2_bare": lambda: tiny_gpt(head="none"),
    **{variant: (lambda v=variant: tiny_decoder(v)) for variant in decoder.VARIANTS if variant.startswith("debug")},
    **{f"{family}_question": lambda v=variant: tiny_decoder(v, head="question") for family, variant in dict(
        llama="debug", mistral="debug-mistral", qwen2="debug-qwen2", qwen3="debug-qwen3", mixtral="debug-mixtral",
        qwen3_moe="debug-qwen3-moe").items()},
    "llama_token": lambda: tiny_decoder(head="token", labels=4),
    "llama_biases": lambda: tiny_decoder(qkv_bias=True, out_bias=True, mlp_bias=True, tied=True),
}


def made(model):
  """Parameters that all differ, so that a swap shows."""
  params = model.init(jax.random.key(0))
  return {n: np.asarray(p) + np.arange(p.size, dtype=np.float32).reshape(p.shape) / 64 for n, p in params.items()}


def equal(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def rewrite(folder, change):
  """Applies `change` to the dict of tensors of a folder."""
  tensors = load_file(folder / "model.safetensors")
  save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder, **keys):
  said = json.loads((folder / "config.json").read_text()) | keys
  (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v != "absent"}))


@pytest.mark.parametrize("name", MODELS)
def test_saved_folders_load_equal_whole_sharded_and_as_bfloat16(name, tmp_path):
  model, params = MODELS[name](), made(MODELS[name]())
  hub.save(tmp_path / "whole", model, params)
  again, found, tokenizer = hub.load(tmp_path / "whole")
  assert equal(found, params) and tokenizer is None
  assert dataclasses.replace(again.config, carried="{}", labels=model.config.labels) == model.config
  hub.save(tmp_path / "shards", model, params, max_shard_bytes=2000)
  assert len(list((tmp_path / "shards").glob("model-*-of-*.safetensors"))) > 2
  assert equal(hub.load(tmp_path / "shards")[1], params)
  hub.save(tmp_path / "half", model, params, dtype="bfloat16")
  rounded = {n: p.astype(ml_dtypes.bfloat16).astype(np.float32) for n, p in params.items()}
  assert equal(hub.load(tmp_path / "half")[1], rounded)


@pytest.fixture
def folder(tmp_path):
  model = tiny_gpt()
  hub.save(tmp_path, model, made(model))
  return tmp_path


def published(tensors):
  """As the GPT-2 release has it: no prefix, mask buffers, the tied head again, old names of LayerNorm's parameters."""
  bare = {n.removeprefix("transformer."): t for n, t in tensors.items()}
  found = {n.replace("ln_1.weight", "ln_1.gamma").replace("ln_1.bias", "ln_1.beta"): t for n, t in bare.items()}
  buffers = {f"h.{i}.attn.{b}": np.ones((1, 1, 4, 4), np.float32) for i in range(3) for b in ("bias", "masked_bias")}
  return found | buffers | {"lm_head.weight": bare["wte.weight"].copy()}


def test_published_layout_of_names_is_read(folder):
  params = hub.load(folder)[1]
  rewrite(folder, published)
  assert equal(hub.load(folder)[1], params)


def test_half_precision_files_are_read_as_float32(folder):
  params = hub.load(folder)[1]
  rewrite(folder, lambda tensors: {n: t.astype(np.float16) for n, t in tensors.items()})
  assert equal(hub.load(folder)[1], {n: np.asarray(p).astype(np.float16).astype(np.float32) for n, p in params.items()})


def test_a_head_in_the_file_that_differs_from_the_tied_table_is_used(folder):
  rewrite(folder, lambda tensors: tensors | {"lm_head.weight": np.ones_like(tensors["transformer.wte.weight"])})
  model, params, _ = hub.load(folder)
  assert not model.config.tied and float(params["head.kernel"].min()) == 1.0


def test_a_tied_table_that_is_stored_under_the_heads_name_only_is_found(folder):
  params = hub.load(folder)[1]
  renamed = lambda name: name.replace("transformer.wte.weight", "lm_head.weight")
  rewrite(folder, lambda tensors: {renamed(n): t for n, t in tensors.items()})
  assert equal(hub.load(folder)[1], params)


@pytest.mark.parametrize("change, named", [
    (lambda t: {n: a for n, a in t.items() if "h.1.mlp.c_fc.bias" not in n}, "transformer.h.1.mlp.c_fc.bias"),
    (lambda t: t | {"transformer.h.0.attn.extra": np.ones(3, np.float32)}, "transformer.h.0.attn.extra"),
    (lambda t: t | {"transformer.h.2.ln_1.weight": np.ones(5, np.float32)}, "transformer.h.2.ln_1.weight"),
    (lambda t: t | {"wte.weight": t["transformer.wte.weight"]}, "wte.weight"),
])
def test_missing_unexpected_misshapen_and_doubled_tensors_are_named(folder, change, named):
  rewrite(folder, change)
  with pytest.raises(CheckpointError, match=named.replace(".", r"\.")):
    hub.load(folder)


def test_truncated_file_is_named(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or truncated"):
    hub.load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "model.pkl", "flax_model.msgpack"])
def test_files_that_can_run_code_are_refused_with_how_to_convert(folder, name):
  (folder / "model.safetensors").rename(folder / name)
  with pytest.raises(CheckpointError, match=f"(?s){name}.*only safetensors.*save_pretrained"):
    hub.load(folder)


def test_code_in_a_folder_does_not_run(folder):
  canary = folder / "ran"
  (folder / "modeling_x.py").write_text(f"open({str(canary)!r}, 'w')")
  configure(folder, auto_map={"AutoModel": "modeling_x.X"})
  hub.load(folder)
  assert not canary.exists()


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "model.bin"])
def test_an_index_that_points_elsewhere_is_refused(folder, file):
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"transformer.wte.weight": file}}))
  with pytest.raises(CheckpointError, match="same folder"):
    hub.load(folder)


def test_a_shard_that_is_missing_or_lacks_its_tensor_is_named(tmp_path):
  model = tiny_gpt()
  hub.save(tmp_path, model, made(model), max_shard_bytes=4000)
  shards = sorted(tmp_path.glob("model-*.safetensors"))
  save_file({"other": np.ones(1, np.float32)}, shards[0])
  with pytest.raises(CheckpointError, match=shards[0].name):
    hub.load(tmp_path)
  shards[0].unlink()
  with pytest.raises(CheckpointError, match=f"{shards[0].name}: missing"):
    hub.load(tmp_path)


def test_saving_beside_other_weights_is_refused(tmp_path):
  model = tiny_gpt()
  hub.save(tmp_path, model, made(model), max_shard_bytes=4000)
  with pytest.raises(CheckpointError, match="empty folder"):
    hub.save(tmp_path, model, made(model))


@pytest.mark.parametrize("held", ["model.safetensors.index.json", "checkpoints"])
def test_saving_over_other_weights_or_a_run_is_refused(tmp_path, held):
  (tmp_path / held).write_text("mine")
  (tmp_path / "README.md").write_text("a card may lie there")
  model = tiny_gpt()
  with pytest.raises(CheckpointError, match=f"already holds .*{held}"):
    hub.save(tmp_path, model, made(model))
  assert (tmp_path / held).read_text() == "mine" and len(list(tmp_path.iterdir())) == 2
  (tmp_path / held).unlink()
  hub.save(tmp_path, model, made(model))


def test_a_model_saved_again_under_the_same_names_is_replaced(tmp_path):
  """As when a cell of a notebook is run again."""
  model, tokenizer = tiny_gpt(), ByteTokenizer(("eod",))
  twice = {n: 2 * p for n, p in made(model).items()}
  hub.save(tmp_path, model, made(model), tokenizer)
  hub.save(tmp_path, model, twice, tokenizer)
  assert equal(hub.load(tmp_path)[1], twice)


@pytest.mark.parametrize("keys, named", [
    (dict(model_type="gpt5"), "model_type"), (dict(model_type="absent"), "model_type"),
    (dict(architectures=["GPT2ForPoetry"]), "architectures"), (dict(n_embd="wide"), "n_embd"),
    (dict(activation_function="xielu"), "act"), (dict(add_cross_attention=True), "add_cross_attention"),
    (dict(is_causal=False), "is_causal"),
    (dict(parallel_attn=True), "parallel_attn"), (dict(quantization_config={"bits": 4}), "quantization_config"),
])
def test_what_gpt_does_not_support_is_refused_by_key(folder, keys, named):
  configure(folder, **keys)
  with pytest.raises(ConfigError, match=named):
    hub.load(folder)


@pytest.mark.parametrize("keys, named", [
    (dict(rope_parameters=None, rope_scaling={"rope_type": "longrope"}), "rope_type"),
    (dict(rope_scaling={"rope_type": "linear"}), "factor"),
    (dict(rope_scaling={"rope_type": "linear", "factor": 2.0, "mrope_section": [2, 2]}), "mrope_section"),
    (dict(partial_rotary_factor=0.5), "partial_rotary_factor"), (dict(hidden_act="unheard"), "act"),
    (dict(layer_types=["chunked_attention"] * 3), "layer_types"), (dict(clip_qkv=8.0), "clip_qkv|config.json"),
    (dict(num_key_value_heads=3), "kv_heads"), (dict(head_dim=7), "head_width"), (dict(logit_scale=2.0), "logit_scale"),
    (dict(is_causal=False), "is_causal"),
])
def test_what_the_llama_family_does_not_support_is_refused_by_key(tmp_path, keys, named):
  model = tiny_decoder()
  hub.save(tmp_path, model, made(model))
  configure(tmp_path, **keys)
  with pytest.raises(ConfigError, match=named):
    hub.load(tmp_path)


def test_keys_that_change_no_number_are_kept_or_passed_over(folder):
  configure(folder, eos_token_id=7, n_ctx=20, task_specific_params={"x": 1}, made_with="2", summary_type="cls_index")
  model, params, _ = hub.load(folder)
  hub.save(folder / "again", model, params)
  assert json.loads((folder / "again" / "config.json").read_text())["eos_token_id"] == 7


def test_token_ids_that_a_folder_leaves_to_its_class_stay_unsaid(folder):
  """Null would be another answer than the class's own: text written from the saved folder would not end."""
  said = lambda folder: json.loads((folder / "config.json").read_text())
  assert said(folder)["eos_token_id"] is None  # a model of ours has none
  configure(folder, eos_token_id="absent", bos_token_id=None)
  hub.save(folder / "again", *hub.load(folder)[:2])
  assert "eos_token_id" not in said(folder / "again") and said(folder / "again")["bos_token_id"] is None


def test_labels_are_named_both_ways(tmp_path):
  model = tiny_decoder(head="token", labels=2)
  hub.save(tmp_path, model, made(model))
  configure(tmp_path, id2label={"0": "no", "1": "yes"}, label2id="absent")
  hub.save(tmp_path / "again", *hub.load(tmp_path)[:2])
  said = json.loads((tmp_path / "again" / "config.json").read_text())
  assert said["id2label"] == {"0": "no", "1": "yes"} and said["label2id"] == {"no": 0, "yes": 1}


@pytest.mark.parametrize("name, prefix", [("llama_question", "transformer."), ("qwen2_question", "transformer."),
                                          ("qwen3_question", "transformer."), ("qwen3_moe_question", "transformer."),
                                          ("mistral_question", "model."), ("mixtral_question", "model.")])
def test_a_class_that_answers_has_its_own_name_for_the_backbone(name, prefix, tmp_path):
  """transformers draws a backbone at random whose names begin otherwise, and only reports it."""
  model = MODELS[name]()
  hub.save(tmp_path, model, made(model))
  assert {n.split(".")[0] + "." for n in load_file(tmp_path / "model.safetensors")} == {prefix, "qa_outputs."}
  output = jax.eval_shape(model.apply, made(model), np.ones((2, 4), int))
  assert output["start_logits"].shape == output["end_logits"].shape == (2, 4)


def test_scores_of_gemma3_are_not_capped_whatever_its_config_says(tmp_path):
  """Its class in transformers keeps the key and does not read it."""
  model = tiny_decoder("debug-gemma3")
  hub.save(tmp_path, model, made(model))
  configure(tmp_path, attn_logit_softcapping=2.0)
  again = hub.load(tmp_path)[0]
  assert again.config.attention_cap is None
  with pytest.raises(ConfigError, match="attention_cap"):
    hub.save(tmp_path / "again", tiny_decoder("debug-gemma3", attention_cap=2.0), made(model))


def test_another_head_keeps_the_backbone_and_draws_what_is_missing(folder):
  _, before, _ = hub.load(folder)
  model, params, _ = hub.load(folder, head="sequence", labels=5, key=jax.random.key(3))
  assert params["classifier.score.kernel"].shape == (16, 5)
  assert equal({n: p for n, p in params.items() if not n.startswith("classifier")}, before)
  assert model.apply(params, np.ones((2, 4), int)).logits.shape == (2, 5)


def test_what_the_class_cannot_say_is_not_saved(tmp_path):
  model = tiny_gpt(band=4)
  with pytest.raises(ConfigError, match="band"):
    hub.save(tmp_path, model, made(model))
  model = tiny_decoder("debug-gemma2", logit_cap=None, out_bias=True)
  with pytest.raises(ConfigError, match="out_bias"):
    hub.save(tmp_path, model, made(model))


@pytest.mark.parametrize("variant", ["debug-gemma2", "debug-gemma3"])
def test_a_gemma_without_local_layers_is_saved_with_a_window(variant, tmp_path):
  """transformers makes the masks of both kinds of layers, and raises where the width of one is null."""
  model = tiny_decoder(variant, spans=("full",), window=None)
  hub.save(tmp_path, model, made(model))
  assert json.loads((tmp_path / "config.json").read_text())["sliding_window"] > 0
  assert hub.load(tmp_path)[0].config == model.config


def test_multimodal_gemma3_folders_give_their_text_model(tmp_path):
  model = tiny_decoder("debug-gemma3")
  params = made(model)
  hub.save(tmp_path, model, params)
  said = json.loads((tmp_path / "config.json").read_text())
  outer = dict(model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"], text_config=said)
  (tmp_path / "config.json").write_text(json.dumps(outer))
  vision = {"vision_tower.patch.weight": np.ones(2, np.float32), "multi_modal_projector.w": np.ones(2, np.float32)}
  rewrite(tmp_path, lambda tensors: {f"language_model.{n}": t for n, t in tensors.items()} | vision)
  again, found, _ = hub.load(tmp_path)
  assert equal(found, params) and again.config.rope == model.config.rope
