"""Suite `gpu`: our training steps and PyTorch's on a GPU within five minutes, the important ones first.

Each framework runs in its own process. Both prepare a case (compilation and the choice of algorithms) at
the same time and are then timed one after the other; each row is printed as soon as it is measured. A
framework that takes too long is stopped, and its row reports an error.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from experiments import cli
from experiments.benchmarks import rates, training
from experiments.benchmarks.worker import Answer, Worker

CASES = {
  **{
    f"{case}_bfloat16": (case, "bfloat16")
    for case in (
      "res_csc20",
      "resnet20",
      "msdnet6",
      "msdnet12",
      "msdcsc6_u1",
      "msdcsc6_u2",
      "msdcsc12_u2",
    )
  },
  "res_csc20_float32": ("res_csc20", "float32"),
}
"""Network and precision of each case by its name, in order of importance."""

FRAMEWORKS = ("cscjax", "pytorch")
BACKEND = "gpu"
ROW_SECONDS = 80  # time limit for the preparation of a case, and for its timing
TOTAL_SECONDS = 295


def rows(cases: Sequence[str], batch: int) -> Iterator[dict[str, Any]]:
  """Measures the cases; yields our row of each case and, if PyTorch is installed, PyTorch's.

  In PyTorch's row, `speedup` is the ratio of its time to ours.

  Args:
    cases: Names in `CASES`.
    batch: Number of images in a step.

  Raises:
    UsageError: If JAX has no GPU.
  """
  end = time.monotonic() + TOTAL_SECONDS
  workers = {
    framework: Worker(make_answer, framework, BACKEND)
    for framework in FRAMEWORKS
    if framework == "cscjax" or rates.has_pytorch()
  }
  try:
    workers["cscjax"].send({"task": "device"})
    found = workers["cscjax"].receive(end).get("backend", BACKEND)  # the rows will report an error
    if found != BACKEND:
      raise cli.UsageError(f"--suite: gpu needs a GPU, but JAX uses {found}")
    for case in cases:
      yield from _rows_of_case(workers, case, batch, end)
  finally:
    for worker in workers.values():
      worker.close()


def _rows_of_case(
  workers: dict[str, Worker], case: str, batch: int, end: float
) -> Iterator[dict[str, Any]]:
  """Measures one case with every framework, before the time `end` of `time.monotonic`."""
  network, precision = CASES[case]
  request = {"fields": training.CASES[network], "batch": batch, "precision": precision}
  row = {"suite": "gpu", "case": network, "precision": precision, "batch": batch, **_NOTHING}
  if time.monotonic() >= end:
    for framework in workers:
      yield {**row, "framework": framework, "error": f"skipped after {TOTAL_SECONDS} s"}
    return
  deadline = min(time.monotonic() + ROW_SECONDS, end)
  for worker in workers.values():
    worker.send({"task": "prepare", **request})
  prepared = {framework: worker.receive(deadline) for framework, worker in workers.items()}
  ours = None
  for framework, worker in workers.items():
    found = prepared[framework]
    if "error" not in found:
      worker.send({"task": "time"})
      found = worker.receive(min(time.monotonic() + ROW_SECONDS, end))
    result = {**row, "framework": framework, **found}
    if result["seconds"] is not None:
      result["images_per_second"] = batch / result["seconds"]
      if framework == "cscjax":
        ours = result["seconds"]
      elif ours is not None:
        result["speedup"] = result["seconds"] / ours
    yield result


_NOTHING = dict.fromkeys(
  (
    "framework",
    "mode",
    "device",
    "seconds",
    "images_per_second",
    "compile_seconds",
    "peak_bytes",
    "speedup",
    "error",
  )
)


def make_answer(framework: str, backend: str) -> Answer:
  """Returns the function with which a worker process prepares and times the network of a request."""
  programs = {}
  if framework == "pytorch":
    jax.config.update("jax_platforms", "cpu")  # JAX only initializes the weights here

  def answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["task"] == "device":
      return {"backend": jax.default_backend()}
    if request["task"] == "prepare":
      programs.clear()
      fields, batch, precision = (request[name] for name in ("fields", "batch", "precision"))
      if framework == "pytorch":
        from experiments.benchmarks import pytorch_training

        if pytorch_training.ON_GPU != (backend == "gpu"):
          raise RuntimeError(f"PyTorch uses {pytorch_training.DEVICE}")
        programs[framework] = training.pytorch_programs(fields, batch, precision)
      else:
        programs[framework] = training.our_programs(fields, batch, precision)
      return {}
    mode, seconds = training.fastest(programs)[framework]
    program = programs[framework][mode]
    return {
      "mode": mode,
      "device": _device(framework),
      "seconds": seconds,
      "compile_seconds": program.compile_seconds,
      "peak_bytes": program.peak_bytes,
    }

  return answer


def _device(framework: str) -> str:
  """Returns the name of the device that the framework uses."""
  if framework == "cscjax":
    return jax.devices()[0].device_kind
  import torch  # pyright: ignore[reportMissingImports]

  return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def line(row: dict[str, Any]) -> str:
  """Formats a row of the printed table."""
  text = f"{row['case']:14}{row['precision']:10}{row['framework']:8}"
  if row["error"]:
    return f"{text}  {row['error']}"
  text += f"{1e3 * row['seconds']:9.3f} ms/step{row['images_per_second']:9.0f} images/s"
  text += f"  compile {row['compile_seconds']:5.1f} s  {row['mode']}"
  return text if row["speedup"] is None else f"{text}  {row['speedup']:.2f} x our time"
