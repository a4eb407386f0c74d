"""BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019) and DistilBERT (Sanh et al. 2019): encoders that see both sides.

Learned positions, types of tokens, a norm after each residual, a head over the tied token embedding. What differs is in
the config: RoBERTa counts positions from its padding token, DistilBERT has no token types. ELECTRA and ERNIE, in files
of their own, are the same encoder with a narrower embedding and with task types.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
from flax import nnx

from llm_jax.core.model import Model
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen
from llm_jax.layers import encoder_heads
from llm_jax.layers.dot_product import Implementation
from llm_jax.layers.dropout import dropout, split
from llm_jax.layers.encoder_heads import EncoderHead, MaskedTokenHead, Pooler, ReplacedTokenHead
from llm_jax.layers.linear import Linear
from llm_jax.models.bert_encoder import BertConfig, Embeddings, Encoder, check, sized

BASE, LARGE = dict(width=768, depth=12, heads=12, hidden=3072), dict(width=1024, depth=24, heads=16, hidden=4096)
DEBUG = dict(width=64, depth=2, heads=4, hidden=256, positions=128)
ROBERTA: dict[str, Any] = dict(family="roberta", positions=514, token_types=1, counts_real=True, pad_token=1,
                               epsilon=1e-5, head_act="gelu", drop_first_token=True)
DISTILBERT: dict[str, Any] = dict(family="distilbert", token_types=0, pooler_act="relu", pooled=False)
# Devlin et al. 2019, section 3; Turc et al. 2019, table 1; Liu et al. 2019, table 9; Sanh et al. 2019, section 3; what
# they leave out from the published config.json.
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": DEBUG,
    "debug-roberta": ROBERTA | DEBUG | dict(positions=130),
    "debug-distilbert": DISTILBERT | DEBUG,
    "tiny": dict(width=128, depth=2, heads=2, hidden=512),
    "mini": dict(width=256, depth=4, heads=4, hidden=1024),
    "small": dict(width=512, depth=4, heads=8, hidden=2048),
    "medium": dict(width=512, depth=8, heads=8, hidden=2048),
    "base": BASE,
    "large": LARGE,
    "roberta-base": ROBERTA | BASE,
    "roberta-large": ROBERTA | LARGE,
    "distilbert": DISTILBERT | BASE | dict(depth=6),
}


class Bert(nnx.Module):
  """The network with its head. Call it through `Model.apply`. embeddings: False when another network's are used."""

  def __init__(self, rngs: nnx.Rngs, config: BertConfig, *, embeddings: bool = True):
    c = self.config = config
    self.embeddings = Embeddings(rngs, c) if embeddings else None
    self.encoder = Encoder(rngs, c)
    rate = c.dropout if c.classifier_dropout is None else c.classifier_dropout
    self.label_dropout = {"token": rate, "question": c.question_dropout}
    make_pooler = partial(Pooler, rngs, c.width, act=c.pooler_act, dropout=rate,
                          input_dropout=rate if c.drop_first_token else 0.0)
    self.pooler: Any = make_pooler() if encoder_heads.pools(c.head, c.pooled) else None
    self.head: Any = token_head(rngs, c) if c.head in encoder_heads.SCORES_TOKENS else None
    self.replaced: Any = ReplacedTokenHead(rngs, c.width, act=c.act) if c.head == "replaced" else None
    pair, labels = c.head in encoder_heads.SCORES_PAIRS, encoder_heads.labels(c.head, c.labels)
    self.next_sentence: Any = Linear(rngs, {"embed": c.width}, {"labels": 2}) if pair else None
    self.classifier: Any = Linear(rngs, {"embed": c.width}, {"labels": labels}) if labels else None

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               token_type_ids: jax.Array | None = None, task_type_ids: jax.Array | None = None,
               position_ids: jax.Array | None = None, segment_ids: jax.Array | None = None,
               key: jax.Array | None = None, output_hidden_states: bool = False,
               embeddings: Embeddings | None = None) -> Output:
    """All inputs (B, L); with the head 'choice' (B, C, L), its hidden states (B * C, L, D).

    attention_mask: 1 for real tokens. token_type_ids: 0 for the first part of a pair, 1 for the second; default 0.
    task_type_ids: ERNIE's task; default 0. position_ids: place in the document, from 0 on, also where the table starts
    later (RoBERTa). segment_ids: documents of a packed row, 0 is padding; tokens see their own document only.
    embeddings: another network's, where this one has none.
    """
    embed = self.embeddings or embeddings
    assert embed is not None
    lead, length = input_ids.shape[:-1], input_ids.shape[-1]
    flat = lambda ids: None if ids is None else ids.reshape(-1, length)
    embed_key, layers_key, head_key = split(key, 3)
    x = embed(input_ids.reshape(-1, length), flat(token_type_ids), flat(task_type_ids), flat(position_ids), embed_key)
    hidden, states = self.encoder(x, flat(attention_mask), flat(segment_ids), layers_key, output_hidden_states)
    output = self._head(hidden, embed, head_key)
    if self.config.head == "choice":
      output.scores = output.logits.reshape(lead)
    return dataclasses.replace(output, hidden_states=states)

  def _head(self, hidden: jax.Array, embed: Embeddings, key: jax.Array | None) -> Output:
    """The output with what this model's head says of the hidden states."""
    output = Output(hidden)
    if self.head is not None:
      output.unembed = partial(self.head, table_VE=embed.tokens.embedding[...])
    if self.next_sentence is not None:
      output.extra["seq_relationship_logits"] = self.next_sentence(self.pooler(hidden))
      output.scores = None if self.head is not None else output.extra["seq_relationship_logits"]
    if self.config.head == "none" and self.pooler is not None:
      output.extra["pooler_output"] = self.pooler(hidden)
    if self.replaced is not None:
      output.scores = self.replaced(hidden)
    if self.config.head in ("sequence", "choice"):
      output.scores = self.classifier(self.pooler(hidden, key))
    if self.config.head in ("token", "question"):
      output.scores = self.classifier(dropout(hidden, self.label_dropout[self.config.head], key))
    return encoder_heads.span(output) if self.config.head == "question" else output


def token_head(rngs: nnx.Rngs, c: BertConfig) -> MaskedTokenHead:
  """The masked token head of this config."""
  return MaskedTokenHead(rngs, c.width, c.embed_width or c.width, c.vocab_size, act=c.head_act or c.act,
                         epsilon=c.epsilon, tied=c.tied)


def from_config(config: BertConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: see `check`.
  """
  check(config)
  return Model.from_module(lambda rngs: Bert(rngs, config), config, offers=encoder_heads.OFFERS[config.head])


def build(vocab_size: int, length: int, *, variant: str = "base", width: int | None = None, depth: int | None = None,
          heads: int | None = None, hidden: int | None = None, positions: int | None = None, act: str | None = None,
          head: EncoderHead = "lm", labels: int = 2, dropout: float = 0.0, tied: bool = True,
          dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none", scan: bool = True,
          attention: Implementation = "auto") -> Model:
  """A BERT, RoBERTa or DistilBERT for `vocab_size` tokens and rows of `length`.

  Args:
    variant: published size: debug, tiny ... base, large, roberta-base, roberta-large, distilbert.
    width: model width D; None takes the variant's, as for the next ones.
    depth: number of layers.
    heads: attention heads.
    hidden: feed-forward width.
    positions: rows of the position table; None: the variant's, or more for longer rows.
    act: activation, by Hugging Face's names.
    head: lm (masked tokens), pretraining (and next sentence), next_sentence, sequence, token, question, choice, none.
    labels: number of labels of the heads 'sequence' and 'token'.
    dropout: rate on embeddings, residuals and attention weights.
    tied: share the token embedding with the output head.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots, split, split_wide.
    scan: one compiled layer run in a loop; False unrolls (slower to compile, a few percent faster to run).
    attention: implementation behind the attention door.
  """
  sizes = sized(chosen(VARIANTS, variant, width=width, depth=depth, heads=heads, hidden=hidden, act=act), length,
                       positions)
  return from_config(BertConfig(vocab_size=vocab_size, head=head, labels=labels, dropout=dropout,
                                attention_dropout=dropout, tied=tied, dtype=dtype, remat=remat, scan=scan,
                                attention=attention, **sizes))
