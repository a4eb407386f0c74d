"""Every notebook runs from top to bottom; none carries outputs of a machine, logic of its own or absolute paths."""

import ast
import pathlib
import sys

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tests.training.run_fixture import write_run

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


class ThisPython(AsyncKernelManager):
  """A kernel of the interpreter that runs the tests, whatever kernels are installed under its name."""

  @property
  def kernel_spec(self) -> KernelSpec:
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return KernelSpec(argv=command, display_name="this Python", language="python")


def execute(path: pathlib.Path, monkeypatch, **environment: str):
  """The notebook after all its cells ran, in the repository's root."""
  for name, value in {"PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1", **environment}.items():
    monkeypatch.setenv(name, value)
  notebook = nbformat.read(path, as_version=4)
  client = NotebookClient(notebook, timeout=120, km=ThisPython(), resources={"metadata": {"path": str(ROOT)}})
  return client.execute()


def outputs(notebook) -> list:
  return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_inspect_a_run_shows_the_plots_of_the_report(tmp_path, monkeypatch):
  run = write_run(tmp_path / "run")
  notebook = execute(ROOT / "notebooks" / "01_inspect_a_run.ipynb", monkeypatch, LLM_JAX_RUN=str(run))
  shown = outputs(notebook)
  drawings = [o.data["image/svg+xml"] for o in shown if "image/svg+xml" in o.get("data", {})]
  assert len(drawings) >= 8 and any("Learning rate" in d for d in drawings)
  text = "".join(o.get("text", "") for o in shown)
  assert "eval/loss" in text and "returns the number of items at step 200." in text
  assert not [o for o in shown if o.get("name") == "stderr"]


def test_schedules_are_drawn_from_configs_alone(monkeypatch):
  shown = outputs(execute(ROOT / "notebooks" / "02_schedules.ipynb", monkeypatch))
  drawings = [o.data["image/svg+xml"] for o in shown if "image/svg+xml" in o.get("data", {})]
  assert len(drawings) == 3 and "mixture: books" in drawings[2] and "competence" in drawings[2]
  text = "".join(o.get("text", "") for o in shown)
  assert "decides batch" in text and "(512, 16)" in text
  assert not [o for o in shown if o.get("name") == "stderr"]


@pytest.mark.slow
def test_a_meta_learning_run_shows_adaptation_before_and_after(monkeypatch):
  one_device = dict(JAX_PLATFORMS="cpu", XLA_FLAGS="")
  shown = outputs(execute(ROOT / "notebooks" / "03_meta_learning.ipynb", monkeypatch, **one_device))
  drawings = [o.data["image/svg+xml"] for o in shown if "image/svg+xml" in o.get("data", {})]
  assert len(drawings) == 4 and "after training" in drawings[1] and "10 steps" in drawings[2]
  text = "".join(o.get("text", "") for o in shown)
  number = lambda name: float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])
  untouched, learned = number("loss_after_0_steps/gradient/10_shots"), number("loss_after_1_step/gradient/10_shots")
  assert learned < 0.6 * untouched and number("loss_after_1_step/gradient/0_shots") > 0.9 * untouched
  assert not [o for o in shown if o.get("name") == "stderr"]


def test_there_are_notebooks():
  assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_holds_no_logic(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert outputs(notebook) == [] and all(c.get("execution_count") is None for c in notebook.cells)
  for cell in notebook.cells:
    if cell.cell_type == "code":
      source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
      defined = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
      assert not defined, f"{path.name} defines {defined[0].name}: move it into llm_jax"
      assert str(pathlib.Path.home()) not in source or pathlib.Path.home() == pathlib.Path("/")
