"""Executes the notebooks and stores their outputs, text and small pictures; run this after editing one.

    python -m experiments.notebooks.execute [1_denoise_and_inpaint.ipynb ...]

Needs the extra `notebooks`.
"""

import base64
import io
import pathlib
import sys
import tempfile

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = pathlib.Path(__file__).parent
DPI = 72  # resolution of the stored pictures, at which the widest plots fit the pages of GitHub
METADATA = {
  "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
  "language_info": {"name": "python"},
}


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
  """Executes a notebook and returns it with its text and pictures, without warnings and metadata.

  The notebook runs in an empty folder with the Python environment of this process. It therefore uses the
  cscjax that is installed there, not the one of the working directory.

  Args:
    path: Path of the notebook; the file does not change.

  Raises:
    nbclient.exceptions.CellExecutionError: If a cell fails.
  """
  notebook = nbformat.read(path, as_version=4)
  with tempfile.TemporaryDirectory() as folder:
    NotebookClient(
      notebook,
      kernel_name="python3",
      resources={"metadata": {"path": folder}},
      extra_arguments=[f"--InlineBackend.print_figure_kwargs={{'dpi': {DPI}, 'bbox_inches': 'tight'}}"],
      timeout=1200,  # seconds per cell
      record_timing=False,
      coalesce_streams=True,  # otherwise the timing decides how printed text is split into outputs
    ).execute()
  notebook.metadata = nbformat.from_dict(METADATA)
  for cell in notebook.cells:
    cell.metadata = nbformat.from_dict({})
    if cell.cell_type == "code":
      cell.outputs = [_stored(output) for output in cell.outputs if output.get("name") != "stderr"]
  return notebook


def _stored(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
  """Keeps the text of an output and its picture, which is made small."""
  if "data" in output:
    kept = {"text/plain": output.data["text/plain"]}
    if "image/png" in output.data:
      kept["image/png"] = _small(output.data["image/png"])
    output.data = nbformat.from_dict(kept)
    output.metadata = nbformat.from_dict({})
  return output


def _small(png: str) -> str:
  """Reduces a PNG in base64 to 128 colours, which makes it two to three times smaller."""
  with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
    reduced = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
  stored = io.BytesIO()
  reduced.save(stored, format="png", optimize=True)
  return base64.b64encode(stored.getvalue()).decode()


if __name__ == "__main__":
  for name in sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.ipynb")):
    nbformat.write(execute(FOLDER / name), FOLDER / name)
