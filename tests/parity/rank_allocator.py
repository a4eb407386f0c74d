"""Records what peft's RankAllocator does to three maps under given gradients: `python rank_allocator.py FILE.npz`.

Plain gradient descent of given gradients, then the allocator, as a training loop calls it. in.<map>.<part>: A, E and B
at the start; in.<map>.<part>.grads (steps, ...); out.<map>.E (steps, rank): E after every update. Needs torch and peft.
"""

import sys

import numpy as np
import peft
import torch

SIZES = {"x0": (6, 5), "x1": (6, 5), "y": (4, 7)}  # (in, out)
STEPS, RATE = 12, 0.05
SEED = 2  # of a draw where what update 9 would add to the averages decides which triplets are left
CONFIG = dict(init_r=4, target_r=2, lora_alpha=8, tinit=2, tfinal=3, deltaT=2, beta1=0.8, beta2=0.9, total_step=STEPS)


class Maps(torch.nn.Module):
  """Three linear maps."""

  def __init__(self):
    super().__init__()
    for name, (inputs, outputs) in SIZES.items():
      setattr(self, name, torch.nn.Linear(inputs, outputs, bias=False))


def main(file: str) -> None:
  adapter = peft.get_peft_model(Maps(), peft.AdaLoraConfig(target_modules=list(SIZES), **CONFIG)).base_model
  random, arrays, parts = np.random.default_rng(SEED), {}, {}
  for name in SIZES:
    layer = getattr(adapter.model, name)
    for part, size in (("A", 0.5), ("E", 1.0), ("B", 0.5)):
      p = parts[name, part] = getattr(layer, f"lora_{part}")["default"]
      arrays[f"in.{name}.{part}"] = random.normal(0, size, p.shape).astype(np.float32)
      arrays[f"in.{name}.{part}.grads"] = random.normal(0, 1, (STEPS, *p.shape)).astype(np.float32)
      p.data = torch.tensor(arrays[f"in.{name}.{part}"])
  values = {name: [] for name in SIZES}
  for step in range(STEPS):
    for (name, part), p in parts.items():
      p.grad = torch.tensor(arrays[f"in.{name}.{part}.grads"][step])
      p.data -= RATE * p.grad
    adapter.update_and_allocate(step + 1)
    for name in SIZES:
      values[name].append(parts[name, "E"].detach().numpy().reshape(-1).copy())
  arrays |= {f"out.{name}.E": np.stack(rows) for name, rows in values.items()}
  np.savez_compressed(file, **arrays)
  print({name: (np.stack(rows) != 0).sum(1).tolist() for name, rows in values.items()})


if __name__ == "__main__":
  main(*sys.argv[1:])
