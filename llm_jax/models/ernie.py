"""ERNIE of Baidu (Sun et al. 2019, 2020, 2021): BERT's encoder, with an embedding of the task that a row belongs to.

What makes it ERNIE is what is masked: whole phrases and entities instead of single tokens, which is the objective's and
the data's affair (masked_lm with unit='phrase'). ERNIE 2.0 learns several tasks in turn and tells the network which.
"""

from typing import Any, Literal

from llm_jax.core.model import Model
from llm_jax.core.sizes import chosen
from llm_jax.layers.dot_product import Implementation
from llm_jax.layers.encoder_heads import EncoderHead
from llm_jax.models import bert
from llm_jax.models.bert_encoder import BertConfig, sized

V2 = dict(act="gelu", token_types=4)
V3 = dict(act="gelu", token_types=4, task_types=16, positions=2048)
# The papers' sections on experiments and the released config.json; those of 2.0 came without the table of tasks.
VARIANTS: dict[str, dict[str, Any]] = {
    "debug": dict(width=64, depth=2, heads=4, hidden=256, positions=128, task_types=3),
    "1.0": bert.BASE | dict(act="relu", positions=513),
    "2.0-base": V2 | bert.BASE,
    "2.0-large": V2 | bert.LARGE,
    "3.0-nano": V3 | dict(width=312, depth=4, heads=12, hidden=1248),
    "3.0-micro": V3 | dict(width=384, depth=4, heads=12, hidden=1536),
    "3.0-mini": V3 | dict(width=384, depth=6, heads=12, hidden=1536),
    "3.0-medium": V3 | bert.BASE | dict(depth=6),
    "3.0-base": V3 | bert.BASE | dict(task_types=3),
    "3.0-xbase": V3 | bert.LARGE | dict(depth=20),
}


def build(vocab_size: int, length: int, *, variant: str = "3.0-base", width: int | None = None,
          depth: int | None = None, heads: int | None = None, hidden: int | None = None, positions: int | None = None,
          act: str | None = None, task_types: int | None = None, head: EncoderHead = "lm", labels: int = 2,
          dropout: float = 0.0, tied: bool = True, dtype: Literal["float32", "bfloat16"] = "float32",
          remat: str = "none", scan: bool = True, attention: Implementation = "auto") -> Model:
  """An ERNIE for `vocab_size` tokens and rows of `length`.

  Args:
    variant: published size: debug, 1.0, 2.0-base, 2.0-large, 3.0-nano ... 3.0-xbase.
    width: model width D; None takes the variant's, as for the next ones.
    depth: number of layers.
    heads: attention heads.
    hidden: feed-forward width.
    positions: rows of the position table; None: the variant's, or more for longer rows.
    act: activation, by Hugging Face's names.
    task_types: rows of the table of tasks; 0: no such table (1.0, 2.0 as released).
    head: lm (masked tokens), pretraining (and next sentence), next_sentence, sequence, token, question, choice, none.
    labels: number of labels of the heads 'sequence' and 'token'.
    dropout: rate on embeddings, residuals and attention weights.
    tied: share the token embedding with the output head.
    dtype: compute type; parameters, norms, softmax and loss stay float32.
    remat: what the backward pass recomputes: none, full, dots, dots_no_batch, offload_dots, split, split_wide.
    scan: one compiled layer run in a loop; False unrolls (slower to compile, a few percent faster to run).
    attention: implementation behind the attention door.
  """
  sizes = sized(chosen(VARIANTS, variant, width=width, depth=depth, heads=heads, hidden=hidden, act=act,
                       task_types=task_types), length, positions)
  return bert.from_config(BertConfig(vocab_size=vocab_size, family="ernie", head=head, labels=labels, dropout=dropout,
                                     attention_dropout=dropout, tied=tied, dtype=dtype, remat=remat, scan=scan,
                                     attention=attention, **sizes))
