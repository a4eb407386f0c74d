"""Greedy decoding against `generate` of transformers: GPT-2 124M shapes, random weights, float32, on this CPU.

Both sides run in their own process, pinned to the same cores, and are timed in turns, so that a busy machine slows
both. A time is that of the whole call: the prompt, then the new tokens. PyTorch may live in another environment:

  python benchmarks/decode.py --torch_python ~/venvs/torch/bin/python --threads 1 2 --batches 1 8

Writes benchmarks/results/decode_cpu.json: tokens per second of each round, medians, their ratio, and the machine.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import machine

RESULTS = pathlib.Path(__file__).parent / "results" / "decode_cpu.json"
SIDES = ("jax", "transformers")


def main() -> None:
  """Reads the command line, measures, prints a table and writes the JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--torch_python", "--torch-python", default=sys.executable,
                      help="a Python with torch and transformers")
  parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
  parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
  parser.add_argument("--prompt", type=int, default=16, help="tokens of each prompt")
  parser.add_argument("--new", type=int, default=48, help="new tokens of each row")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
  parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    serve(arguments.worker, arguments.threads[0])
    return
  measured_on = machine.describe()
  versions: dict[str, str] = {}
  rows = [row for threads in arguments.threads for row in measure(arguments, threads, versions)]
  result = {"what": "greedy decoding, GPT-2 124M shapes, random weights, float32, whole call",
            "date": time.strftime("%Y-%m-%d"), "machine": measured_on, "versions": versions, "rows": rows}
  arguments.out.parent.mkdir(parents=True, exist_ok=True)
  arguments.out.write_text(json.dumps(result, indent=1) + "\n")
  print(f"written: {arguments.out}")


def measure(arguments: argparse.Namespace, threads: int, versions: dict[str, str]) -> list[dict]:
  """One row per batch size; the two sides take turns."""
  python = {"jax": sys.executable, "transformers": arguments.torch_python}
  workers = {side: subprocess.Popen([python[side], __file__, "--worker", side, "--threads", str(threads)],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for side in SIDES}
  def ask(side: str, batch: int, new: int) -> float:
    workers[side].stdin.write(json.dumps([batch, arguments.prompt, new]) + "\n")
    workers[side].stdin.flush()
    return float(workers[side].stdout.readline())
  rows = []
  try:
    for side in SIDES:
      versions.update(json.loads(workers[side].stdout.readline()))
    for batch in arguments.batches:
      for side in SIDES:
        ask(side, batch, arguments.new)  # compiles, warms up
      rates: dict[str, list[float]] = {side: [] for side in SIDES}
      for _ in range(arguments.rounds):
        for side in SIDES:
          rates[side].append(round(batch * arguments.new / ask(side, batch, arguments.new), 2))
      ratios = [ours / theirs for ours, theirs in zip(rates["jax"], rates["transformers"])]
      row = {"threads": threads, "batch": batch, "prompt": arguments.prompt, "new": arguments.new,
             "tokens_per_second": rates, "median": {side: statistics.median(rates[side]) for side in SIDES},
             "ratio": round(statistics.median(ratios), 3),
             "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)]}
      print(f"threads {threads}  batch {batch}  jax {row['median']['jax']:7.1f} tok/s  transformers "
            f"{row['median']['transformers']:7.1f} tok/s  ratio {row['ratio']:.2f} {row['ratio_range']}", flush=True)
      rows.append(row)
  finally:
    for worker in workers.values():
      worker.stdin.close()
      worker.wait()
  return rows


def serve(side: str, threads: int) -> None:
  """A worker: says its versions, then answers each request with the seconds that the call took."""
  os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
  run, versions = {"jax": jax_side, "transformers": transformers_side}[side](threads)
  print(json.dumps(versions), flush=True)
  for line in sys.stdin:
    batch, prompt, new = json.loads(line)
    start = time.perf_counter()
    run(batch, prompt, new)
    print(time.perf_counter() - start, flush=True)


def jax_side(threads: int):
  """-> (function of batch, prompt length and new tokens; versions)."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
  from llm_jax.core import allocator
  allocator.restart()
  import jax

  from llm_jax.inference.generate import Generator
  from llm_jax.models import gpt
  model = gpt.build(50257, 1024, variant="124m")
  generator = Generator(model, jax.jit(model.init)(jax.random.key(0)))
  def run(batch: int, prompt: int, new: int) -> None:
    rows = [[(7 * i + 13 * j) % 50257 for j in range(prompt)] for i in range(batch)]
    result = generator.generate(rows, max_new_tokens=new)
    assert all(len(row.tokens) == new for row in result)
  return run, {"jax": jax.__version__, "python": sys.version.split()[0]}


def transformers_side(threads: int):
  """-> (function of batch, prompt length and new tokens; versions)."""
  import torch
  import transformers
  torch.set_num_threads(threads)
  model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
  def run(batch: int, prompt: int, new: int) -> None:
    rows = torch.tensor([[(7 * i + 13 * j) % 50257 for j in range(prompt)] for i in range(batch)])
    with torch.inference_mode():
      out = model.generate(rows, attention_mask=torch.ones_like(rows), do_sample=False, max_new_tokens=new,
                           min_new_tokens=new, pad_token_id=50256)
    assert out.shape[1] == prompt + new
  return run, {"torch": torch.__version__, "transformers": transformers.__version__}


if __name__ == "__main__":
  main()
