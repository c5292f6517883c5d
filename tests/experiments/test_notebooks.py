"""The notebooks run, and print what is stored in them."""

import re

import nbformat
import pytest

from experiments.notebooks import execute

NOTEBOOKS = sorted(execute.FOLDER.glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d*)?(?:e[+-]?\d+)?")
TOLERANCE = 0.2  # of a number: other machines and versions round differently, and training amplifies it


def printed(notebook):
  """The text outputs of all cells, one string a cell."""
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  return ["".join(out.get("text") or out.data["text/plain"] for out in cell.outputs) for cell in cells]


def words(text):
  return NUMBER.sub("#", text).split()


def numbers(text):
  return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_prints_what_is_stored(path):
  stored, now = printed(nbformat.read(path, as_version=4)), printed(execute.execute(path))
  assert len(now) == len(stored)
  for before, after in zip(stored, now, strict=True):
    assert words(after) == words(before)
    assert numbers(after) == pytest.approx(numbers(before), rel=TOLERANCE, abs=1e-3)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_whole_small_and_of_no_machine(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # run in order, whole
  outputs = [output for cell in code for output in cell.outputs]
  assert {kind for output in outputs for kind in output.get("data", {})} == {"text/plain"}
  assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
  assert notebook.metadata == execute.METADATA
  text = path.read_text()
  assert len(text) < 40_000
  assert not re.search(r"/(home|root|tmp|usr|work)/", text)


def test_there_are_three():
  assert len(NOTEBOOKS) == 3


def test_execution_keeps_texts_alone(tmp_path):
  cells = [
    "%matplotlib inline\nimport sys; from matplotlib.figure import Figure",
    "print('a', 0.5); print('warning', file=sys.stderr); Figure()",
  ]
  cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
  nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
  assert printed(execute.execute(tmp_path / "a.ipynb")) == [
    "",
    "a 0.5\n<Figure size 640x480 with 0 Axes>",
  ]
