"""Every shape of network goes through the doors: folder to folder, to a workdir and back, and writes text where it can.
"""

import pathlib
import sys

import jax
import pytest

from llm_jax import convert, doors, generate, hub
from llm_jax.data.tokenizers.bytes import ByteTokenizer
from llm_jax.models import bert, deberta, decoder, lstm, t5, xlnet

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "laws"))
import in_process

TOKENIZER = ByteTokenizer(("eod", "pad", "cls", "sep", "mask"), sentinels=8)
SMALL = dict(variant="debug", width=16, hidden=24, depth=2, heads=2)
NETWORKS = {
    "t5": (t5, SMALL | dict(head_width=8)), "t5-v1.1": (t5, SMALL | dict(variant="debug-v1.1", head_width=8)),
    "xlnet": (xlnet, SMALL), "xlnet-uni": (xlnet, SMALL | dict(attn_type="uni")), "deberta": (deberta, SMALL),
    "mixtral": (decoder, SMALL | dict(variant="debug-mixtral", head_width=8)),
    "bert": (bert, SMALL), "lstm": (lstm, dict(variant="debug", embedding=8, hidden=8)),
}
WRITES = ("t5", "t5-v1.1", "xlnet-uni", "mixtral", "lstm")
SLOW = ("t5-v1.1", "xlnet", "deberta", "mixtral", "bert", "lstm")
marked = lambda names: [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """name -> a Hugging Face folder of that network, made once."""
  made = {}
  def folder(name):
    if name not in made:
      module, knobs = NETWORKS[name]
      model = module.build(TOKENIZER.vocab_size, 16, **knobs)
      made[name] = tmp_path_factory.mktemp(name)
      hub.save(made[name], model, model.init(jax.random.key(0)), TOKENIZER)
    return made[name]
  return folder


def call(door, capsys, *arguments):
  """(exit code, output) of a door."""
  with pytest.raises(SystemExit) as stopped:
    doors.run(door.main, door.define, ["door", *map(str, arguments)])
  captured = capsys.readouterr()
  return stopped.value.code, captured.out + captured.err


@pytest.mark.parametrize("name", marked(NETWORKS))
def test_weights_are_converted_and_checked(name, folders, tmp_path, capsys):
  source, run, back = folders(name), tmp_path / "run", tmp_path / "back"
  for arguments in ((f"--from={source}", f"--to={run}", "--format=workdir"), (f"--from={run}", f"--to={back}")):
    code, said = call(convert, capsys, *arguments, "--check")
    assert code == 0 and "DIFFERENT" not in said and " equal " in said, said
  assert (back / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", marked(WRITES))
def test_a_folder_and_a_workdir_write_the_same_text(name, folders, tmp_path, capsys):
  source, run = folders(name), tmp_path / "run"
  assert call(convert, capsys, f"--from={source}", f"--to={run}", "--format=workdir")[0] == 0
  texts = []
  for where in (f"--hf={source}", f"--workdir={run}"):
    code, said = call(generate, capsys, where, "--prompt=In the", "--max_new_tokens=6", "--greedy")
    assert code == 0, said
    texts.append(said)
  assert texts[0] == texts[1] and len(texts[0]) > len("In the")


@pytest.mark.slow
def test_a_teacher_is_a_folder_or_a_workdir(folders, tmp_path, capsys, monkeypatch):
  run = tmp_path / "run"
  assert call(convert, capsys, f"--from={folders('bert')}", f"--to={run}", "--format=workdir")[0] == 0
  student = dict(name="bert", **SMALL | dict(variant="debug-distilbert", depth=1))
  config = in_process.config(data=dict(tokenizer=dict(name="hub", path=str(folders("bert")))), ema=None,
                             early_stopping=None, train=dict(accumulate=1), sample=dict(every=0))
  losses = []
  for teacher in (folders("bert"), run):
    made = config | dict(model=student, objective=dict(name="distillation", teacher=str(teacher)))
    losses.append(in_process.steps(in_process.build_from(monkeypatch, made), 2)[1])
  assert losses[0] == losses[1] and losses[0][1]["soft_loss"] > 0 and losses[0][1]["cosine_loss"] > 0
