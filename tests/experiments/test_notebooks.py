"""The notebooks run, print the outputs that are stored in them and draw as many pictures."""

import base64
import io
import re

import nbformat
import pytest
from PIL import Image

from experiments.notebooks import execute

NOTEBOOKS = sorted(execute.FOLDER.glob("*.ipynb"), reverse=True)  # the longest one first
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d*)?(?:e[+-]?\d+)?")
TOLERANCE = (
  0.2  # relative, because rounding differs between machines and versions, and training amplifies it
)


def printed(notebook):
  """The text outputs of all code cells, one string per cell."""
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  return ["".join(out.get("text") or out.data["text/plain"] for out in cell.outputs) for cell in cells]


def pictures(notebook):
  """The pictures of all code cells."""
  outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
  stored = [out.data["image/png"] for out in outputs if "image/png" in out.get("data", {})]
  return [Image.open(io.BytesIO(base64.b64decode(png, validate=True))) for png in stored]


def words(text):
  return NUMBER.sub("#", text).split()


def numbers(text):
  return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_its_stored_outputs(path):
  notebook, executed = nbformat.read(path, as_version=4), execute.execute(path)
  assert len(pictures(executed)) == len(pictures(notebook))
  stored, now = printed(notebook), printed(executed)
  assert len(now) == len(stored)
  for before, after in zip(stored, now, strict=True):
    assert words(after) == words(before)
    assert numbers(after) == pytest.approx(numbers(before), rel=TOLERANCE, abs=1e-3)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_complete_small_and_without_paths(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in code] == list(
    range(1, len(code) + 1)
  )  # all cells, run in order
  outputs = [output for cell in code for output in cell.outputs]
  assert {kind for output in outputs for kind in output.get("data", {})} <= {"text/plain", "image/png"}
  assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
  drawn = pictures(notebook)
  assert len(drawn) == "".join(printed(notebook)).count("<Figure") > 0
  assert all(picture.width <= 1000 and picture.mode == "P" for picture in drawn)
  assert notebook.metadata == execute.METADATA
  assert path.stat().st_size < 400_000
  text = re.sub(r'"image/png": "[^"]*"', "", path.read_text())
  assert not re.search(r"/(home|root|tmp|usr|work)/", text)


def test_the_notebooks_are_found():
  assert len(NOTEBOOKS) >= 3


def test_execution_keeps_text_and_small_pictures(tmp_path):
  cells = [
    "%matplotlib inline\nimport sys; from matplotlib.figure import Figure",
    "figure = Figure(figsize=(20, 5)); figure.subplots().plot([1, 2])",
    "print('a', 0.5); print('warning', file=sys.stderr); figure",
  ]
  cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
  nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
  executed = execute.execute(tmp_path / "a.ipynb")
  assert printed(executed)[::2] == ["", "a 0.5\n<Figure size 2000x500 with 1 Axes>"]
  [picture] = pictures(executed)
  assert 1000 < picture.width <= 20 * execute.DPI
  assert executed.metadata == execute.METADATA
