"""Training throughput on a CPU against PyTorch, like for like, in alternating rounds of one run.

  python benchmarks/train_throughput.py --torch_python=VENV/bin/python [--sizes=big,small] [--threads=2,1]
  python benchmarks/train_throughput.py --torch_python=VENV/bin/python --sizes=bert_base --gelus=erf --rounds=5 \
      --out=benchmarks/results/train_throughput_bert_cpu.json
  python benchmarks/train_throughput.py --torch_python=VENV/bin/python --sizes=t5_small --rounds=5 \
      --out=benchmarks/results/train_throughput_t5_cpu.json

The peer of GPT-2 shapes is a plain GPT-2, that of BERT shapes BertForMaskedLM of transformers, that of T5 shapes
(version 1.0, whose activation is relu) T5ForConditionalGeneration, where the tokens of source and target count;
`ours_as_trained` is our BERT step as a run has it, which scores the masked tokens alone. Same shapes, batch, gelu,
clipping and AdamW (fused in PyTorch); forward, backward and update are timed. In bfloat16 both multiply in bfloat16
with float32 parameters, norms, softmax, loss and optimizer; autocast keeps the residual stream and elementwise
operations in float32, ours are bfloat16 outside norms. Our process has the allocator that our doors bring; PyTorch is
measured as it comes and, as a variant of its own, with the same allocator. All contenders are in memory at
once: BERT-base takes 2 GB each. Results are JSON, with every round's median, the machine and the versions; beside the
ratio of median step times stand those of the best steps and of the processor time that a step takes, which other work
on the machine disturbs least.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from typing import Any

import machine
import worker

from llm_jax.core import allocator

HERE = pathlib.Path(__file__).parent
SIZES = {
    "big": dict(network="gpt2", depth=6, width=384, heads=6, length=256, batch=8, vocab=65),
    "small": dict(network="gpt2", depth=4, width=128, heads=4, length=64, batch=12, vocab=65),
    "bert_base": dict(network="bert", depth=12, width=768, heads=12, length=128, batch=8, vocab=30_522),
    "bert_mini": dict(network="bert", depth=4, width=256, heads=4, length=128, batch=8, vocab=30_522),
    "t5_small": dict(network="t5", depth=6, width=512, heads=8, length=128, written=32, batch=8, vocab=32_128),
    "t5_mini": dict(network="t5", depth=2, width=128, heads=2, length=128, written=32, batch=8, vocab=1_024),
}
OURS = {
    "ours_scan": dict(malloc=True, scan=True, attention="auto"),
    "ours_unrolled": dict(malloc=True, scan=False, attention="auto"),
}
# Ours with one library of kernels, whatever the processor (parallel/compiler.py chooses); measured when asked for.
FORCED = {
    f"ours_{name}": OURS["ours_unrolled"] | dict(xla_flags=f"--xla_cpu_experimental_ynn_fusion_type={fusions}")
    for name, fusions in dict(ynnpack="individual_dot,reduce", eigen="reduce").items()
}
ONLY = {"bert": {"ours_as_trained": dict(malloc=True, scan=False, attention="auto", chosen_only=True)}}
TORCH = {
    "torch_eager": dict(compile=False),
    "torch_compile": dict(compile=True),
    "torch_eager_malloc": dict(compile=False, malloc=True),
    "torch_compile_malloc": dict(compile=True, malloc=True),
}
PEERS = ("torch_eager", "torch_compile")  # the bar is the better of these


def measure(size: str, dtype: str, gelu: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
  """One table row: tokens per second of every contender and the ratios."""
  common = dict(SIZES[size], dtype=dtype, gelu=gelu, threads=threads)
  network = common["network"]
  ours = OURS | FORCED | ONLY.get(network, {})
  contenders = {n: (sys.executable, f"jax_{network}.py", v) for n, v in ours.items()}
  contenders |= {n: (options.torch_python, f"torch_{network}.py", v) for n, v in TORCH.items()}
  wanted = options.contenders.split(",") if options.contenders else [n for n in contenders if n not in FORCED]
  workers = {}
  for name in wanted:
    python, script, settings = contenders[name]
    environment = allocator.preload(os.environ) if settings.get("malloc") else {}
    environment |= {"XLA_FLAGS": settings["xla_flags"]} if "xla_flags" in settings else {}
    workers[name] = worker.Worker(python, str(HERE / script), common | settings, environment)
  steps = dict(pair.split("=") for pair in options.steps.split(","))
  load_before = os.getloadavg()[0]
  worker.alternate(list(workers.values()), options.rounds, int(steps[size]))
  tokens = common["batch"] * (common["length"] + common.get("written", 0))
  row: dict[str, Any] = dict(size=size, dtype=dtype, gelu=gelu, threads=threads, load_before=load_before, contenders={})
  for name, w in workers.items():
    w.close()
    medians = [statistics.median(r) for r in w.seconds]
    row["contenders"][name] = dict(
        tokens_per_second=tokens / statistics.median(medians), step_ms=1e3 * statistics.median(medians),
        best_ms=1e3 * min(min(r) for r in w.seconds), cpu_ms=1e3 * statistics.median(w.cpu_seconds),
        round_ms=[round(1e3 * m, 2) for m in medians], **w.ready)
  peers = [row["contenders"][n] for n in PEERS if n in workers]
  for name in ours:
    if name in workers and peers:
      mine = row["contenders"][name]
      row[f"ratio_{name}"] = min(p["step_ms"] for p in peers) / mine["step_ms"]
      row[f"ratio_of_best_{name}"] = min(p["best_ms"] for p in peers) / mine["best_ms"]
      row[f"ratio_of_cpu_time_{name}"] = min(p["cpu_ms"] for p in peers) / mine["cpu_ms"]
  return row


def main() -> None:
  """Parses the command line, measures every row and writes the results after each."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--torch_python", "--torch-python", required=True, help="a Python that has PyTorch")
  parser.add_argument("--sizes", default="big,small")
  parser.add_argument("--dtypes", default="float32,bfloat16")
  parser.add_argument("--gelus", default="tanh", help="tanh, erf or both")
  parser.add_argument("--threads", default="2")
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--steps", default="big=3,small=20,bert_base=1,bert_mini=5,t5_small=2,t5_mini=10",
                      help="steps per round and contender")
  parser.add_argument("--contenders", default="",
                      help=f"of {', '.join([*OURS, *FORCED, *TORCH])} ...; when empty, all but {', '.join(FORCED)}")
  parser.add_argument("--out", default=str(HERE / "results" / "train_throughput_cpu.json"))
  options = parser.parse_args()
  result = dict(machine=machine.describe(), date=time.strftime("%Y-%m-%d"), rows=[])
  for threads in map(int, options.threads.split(",")):
    for gelu in options.gelus.split(","):
      for size in options.sizes.split(","):
        for dtype in options.dtypes.split(","):
          row = measure(size, dtype, gelu, threads, options)
          result["rows"].append(row)
          print_row(row)
          pathlib.Path(options.out).write_text(json.dumps(result, indent=1) + "\n")


def print_row(row: dict[str, Any]) -> None:
  """The row as lines for a terminal."""
  ratios = "  ".join(f"{k} {v:.2f}" for k, v in row.items() if k.startswith("ratio"))
  print(f"{row['size']} {row['dtype']} gelu {row['gelu']} threads {row['threads']}: {ratios}")
  for name, c in row["contenders"].items():
    print(f"  {name:22s} {c['tokens_per_second']:9.0f} tokens/s  {c['step_ms']:8.1f} ms  best {c['best_ms']:8.1f} ms  "
          f"cpu {c['cpu_ms']:8.1f} ms")
  sys.stdout.flush()


if __name__ == "__main__":
  main()
