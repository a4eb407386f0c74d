"""XLNet (Yang et al. 2019): a bidirectional network that is trained by predicting tokens in a random order.

Two streams share the weights: content knows its own token; queries, one for each place that is predicted, do not. What
a token sees is said by perm_mask. Positions enter as sinusoids of distances, segments as "same" or "another", so that
the layers' inputs of earlier text (mems) can be read as keys of a longer row; as a cache of a fixed size they are what
training carries from step to step, and what a network with 'uni' decodes with.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from llm_jax.core.errors import ConfigError, check_counts, unknown_name
from llm_jax.core.model import Model, parameter, stack
from llm_jax.core.output import Output
from llm_jax.core.sizes import chosen
from llm_jax.layers import encoder_heads, segment_memory
from llm_jax.layers import stack as layer_stack
from llm_jax.layers.attention import AttentionOptions
from llm_jax.layers.dot_product import Implementation, Visibility
from llm_jax.layers.dropout import check_rate, dropout, split
from llm_jax.layers.embedding import Embedding
from llm_jax.layers.feed_forward import FeedForward, activation
from llm_jax.layers.linear import Linear, normal
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.recompute import in_float32
from llm_jax.layers.segment_memory import Memory
from llm_jax.layers.two_stream import Surroundings, TwoStreamAttention, TwoStreamBlock, sinusoids
from llm_jax.models.xlnet_sizes import VARIANTS, XLNetConfig
from llm_jax.parallel.rules import constrain

HEADS = ("lm", "sequence", "token", "question", "choice", "none")


class XLNet(nnx.Module):
  """The network. Call it through `Model.apply`."""

  def __init__(self, rngs: nnx.Rngs, config: XLNetConfig):
    self.config = config
    width = config.width
    self.tokens = Embedding(rngs, config.vocab_size, width, dtype=jnp.dtype(config.dtype))
    self.mask_embedding = parameter(rngs, (1, 1, width), (None, None, "norm"), normal(0.02))
    self.blocks = stack(lambda r: _block(r, config), config.depth, rngs)
    own = config.head == "lm" and not config.tied
    self.head: Any = Linear(rngs, {"embed": width}, {"vocab": config.vocab_size}, bias=False) if own else None
    self.head_bias: Any = parameter(rngs, (config.vocab_size,), ("vocab",),
                                    jax.nn.initializers.zeros) if config.head == "lm" else None
    pools = config.head in ("sequence", "choice") and config.summary_dense
    self.summary: Any = encoder_heads.Pooler(rngs, width, act=config.summary_act or "linear",
                                             dropout=config.dropout) if pools else None
    scores = encoder_heads.labels(config.head, config.labels)
    self.classifier: Any = Linear(rngs, {"embed": width}, {"labels": scores}) if scores else None

  def __call__(self, input_ids: jax.Array, *, attention_mask: jax.Array | None = None,
               input_mask: jax.Array | None = None, token_type_ids: jax.Array | None = None,
               perm_mask: jax.Array | None = None, target_mapping: jax.Array | None = None, mems: Any = None,
               use_mems: bool | None = None, segment_ids: jax.Array | None = None,
               position_ids: jax.Array | None = None, cache: Memory | None = None, key: jax.Array | None = None,
               output_hidden_states: bool = False) -> Output:
    """input_ids, attention_mask (1: real), input_mask (1: padding), token_type_ids (B, L); (B, C, L) with choices.

    perm_mask (B, L, L): 1 where token i does not see token j. target_mapping (B, P, L): row p is 1 at the place of
    prediction p; hidden and logits are then the predictions', (B, P, ...). mems: (N, M, B, D), every layer's inputs of
    earlier text, as 'mems' of an earlier output; use_mems: whether to return them, by default what the config says
    (for training where there is a key). segment_ids: documents of a packed row. position_ids are not read: distances
    count slots. cache: as `init_cache` makes it, in the place of mems; a row's first document goes on with it.
    hidden_states with target_mapping: content and queries in turn.

    Raises:
      ConfigError: both masks, or rows that cannot be halved for bi_data.
    """
    if self.config.head == "choice":
      flat = lambda a: None if a is None else a.reshape(-1, a.shape[-1])
    else:
      flat = lambda a: a
    ids_BL: Any = flat(input_ids)
    mask, padding, types, segments = map(flat, (attention_mask, input_mask, token_type_ids, segment_ids))
    if mask is not None and padding is not None:
      raise ConfigError("input_mask", "given beside attention_mask", accepted="one of them")
    padding = padding if mask is None else jnp.asarray(mask) == 0
    if cache is not None:
      mems_NBMD: Any = jnp.moveaxis(cache["mems"], 1, 0)
      unseen_BLM: Any = ~segment_memory.goes_on(cache, ids_BL, segments)
    else:
      mems_NBMD, unseen_BLM = None if mems is None else jnp.moveaxis(jnp.stack(tuple(mems)), 1, 2), None
    distance_key, content_key, query_key, layers_key, out_key = split(key, 5)
    rate = self.config.dropout
    around = self._surroundings(ids_BL, mems_NBMD, unseen_BLM, padding, types, segments, perm_mask, target_mapping,
                                distance_key)
    h = dropout(constrain(self.tokens(ids_BL), "batch", "length", "width"), rate, content_key)
    g = None
    if target_mapping is not None:
      start = self.mask_embedding[...].astype(h.dtype)
      g = dropout(jnp.broadcast_to(start, (h.shape[0], target_mapping.shape[1], h.shape[2])), rate, query_key)
    wants_mems = use_mems if use_mems is not None else (
        self.config.use_mems_eval if key is None else self.config.use_mems_train)
    wants_mems = wants_mems and cache is None
    (h, g), kept = self._layers((h, g), mems_NBMD, around, layers_key,
                                collect=output_hidden_states or wants_mems or cache is not None)
    x = dropout(h if g is None else g, rate, out_key)
    states = None
    if output_hidden_states:
      streams = [jnp.concatenate([k, last[None]]) for k, last in zip(kept, (h, g)) if last is not None]
      states = tuple(stream[i] for i in range(self.config.depth + 1) for stream in streams)
    extra = {"mems": self._mems(kept[0], mems_NBMD)} if wants_mems else {}
    after = None if cache is None else segment_memory.after(cache, kept[0], padding, segments)
    return self._output(x, input_ids.shape, key, hidden_states=states, extra=extra, cache=after)

  def init_cache(self, batch: int, length: int) -> Memory:
    """A memory of nothing, for `mem_len` tokens, or `length` where the config keeps all; see segment_memory.py."""
    c = self.config
    return segment_memory.empty(batch, c.depth, c.mem_len or length, c.width, jnp.dtype(c.dtype))

  def _surroundings(self, ids_BL, mems, unseen_BLM, padding, types, segments, perm_mask, target_mapping,
                    key) -> Surroundings:
    """What every query sees, how far it is from each key, and in which segment that is."""
    c, (B, L) = self.config, ids_BL.shape
    before = 0 if mems is None else mems.shape[2]
    q_L1, k_1M = jnp.arange(L)[:, None], jnp.arange(before + L)[None, :]
    hidden = None
    if c.attn_type == "uni":
      hidden = (k_1M > q_L1 + before)[None] | (c.same_length & (k_1M < q_L1))[None]
    data = [a for a in (None if padding is None else padding[:, None, :] > 0,
                        None if segments is None else segments[:, :, None] != segments[:, None, :],
                        None if perm_mask is None else perm_mask > 0) if a is not None]
    rules = [jnp.pad(jnp.broadcast_to(a, (B, L, L)), ((0, 0), (0, 0), (before, 0))) for a in data]
    if unseen_BLM is not None:  # without it all of earlier segments is seen
      rules.append(jnp.pad(unseen_BLM, ((0, 0), (0, 0), (0, L))))
    for rule in rules:
      hidden = rule if hidden is None else hidden | rule
    itself = (k_1M == q_L1 + before)[None]
    query_sees = Visibility(causal=False, pairs=None if hidden is None else ~hidden)
    content_sees = Visibility(causal=False, pairs=None if hidden is None else ~hidden | itself)
    other = None
    if types is not None:
      types_BM = jnp.pad(types, ((0, 0), (before, 0)))
      other = types[:, :, None] != types_BM[:, None, :]
    return Surroundings(content_sees, query_sees, self._distances(B, L, before + L, key), other, target_mapping)

  def _distances(self, rows: int, queries: int, keys: int, key) -> jax.Array:
    """(G, L + M, D): from M, the furthest key before the last query, down to 1 - L, the furthest one ahead."""
    c = self.config
    at = keys - jnp.arange(queries + keys, dtype=jnp.float32)
    at = jnp.clip(at, -c.clamp_len, c.clamp_len) if c.clamp_len > 0 else at
    if c.bi_data and rows % 2:
      raise ConfigError("config.model.bi_data", f"{rows} rows cannot be halved", accepted="an even batch")
    ways = (at, -at) if c.bi_data else (at,)
    return dropout(jnp.stack([sinusoids(way, c.width) for way in ways]), c.dropout, key)

  def _layers(self, streams, mems, around: Surroundings, key, collect: bool):
    c = self.config
    def call(block, carry, layer, kind, extra):
      memory, key = extra
      return block(*carry, memory, around, key)
    keys = None if key is None else jax.random.split(key, c.depth)
    return layer_stack.run(self.blocks, streams, call, kinds=[None] * c.depth, scan=c.scan, remat=c.remat,
                           per_layer=(mems, keys), collect=(lambda carry: carry) if collect else None)

  def _mems(self, inputs_NBLD: jax.Array, before: jax.Array | None) -> jax.Array:
    """The layers' inputs that the next segment may see, (N, M, B, D); no gradient flows through them."""
    c = self.config
    kept = inputs_NBLD[:, :, :c.reuse_len] if c.reuse_len else inputs_NBLD
    kept = kept if before is None else jnp.concatenate([before.astype(kept.dtype), kept], 2)
    kept = kept[:, :, -c.mem_len:] if c.mem_len else kept
    return jax.lax.stop_gradient(jnp.moveaxis(kept, 2, 1))

  def _output(self, x: jax.Array, shape: tuple[int, ...], key: jax.Array | None, **common: Any) -> Output:
    head = self.config.head
    if head in ("lm", "none"):
      return Output(x, unembed=self.unembed if head == "lm" else None, **common)
    if head in ("token", "question"):
      output = Output(x, scores=self.classifier(x), **common)
      return encoder_heads.span(output) if head == "question" else output
    of = {"first": lambda x: x[:, :1], "mean": lambda x: x.mean(1, keepdims=True)}
    read_B1D = of.get(self.config.summary, lambda x: x[:, -1:])(x)
    if self.summary is None:
      act = activation(self.config.summary_act or "linear")
      read_BD = dropout(in_float32(act, read_B1D[:, 0]), self.config.dropout, key)
    else:
      read_BD = self.summary(read_B1D, key)
    scores = self.classifier(read_BD)
    return Output(x, scores=scores.reshape(shape[:2]) if head == "choice" else scores, **common)

  def unembed(self, hidden: jax.Array) -> jax.Array:
    """(..., D) -> (..., V) scores."""
    scores = self.tokens.attend(hidden) if self.head is None else self.head(hidden)
    return scores + self.head_bias[...].astype(scores.dtype)


def _block(rngs: nnx.Rngs, c: XLNetConfig) -> TwoStreamBlock:
  norm = partial(LayerNorm, rngs, c.width, epsilon=c.epsilon)
  options = AttentionOptions(dropout=c.dropout, implementation=c.attention)
  attention = TwoStreamAttention(rngs, c.width, c.heads, c.head_width or c.width // c.heads, options)
  feed_forward = FeedForward(rngs, c.width, c.hidden, act=c.act, dropout=c.dropout)
  return TwoStreamBlock(attention, norm(), feed_forward, norm(), dropout=c.dropout)


def offers(config: XLNetConfig) -> tuple[str, ...]:
  """What it can be trained for, in the words of core/offers.py."""
  if config.head == "lm":
    carry = () if config.reuse_len else ("carry",)  # part of a row would leave a gap before the next one
    return (*(("causal", "mems") if config.attn_type == "uni" else ("permutation", "masked", "mems")), *carry)
  return encoder_heads.OFFERS[config.head]


def from_config(config: XLNetConfig) -> Model:
  """The model of this config.

  Raises:
    ConfigError: sizes that do not fit together, an unknown activation, head or remat policy.
  """
  check_counts("config.model", width=config.width, depth=config.depth, heads=config.heads, hidden=config.hidden,
               head_width=config.head_width, labels=config.labels)
  check_rate(config.dropout)
  if config.head_width is None and config.width % config.heads:
    raise ConfigError("config.model.heads", f"{config.heads} heads do not divide width {config.width}",
                      accepted=f"a divisor of {config.width}")
  if config.width % 2:
    raise ConfigError("config.model.width", f"got {config.width}", accepted="an even number: sines and cosines")
  if config.head not in HEADS:
    raise unknown_name("config.model.head", config.head, HEADS, what="head")
  activation(config.act, "config.model.act")
  if layer_stack.check_policy(config.remat) == "split":
    raise ConfigError("config.model.remat", "'split' is of blocks with one stream", accepted="another policy")
  return Model.from_module(lambda rngs: XLNet(rngs, config), config, offers=offers(config))


def build(vocab_size: int, length: int, *, variant: str = "base", width: int | None = None, depth: int | None = None,
          heads: int | None = None, head_width: int | None = None, hidden: int | None = None, act: str | None = None,
          attn_type: Literal["bi", "uni"] = "bi", clamp_len: int = -1, same_length: bool = False,
          bi_data: bool = False, mem_len: int | None = None, reuse_len: int | None = None, dropout: float = 0.0,
          tied: bool = True, head: encoder_heads.EncoderHead = "lm", labels: int = 2,
          dtype: Literal["float32", "bfloat16"] = "float32", remat: str = "none", scan: bool = True,
          attention: Implementation = "auto") -> Model:
  """An XLNet for `vocab_size` tokens; rows of any length.

  Args:
    variant: published size: base, large; debug runs anywhere.
    width: model width D; None takes the variant's, as for the next ones.
    depth: number of layers.
    heads: attention heads.
    head_width: width of a head; width / heads when not given.
    hidden: feed-forward width.
    act: activation, by Hugging Face's names.
    attn_type: 'bi' sees both sides, 'uni' what is before (Transformer-XL).
    clamp_len: distance from which on all are alike; -1 for none.
    same_length: with 'uni', every token sees as many tokens.
    bi_data: the second half of the batch's rows run backwards.
    mem_len: tokens kept of earlier segments; None keeps all, and in training, with data.packing='stream', a row.
    reuse_len: tokens of each segment that are kept; None keeps all, and only then can training carry them.
    dropout: rate on embeddings, distances, attention weights, hidden layers and residuals.
    tied: share the token embedding with the output head.
    head: lm, or one for labels: sequence, token, question, choice; none for the bare network.
    labels: number of labels of heads for sequences and tokens.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots.
    scan: one compiled layer run in a loop; False unrolls.
    attention: implementation behind the attention door; scores by distance leave 'xla' alone.
  """
  sizes = chosen(VARIANTS, variant, width=width, depth=depth, heads=heads, head_width=head_width, hidden=hidden,
                 act=act)
  return from_config(XLNetConfig(vocab_size=vocab_size, attn_type=attn_type, clamp_len=clamp_len, bi_data=bi_data,
                                 same_length=same_length, mem_len=mem_len, reuse_len=reuse_len, dropout=dropout,
                                 tied=tied, head=head, labels=labels, dtype=dtype, remat=remat, scan=scan,
                                 attention=attention, **sizes))
