"""Losses as Hugging Face's classes define them, by the ending of the class's name; from outputs, on their own."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, ignored: int = -100) -> jax.Array:
  """Mean over the labels that are not `ignored`."""
  labels = jnp.asarray(labels)
  counted = labels != ignored
  values = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counted, labels, 0))
  return jnp.where(counted, values, 0.0).sum() / counted.sum()


def causal(output, inputs, config) -> dict[str, jax.Array]:
  """Each position predicts the next label; a mixture of experts adds its balance loss if asked for routers."""
  auxiliary = output.auxiliary if "router_logits" in output.extra else 0.0
  return {"loss": cross_entropy(output.logits[:, :-1], inputs["labels"][:, 1:]) + auxiliary}


def plain(output, inputs, config) -> dict[str, jax.Array]:
  """Labels of sequences or tokens, not shifted."""
  return {"loss": cross_entropy(output.logits, inputs["labels"])}


def of_sequence(output, inputs, config) -> dict[str, jax.Array]:
  """By config.json's `problem_type`: one class, several at once, or numbers; without one, a single label is a number
  and labels that are no whole numbers are several classes."""
  labels, scores = jnp.asarray(inputs["labels"]), output.logits
  several = "single_label" if jnp.issubdtype(labels.dtype, jnp.integer) else "multi_label"
  kind = config.get("problem_type") or ("regression" if scores.shape[-1] == 1 else several)
  if kind == "regression":
    return {"loss": jnp.square(scores.squeeze() - labels.squeeze()).mean()}
  if kind.startswith("multi_label"):
    return {"loss": optax.sigmoid_binary_cross_entropy(scores, labels).mean()}
  return {"loss": cross_entropy(scores, labels)}


def span(output, inputs, config) -> dict[str, jax.Array]:
  """Start and end, averaged; padded positions take part, as in the classes."""
  length = output["start_logits"].shape[1]
  part = lambda side: cross_entropy(output[f"{side}_logits"], jnp.clip(inputs[f"{side}_positions"], 0, length), length)
  return {"loss": (part("start") + part("end")) / 2}


def shifted(labels, config) -> jax.Array:
  """The decoder's input for these labels: one later, begun by the start token, padding where nothing counts."""
  start, pad = config["decoder_start_token_id"], config.get("pad_token_id", 0)
  labels = jnp.asarray(labels)
  return jnp.pad(jnp.where(labels == -100, pad, labels)[:, :-1], ((0, 0), (1, 0)), constant_values=start)


def double_heads(output, inputs, config) -> dict[str, jax.Array]:
  """Language modelling and multiple choice (Radford et al. 2018)."""
  lm = cross_entropy(output.logits[..., :-1, :], inputs["labels"][..., 1:])
  mc = cross_entropy(output["mc_logits"], inputs["mc_labels"])
  return {"lm_loss": lm, "mc_loss": mc, "loss": lm + mc}


def pretraining(output, inputs, config) -> dict[str, jax.Array]:
  """Masked tokens and next sentence (Devlin et al. 2019)."""
  lm = cross_entropy(output.logits, inputs["labels"])
  return {"loss": lm + cross_entropy(output["seq_relationship_logits"], inputs["next_sentence_label"])}


def replaced(output, inputs, config) -> dict[str, jax.Array]:
  """Which tokens were replaced, over real tokens (Clark et al. 2020)."""
  real = inputs["attention_mask"]
  values = optax.sigmoid_binary_cross_entropy(output.logits, inputs["labels"])
  return {"loss": (values * real).sum() / real.sum()}


def knowledge(output, inputs, config) -> dict[str, jax.Array]:
  """Masked tokens, next sentence, and the entity of each mention (Zhang et al. 2019); -1 is no target."""
  lm = cross_entropy(output.logits, inputs["masked_lm_labels"], -1)
  pair = cross_entropy(output["seq_relationship_logits"], inputs["next_sentence_label"], -1)
  entity = cross_entropy(output["entity_logits"], inputs["ent_labels"], -1)
  return {"masked_lm_loss": lm, "next_sentence_loss": pair, "entity_loss": entity, "loss": lm + pair + entity}


LOSSES = {
    "ErnieKnowledgeForPreTraining": knowledge,
    "DoubleHeadsModel": double_heads, "ForQuestionAnswering": span, "ForSequenceClassification": of_sequence,
    "ForTokenClassification": plain, "ForMultipleChoice": plain, "ForNextSentencePrediction": plain,
    "ForMaskedLM": plain, "XLNetLMHeadModel": plain, "ForConditionalGeneration": plain,
    "ForQuestionAnsweringSimple": span, "ForCausalLM": causal, "LMHeadModel": causal, "ElectraForPreTraining": replaced,
    "ForReplacedTokenDetection": replaced,
    "ForPreTraining": pretraining, "RNNLM": plain, "ZhangCharCNN": plain, "KimCharLM": plain,
}
