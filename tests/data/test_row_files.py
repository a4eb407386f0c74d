"""Files of rows: what cannot be read is named by line and leaves the rest alone; every form holds the same rows."""

import csv
import gzip
import json

import pytest

from llm_jax.core import plugins
from llm_jax.core.errors import ConfigError, DataError
from llm_jax.data.corpus import DataContext
from llm_jax.data.row_files import SplitFiles, Unread, files, lacking, no_text, read

ROWS = [{"prompt": f"q {i}", "answer": f"answer {i * 7}"} for i in range(8)]
CSV = ["prompt,answer", *(f"{r['prompt']},{r['answer']}" for r in ROWS)]
JSON = [json.dumps(r) for r in ROWS]


def rows_of(path, lines):
  path.write_text("\n".join(lines) + "\n")
  return list(read(path))


@pytest.mark.parametrize("kind, bad, reason", [
    ("csv", 'q,"answer five', "not valid CSV"), ("csv", 'q,"ans" five', "not valid CSV"),
    ("csv", "q,answer, with comma", "3 cells, where the header has 2"), ("csv", "q", "1 cells, where the header has 2"),
    ("jsonl", '{"prompt": ', "not valid JSON"), ("jsonl", "[" * 100_000, "not valid JSON"),
    ("jsonl", "[1]", "not a JSON object but a list"), ("jsonl", "{}", "no 'prompt'; there are no fields")])
def test_a_row_that_cannot_be_read_is_named_and_leaves_the_rest_alone(tmp_path, kind, bad, reason):
  lines = CSV if kind == "csv" else JSON
  path = tmp_path / f"a.{kind}"
  found = rows_of(path, [*lines[:5], bad, *lines[5:]])
  assert [row for _, row in found if row] == ROWS
  (where, unread), = [(where, row) for where, row in found if not row]
  assert where == f"{path}:6" and reason in lacking(unread, ("prompt",))


def test_two_quotes_left_open_cost_two_rows(tmp_path):
  found = rows_of(tmp_path / "a.csv", [*CSV[:3], 'x,"y', *CSV[3:6], 'x,"y', *CSV[6:]])
  assert [row for _, row in found if row] == ROWS and [isinstance(r, Unread) for _, r in found].count(True) == 2


def test_every_form_of_a_file_holds_the_same_rows(tmp_path):
  whole = "\n".join(JSON).encode()
  parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
  parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "d.parquet")
  forms = {"a.jsonl": whole, "b.jsonl": whole.replace(b"\n", b"\n\n \n"), "c.JSONL.GZ": gzip.compress(whole),
           "e.csv": "\n".join(CSV).encode(), "f.CSV": b"\xef\xbb\xbf" + "\r\n".join(CSV).encode() + b"\r\n\r\n",
           "g.csv": "\n\n".join(["", *CSV, "  ", ""]).encode()}
  for name, content in forms.items():
    (tmp_path / name).write_bytes(content)
  for name in (*forms, "d.parquet"):
    assert [row for _, row in read(tmp_path / name)] == ROWS, name


def test_a_cell_may_be_long_and_of_several_lines(tmp_path):
  long, path = {"prompt": "x" * 200_000, "answer": 'two\n\n"lines"'}, tmp_path / "a.csv"
  with path.open("w", newline="") as f:
    csv.writer(f).writerows([("prompt", "answer"), long.values(), ROWS[0].values()])
  assert list(read(path)) == [(f"{path}:2", long), (f"{path}:5", ROWS[0])]


def test_a_table_without_header_has_as_many_columns_as_its_first_row(tmp_path):
  (tmp_path / "a.csv").write_text("1,a\n2,b,c\n3,d\n")
  (_, one), (_, bad), (_, other) = read(tmp_path / "a.csv", header=False)
  assert (one, other) == ({"1": "1", "2": "a"}, {"1": "3", "2": "d"})
  assert bad.reason == "3 cells, where the first row has 2"


def build(room, folder, path, **knobs):
  spec = dict(name=room, path=str(path), tokenizer=dict(name="bytes"), on_bad_data="fail") | knobs
  return plugins.bind("data", spec, "config.data")(DataContext(0, folder / "cache"))


def written(path, rows, names=("prompt", "answer", "chosen", "rejected")):
  """A .parquet of columns of texts, in groups of 256 rows, and where the second group begins."""
  parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
  texts = [[f"{name} {i}" for i in range(rows)] for name in names]
  parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(t) for t in texts], names=names), path,
                      row_group_size=256)
  groups = parquet.read_metadata(path)
  return groups.row_group(groups.num_row_groups - 1).column(0).dictionary_page_offset


def torn(path):
  written(path, 8)
  path.write_bytes(path.read_bytes()[:-30])
  return ":1: damaged or truncated parquet"


def corrupt_page(path):
  start = written(path, 300)
  content = bytearray(path.read_bytes())
  content[start:start + 20] = b"\xff" * 20
  path.write_bytes(content)
  return ":257: damaged or truncated parquet"


def two_columns_of_one_name(path):
  written(path, 8, ("answer", "prompt", "prompt"))
  return ":1: 2 columns of the name 'prompt'"


@pytest.mark.parametrize("room, knobs", [
    ("questions", {}), ("preferences", {}), ("text_folder", dict(text_column="prompt")),
    ("labelled_text", dict(text_columns=("answer",), label_column="prompt"))])
@pytest.mark.parametrize("damage", [torn, corrupt_page, two_columns_of_one_name])
def test_a_damaged_parquet_is_named_by_file_and_row(tmp_path, room, knobs, damage):
  path = tmp_path / "rows.parquet"
  says = damage(path)
  with pytest.raises(DataError) as e:
    build(room, tmp_path, path, **knobs)
  assert f"{path}{says}" in str(e.value) and "cannot write" not in str(e.value)


@pytest.mark.parametrize("content", [gzip.compress("\n".join(JSON).encode(), mtime=0)[:-20], b"{}"],
                         ids=["torn", "not zipped"])
def test_a_damaged_gzip_says_so(tmp_path, content):
  path = tmp_path / "a.jsonl.gz"
  path.write_bytes(content)
  with pytest.raises(DataError, match="damaged or truncated gzip"):
    build("questions", tmp_path, path)


def test_hidden_files_are_no_rows(tmp_path):
  for name in ("a.jsonl", "sub/b.csv", ".hidden.jsonl", "._a.jsonl", ".ipynb_checkpoints/a.jsonl", "readme.txt"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
  assert files(str(tmp_path), "config.data.path", "rows") == [tmp_path / "a.jsonl", tmp_path / "sub/b.csv"]


def test_a_held_out_file_is_not_trained_on(tmp_path):
  folder = tmp_path / "rows"
  folder.mkdir()
  (folder / "train.jsonl").write_text("\n".join(JSON[:5]))
  (folder / "held.jsonl").write_text("\n".join(JSON[5:]))
  (tmp_path / "link.jsonl").symlink_to(folder / "held.jsonl")
  for held_out in (folder / "held.jsonl", tmp_path / "link.jsonl"):
    parts = [(part, row) for part, _, row in SplitFiles("rows", str(folder), str(held_out), tmp_path / "cache").rows()]
    assert parts == [("train", r) for r in ROWS[:5]] + [("validation", r) for r in ROWS[5:]]
  for path in (folder, folder / "held.jsonl"):
    with pytest.raises(ConfigError, match=r"config\.data\.validation_path.*none is left"):
      SplitFiles("rows", str(path), str(folder), tmp_path / "cache")


@pytest.mark.parametrize("value", [["a"], {"role": "user"}, b"a"])
def test_a_list_is_no_text_but_a_number_is_one(value):
  assert "no text" in no_text({"a": "x", "b": value}, ("a", "b"))
  assert no_text({"a": 0, "b": True, "c": value}, ("a", "b")) is None
