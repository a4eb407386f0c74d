"""GPT-2 in PyTorch, the peer of the training benchmark: eager or torch.compile, fused AdamW, fused attention.

The same network as llm_jax/models/gpt.py: learned positions, pre-norm, gelu in its tanh form (or erf), tied head. In
bfloat16 it runs under torch.autocast: bfloat16 products, float32 parameters, norms, softmax and residual stream.
"""

import contextlib

import worker

if __name__ == "__main__":
  SPEC = worker.read_spec()

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
  """(B, L, D) -> (B, L, D)."""

  def __init__(self, width: int, heads: int, gelu: str):
    super().__init__()
    self.heads = heads
    self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
    self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    self.gelu = "tanh" if gelu == "tanh" else "none"

  def forward(self, x):
    batch, length, width = x.shape
    split = lambda a: a.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
    q, k, v = (split(a) for a in self.qkv(self.attention_norm(x)).split(width, dim=2))
    attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
    return x + self.down(functional.gelu(self.up(self.feed_forward_norm(x)), approximate=self.gelu))


class GPT2(nn.Module):
  """ids, targets (B, L) -> mean cross-entropy in nats."""

  def __init__(self, depth: int, width: int, heads: int, length: int, vocab: int, gelu: str):
    super().__init__()
    self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(length, width)
    self.blocks = nn.ModuleList([Block(width, heads, gelu) for _ in range(depth)])
    self.final_norm = nn.LayerNorm(width)
    for name, parameter in self.named_parameters():
      if parameter.ndim == 2:
        scale = (2 * depth) ** -0.5 if name.endswith(("out.weight", "down.weight")) else 1.0
        nn.init.normal_(parameter, std=0.02 * scale)
      elif name.endswith("bias"):
        nn.init.zeros_(parameter)

  def forward(self, ids, targets):
    x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
    for block in self.blocks:
      x = block(x)
    logits = functional.linear(self.final_norm(x), self.tokens.weight)
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def make_step(spec):
  """One train step of GPT-2 -> its loss."""
  torch.set_num_threads(spec["threads"])
  torch.manual_seed(0)
  model = GPT2(spec["depth"], spec["width"], spec["heads"], spec["length"], spec["vocab"], spec["gelu"])
  batch = torch.randint(spec["vocab"], (spec["batch"], spec["length"] + 1))
  return stepper(model, model, (batch[:, :-1].contiguous(), batch[:, 1:].contiguous()), spec)


def stepper(model, loss_of, inputs, spec):
  """One train step of this model -> its loss, `loss_of(*inputs)`: forward, backward, clip to norm 1, fused AdamW."""
  decayed = [p for p in model.parameters() if p.ndim >= 2]
  others = [p for p in model.parameters() if p.ndim < 2]
  optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                                lr=1e-3, betas=(0.9, 0.99), fused=True)
  forward = torch.compile(loss_of) if spec["compile"] else loss_of
  low = spec["dtype"] == "bfloat16"

  def step() -> float:
    with torch.autocast("cpu", torch.bfloat16) if low else contextlib.nullcontext():
      loss = forward(*inputs)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()
  return step


if __name__ == "__main__":
  worker.serve(make_step(SPEC), {"torch": torch.__version__})
