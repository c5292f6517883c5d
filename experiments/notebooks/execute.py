"""Executes the notebooks and stores their text outputs; run this after editing one.

    python -m experiments.notebooks.execute [1_denoise_and_inpaint.ipynb ...]

Needs the extra `notebooks`.
"""

import pathlib
import sys

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parent
METADATA = {
  "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
  "language_info": {"name": "python"},
}


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
  """Executes a notebook and returns it with its text outputs, without images, warnings and metadata.

  Args:
    path: Path of the notebook; the file does not change.

  Raises:
    nbclient.exceptions.CellExecutionError: If a cell fails.
  """
  notebook = nbformat.read(path, as_version=4)
  client = NotebookClient(
    notebook,
    kernel_name="python3",
    timeout=1200,  # seconds per cell
    record_timing=False,
    coalesce_streams=True,  # otherwise the timing decides how printed text is split into outputs
  )
  client.execute()
  notebook.metadata = nbformat.from_dict(METADATA)
  for cell in notebook.cells:
    cell.metadata = nbformat.from_dict({})
    if cell.cell_type == "code":
      cell.outputs = [_text(output) for output in cell.outputs if output.get("name") != "stderr"]
  return notebook


def _text(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
  """Keeps only the text of an output."""
  if "data" in output:
    output.data = nbformat.from_dict({"text/plain": output.data["text/plain"]})
    output.metadata = nbformat.from_dict({})
  return output


if __name__ == "__main__":
  for name in sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.ipynb")):
    nbformat.write(execute(FOLDER / name), FOLDER / name)
