"""Runs the notebooks and stores their text outputs; to be called after an edit.

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
  """The notebook with what its cells printed; no pictures, no warnings, nothing of the machine.

  Args:
    path: Of the notebook, which is not changed.

  Raises:
    nbclient.exceptions.CellExecutionError: If a cell fails.
  """
  notebook = nbformat.read(path, as_version=4)
  client = NotebookClient(
    notebook,
    kernel_name="python3",
    timeout=1200,  # seconds, a cell
    record_timing=False,
    coalesce_streams=True,  # else it depends on the moment where prints are parted
  )
  client.execute()
  notebook.metadata = nbformat.from_dict(METADATA)
  for cell in notebook.cells:
    cell.metadata = nbformat.from_dict({})
    if cell.cell_type == "code":
      cell.outputs = [_text(output) for output in cell.outputs if output.get("name") != "stderr"]
  return notebook


def _text(output):
  if "data" in output:
    output.data = nbformat.from_dict({"text/plain": output.data["text/plain"]})
    output.metadata = nbformat.from_dict({})
  return output


if __name__ == "__main__":
  for name in sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.ipynb")):
    nbformat.write(execute(FOLDER / name), FOLDER / name)
