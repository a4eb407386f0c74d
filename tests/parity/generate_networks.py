"""Writes reference cases of recurrent and character networks: `python tests/parity/generate_networks.py OUT --seed N`.

transformers has none of them, so they are built here from torch.nn: an LSTM and a GRU language model that start from a
given state, a bidirectional LSTM over padded rows, the classifier of Zhang et al. 2015 and the language model of Kim et
al. 2016, with sizes drawn from the seed. Folders are as those of generate.py, but config.json names the class under
`model`. Needs torch; `tests/parity/compare.py OUT` reads them.
"""

import argparse
import itertools
import json
import pathlib
import random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

ROWS = 3
Arrays = dict[str, torch.Tensor]


class RNNLM(nn.Module):
  """Embedding, nn.LSTM or nn.GRU, linear head."""

  def __init__(self, cell: str, vocab_size: int, embedding_size: int, hidden_size: int, num_layers: int):
    super().__init__()
    self.embedding = nn.Embedding(vocab_size, embedding_size)
    make = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
    self.rnn = make(embedding_size, hidden_size, num_layers, batch_first=True)
    self.head = nn.Linear(hidden_size, vocab_size)

  def run(self, inputs: Arrays) -> Arrays:
    state = (inputs["h0"], inputs["c0"]) if "c0" in inputs else inputs["h0"]
    states, last = self.rnn(self.embedding(inputs["input_ids"]), state)
    found = dict(zip(("h_last", "c_last"), last if isinstance(last, tuple) else (last,)))
    return found | dict(rnn_output=states, logits=self.head(states))


class BiRNN(nn.Module):
  """A bidirectional LSTM over rows padded on the right, with scores of each token."""

  def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int, num_layers: int, num_labels: int):
    super().__init__()
    self.embedding = nn.Embedding(vocab_size, embedding_size)
    self.rnn = nn.LSTM(embedding_size, hidden_size, num_layers, batch_first=True, bidirectional=True)
    self.head = nn.Linear(2 * hidden_size, num_labels)

  def run(self, inputs: Arrays) -> Arrays:
    ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(1)
    rows = nn.utils.rnn.pack_padded_sequence(self.embedding(ids), lengths, batch_first=True)
    packed, (h, c) = self.rnn(rows)
    states, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=ids.shape[1])
    return dict(rnn_output=states, logits=self.head(states), h_last=h, c_last=c)


class ZhangCharCNN(nn.Module):
  """Six convolutions, three poolings, three linear layers."""

  def __init__(self, alphabet: int, features: int, length: int, hidden: int, num_labels: int):
    super().__init__()
    self.alphabet = alphabet
    inputs, widths = [alphabet, *[features] * 5], (7, 7, 3, 3, 3, 3)
    self.conv = nn.ModuleList(nn.Conv1d(i, features, w) for i, w in zip(inputs, widths))
    sizes = (features * ((length - 96) // 27), hidden, hidden, num_labels)
    self.fc = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

  def run(self, inputs: Arrays) -> Arrays:
    table = torch.cat([torch.zeros(1, self.alphabet), torch.eye(self.alphabet)])
    x = table[inputs["char_ids"]].permute(0, 2, 1)
    for i, layer in enumerate(self.conv):
      x = layer(x).relu()
      x = nn.functional.max_pool1d(x, 3) if i in (0, 1, 5) else x
    x = x.flatten(1)
    for layer in self.fc[:-1]:
      x = layer(x).relu()
    return dict(logits=self.fc[-1](x))


class KimCharLM(nn.Module):
  """Convolutions over the characters of a word, highway layers, an LSTM over words."""

  def __init__(self, chars: int, char_dim: int, filters: list[list[int]], highway_layers: int, hidden_size: int,
               num_layers: int, vocab_size: int):
    super().__init__()
    self.char_embedding = nn.Embedding(chars, char_dim, padding_idx=0)
    nn.init.normal_(self.char_embedding.weight)  # the row of the padding too
    self.conv = nn.ModuleList(nn.Conv1d(char_dim, count, width) for width, count in filters)
    width = sum(count for _, count in filters)
    self.highway_gate = nn.ModuleList(nn.Linear(width, width) for _ in range(highway_layers))
    self.highway_transform = nn.ModuleList(nn.Linear(width, width) for _ in range(highway_layers))
    self.rnn = nn.LSTM(width, hidden_size, num_layers, batch_first=True)
    self.head = nn.Linear(hidden_size, vocab_size)

  def run(self, inputs: Arrays) -> Arrays:
    rows, words, _ = inputs["char_ids"].shape
    x = self.char_embedding(inputs["char_ids"].flatten(0, 1)).permute(0, 2, 1)
    y = torch.cat([layer(x).tanh().amax(2) for layer in self.conv], 1)
    for gate, transform in zip(self.highway_gate, self.highway_transform):
      open_ = gate(y).sigmoid()
      y = open_ * transform(y).relu() + (1 - open_) * y
    vectors = y.unflatten(0, (rows, words))
    return dict(word_vectors=vectors, logits=self.head(self.rnn(vectors)[0]))


def recurrent(r: random.Random, cell: str) -> tuple[nn.Module, dict[str, Any], Arrays]:
  config = dict(cell=cell, vocab_size=r.randint(11, 29), embedding_size=r.randint(4, 9), hidden_size=r.randint(4, 9),
                num_layers=r.randint(1, 3))
  ids = torch.randint(config["vocab_size"], (ROWS, 10))
  state = {name: torch.randn(config["num_layers"], ROWS, config["hidden_size"])
           for name in ("h0", "c0")[:2 if cell == "lstm" else 1]}
  return RNNLM(**config), config, dict(input_ids=ids[:, :-1], labels=ids[:, 1:]) | state


def lstm_lm(r: random.Random) -> tuple[nn.Module, dict[str, Any], Arrays]:
  return recurrent(r, "lstm")


def gru_lm(r: random.Random) -> tuple[nn.Module, dict[str, Any], Arrays]:
  return recurrent(r, "gru")


def lstm_bidirectional(r: random.Random) -> tuple[nn.Module, dict[str, Any], Arrays]:
  config = dict(vocab_size=r.randint(11, 29), embedding_size=r.randint(4, 9), hidden_size=r.randint(4, 9),
                num_layers=r.randint(1, 3), num_labels=r.randint(2, 5))
  mask = (torch.arange(9) < torch.tensor([[9], [r.randint(4, 8)], [r.randint(1, 3)]])).long()
  return BiRNN(**config), config, dict(input_ids=torch.randint(config["vocab_size"], mask.shape) * mask,
                                       attention_mask=mask)


def char_cnn_zhang(r: random.Random) -> tuple[nn.Module, dict[str, Any], Arrays]:
  config = dict(alphabet=r.randint(6, 12), features=r.randint(4, 8), length=r.choice([123, 150, 180]),
                hidden=r.randint(6, 12), num_labels=r.randint(2, 5))
  ids = torch.randint(config["alphabet"] + 1, (ROWS, config["length"]))
  return ZhangCharCNN(**config), config, dict(char_ids=ids, labels=torch.randint(config["num_labels"], (ROWS,)))


def char_cnn_kim(r: random.Random) -> tuple[nn.Module, dict[str, Any], Arrays]:
  widths = sorted(r.sample(range(1, 5), r.randint(1, 3)))
  config = dict(chars=r.randint(9, 15), char_dim=r.randint(3, 6), filters=[[w, r.randint(3, 7)] for w in widths],
                highway_layers=r.randint(0, 2), hidden_size=r.randint(4, 9), num_layers=r.randint(1, 2),
                vocab_size=r.randint(11, 29))
  ids = torch.randint(1, config["chars"], (ROWS, 6, 8))
  ids[:, :, r.randint(4, 7):] = 0
  return KimCharLM(**config), config, dict(char_ids=ids, labels=torch.randint(config["vocab_size"], (ROWS, 6)))


NETWORKS = {f.__name__: f for f in (lstm_lm, gru_lm, lstm_bidirectional, char_cnn_zhang, char_cnn_kim)}


def write(folder: pathlib.Path, name: str, seed: int) -> None:
  """One case."""
  torch.manual_seed(seed)
  model, config, inputs = NETWORKS[name](random.Random(f"{name}/{seed}"))
  with torch.no_grad():
    for p in model.parameters():
      p.mul_(2.0)
  found, norms = model.run(inputs), {}
  if "labels" in inputs:
    found["loss"] = nn.functional.cross_entropy(found["logits"].flatten(0, -2), inputs["labels"].flatten())
    found["loss"].backward()
    norms = {n: float(p.grad.norm()) for n, p in model.named_parameters()}
  folder.mkdir(parents=True, exist_ok=True)
  kind = type(model).__name__
  save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / "model.safetensors")
  (folder / "config.json").write_text(json.dumps(dict(model=kind, **config), indent=2) + "\n")
  arrays = {f"in.{k}": v.numpy() for k, v in inputs.items()}
  arrays |= {f"out.{k}": v.detach().numpy() for k, v in found.items()}
  if "attention_mask" in inputs:
    arrays |= {f"valid.{k}": inputs["attention_mask"].bool().numpy() for k in ("logits", "rnn_output")}
  np.savez_compressed(folder / "reference.npz", **arrays)
  (folder / "meta.json").write_text(json.dumps({"class": kind, "grad_norm": norms, "seed": seed}) + "\n")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--count", type=int, default=3, help="cases of each network")
  arguments = parser.parse_args()
  torch.set_num_threads(1)
  for name in NETWORKS:
    for i in range(arguments.count):
      case = f"{name}_{arguments.seed}_{i}" if arguments.count > 1 else name
      write(arguments.out / case, name, 1000 * arguments.seed + i)
      print(case, flush=True)


if __name__ == "__main__":
  main()
