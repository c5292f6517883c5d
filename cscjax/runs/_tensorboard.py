"""The metrics of a run as TensorBoard event files."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

from cscjax import training
from cscjax.extras import needs


def check_tensorboard() -> None:
  """Raises MissingExtraError if the package that writes event files is not installed."""
  with needs("tensorboard", "tensorboard needs tensorboardX"):
    import tensorboardX  # noqa: F401


class EventFile:
  """Writes the evaluations of a run to an event file, and passes its progress on.

  Each start of a run opens a new file, which begins with all rows up to the step from which the run
  resumes and hides the files of earlier starts. TensorBoard therefore shows the rows of metrics.jsonl.
  The file is written without the threads of tensorboardX's SummaryWriter, which hides a full disk.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    rows: Sequence[dict[str, Any]],
    seconds: float,
    progress: training.Progress,
  ):
    """Opens the file and writes the rows so far.

    Args:
      folder: The folder of the event files, which is created if it does not exist.
      rows: The rows so far.
      seconds: Wall time that the run has taken so far, in seconds.
      progress: Receives the progress of the run, too.

    Raises:
      OSError: If the file cannot be written.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

    self._progress = progress
    self._began = time.time() - seconds
    folder.mkdir(parents=True, exist_ok=True)
    self._writer = EventsWriter(str(folder / "events"))
    start = SessionLog(status=SessionLog.START)
    self._writer.write_event(Event(wall_time=time.time(), step=0, session_log=start))
    for row in rows:
      self._write(row)
    self._writer.flush()

  def trained(self, step: int, metrics: dict[str, float], images_per_second: float | None) -> None:
    """Passes the progress on."""
    self._progress.trained(step, metrics, images_per_second)

  def evaluated(self, row: dict[str, Any]) -> None:
    """Passes the row on and writes it to the file."""
    self._progress.evaluated(row)
    self._write(row)
    self._writer.flush()

  def close(self) -> None:
    """Closes the file."""
    self._writer.close()

  def _write(self, row: dict[str, Any]) -> None:
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

    split = row["split"]
    scalars = {f"{name}/{split}": row[name] for name in ("loss", "accuracy", "images_per_second")}
    if split == "train":
      scalars |= {"epoch": row["epoch"], "learning_rate": row.get("learning_rate")}
    values = [Summary.Value(tag=k, simple_value=v) for k, v in scalars.items() if v is not None]
    time_of_row = self._began + (row.get("seconds") or 0.0)
    event = Event(wall_time=time_of_row, step=row["step"], summary=Summary(value=values))
    self._writer.write_event(event)
