"""Suites `train`, `compile` and `memory`: the complete training step of every network.

`train` and `memory` time the step. If PyTorch is installed, `train` alternates with PyTorch's version of
the network, which is eager on the CPU and compiled in two modes on CUDA, of which the faster one counts.
`peak_bytes` is the memory that XLA plans for temporaries and arguments. For PyTorch it is the memory
that the steps add to a separate process (CPU), or the peak of PyTorch's allocator (CUDA).
`dispatch_seconds` is the time of a call of our program without any step; a run makes about one call per
second.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cscjax import training
from cscjax.models import REMAT, create_model, describe
from cscjax.runs import automatic_fields
from experiments.benchmarks import rates

_MSD6 = {"model": "msd_csc", "depth": 6}
_MSD12 = {"model": "msd_csc", "depth": 12}
CASES: dict[str, dict[str, Any]] = {
  **{
    f"{rule}{depth}": {"model": rule, "depth": depth}
    for rule in ("plain", "resnet")
    for depth in (20, 56)
  },
  "res_csc_simplified20": {"model": "res_csc_simplified", "depth": 20},
  **{f"res_csc{depth}": {"model": "res_csc", "depth": depth} for depth in (20, 56, 110, 218)},
  "feed_forward": {"model": "feed_forward"},
  "ml_csc_u1": {"model": "ml_csc", "unfolding": 1},
  "ml_csc_u2": {"model": "ml_csc", "unfolding": 2},
  "ml_csc_u2_fista": {"model": "ml_csc", "unfolding": 2, "solver": "fista"},
  "msdnet6": {"model": "msdnet", "depth": 6},
  "msdcsc6_u1": {**_MSD6, "unfolding": 1},
  "msdcsc6_u2": {**_MSD6, "unfolding": 2},
  "msdcsc6_u4": {**_MSD6, "unfolding": 4},
  "msdnet12": {"model": "msdnet", "depth": 12},
  "msdcsc12_u1": {**_MSD12, "unfolding": 1},
  "msdcsc12_u2": {**_MSD12, "unfolding": 2},
  "msdcsc12_u2_fista": {**_MSD12, "unfolding": 2, "solver": "fista"},
}
SUITES = {
  "train": tuple(case for case in CASES if case not in ("res_csc110", "res_csc218")),
  "compile": ("res_csc20", "res_csc56", "res_csc110", "res_csc218", "msdcsc12_u2"),
  "memory": tuple(
    f"{case}_{remat}" for case in ("res_csc20", "res_csc218", "msdcsc12_u2") for remat in REMAT
  ),
}
CASES |= {
  case: CASES[case.rpartition("_")[0]] | {"remat": case.rpartition("_")[2]} for case in SUITES["memory"]
}
BLOCKS = 5  # number of timed calls after the first one
BLOCK_SECONDS = 1.0
STEPS = 32  # steps in an epoch of the random data; a call must not cross the end of an epoch
RATE = 1e-3  # learning rate, low enough that training on random labels does not diverge


def rows(suite: str, cases: Sequence[str], batch: int, precision: str) -> Iterator[dict[str, Any]]:
  """Measures the cases; yields our row of each case and, in the suite `train`, PyTorch's.

  Args:
    suite: Name of the suite, a key of `SUITES`.
    cases: Names in `CASES`.
    batch: Number of images in a step.
    precision: "float32" or "bfloat16".
  """
  timed, compared = suite != "compile", suite == "train" and rates.has_pytorch()
  peak = rates.measure(precision) if timed else None
  for case in cases:
    fields = CASES[case]
    programs = {"cscjax": our_programs(fields, batch, precision)}
    if compared:
      programs["pytorch"] = pytorch_programs(fields, batch, precision)
    found = fastest(programs) if timed else {"cscjax": ("jit", None)}
    forward_flops = sum(layer.forward_flops for layer in describe(make_network(fields), (32, 32, 3)))
    for framework, (mode, seconds) in found.items():
      program = programs[framework][mode]
      peak_bytes = program.peak_bytes
      if peak_bytes is None:
        from experiments.benchmarks import pytorch_training

        peak_bytes = pytorch_training.resident_bytes(fields, batch, precision)
      row = {
        "suite": suite,
        "case": case,
        "framework": framework,
        "mode": mode,
        "device": jax.devices()[0].device_kind,
        "precision": precision,
        "batch": batch,
        "seconds": seconds,
        "compile_seconds": program.compile_seconds,
        "dispatch_seconds": program.dispatch_seconds() if timed else None,
        "peak_bytes": peak_bytes,
        "flops": 3 * batch * forward_flops,  # the backward pass takes twice the forward pass
      }
      theirs = found["pytorch"][1] if compared else None
      yield row | derived_columns(row, theirs, peak, program.bytes_accessed)


def fastest(programs: dict[str, dict[str, Any]]) -> dict[str, tuple[str, float]]:
  """Times all modes in turn; returns the fastest mode of each framework and its seconds per step."""
  runs = {
    (framework, mode): program.run
    for framework, modes in programs.items()
    for mode, program in modes.items()
  }
  seconds = time_steps(runs)
  return {
    framework: min(((mode, seconds[framework, mode]) for mode in modes), key=lambda pair: pair[1])
    for framework, modes in programs.items()
  }


def make_network(fields: dict[str, Any], precision: str = "float32", platform: str = "cpu") -> Any:
  """Returns a network with ten classes, with the automatic settings of a run on this platform."""
  fields = automatic_fields(fields["model"], fields.get("depth"), platform) | fields
  return create_model(fields.pop("model"), num_classes=10, dtype=np.dtype(precision), **fields)


def our_programs(fields: dict[str, Any], batch: int, precision: str) -> dict[str, "TimedStep"]:
  """Returns our program of a network by its only mode, "jit"."""
  network = make_network(fields, precision, jax.default_backend())
  return {"jit": TimedStep(*compile_step(network, batch))}


def pytorch_programs(fields: dict[str, Any], batch: int, precision: str) -> dict[str, Any]:
  """Returns PyTorch's programs of a network by their modes, with our weights and data."""
  from experiments.benchmarks import pytorch_training

  model = make_network(fields, precision)
  state, data, _ = make_arguments(make_trainer(model, batch))
  variables = {"params": state.params, **state.variables}
  return {
    mode: pytorch_training.TorchStep(model, variables, data, batch, precision, RATE, mode)
    for mode in pytorch_training.MODES
  }


def derived_columns(
  row: dict, theirs: float | None, peak: rates.PeakRates | None, accessed: float | None
) -> dict:
  """Returns the columns that follow from a row: speeds, fractions of the peak rates, and ratio of times.

  Args:
    row: Row with `seconds`, `batch` and `flops`.
    theirs: Seconds of PyTorch's step; None if it was not timed.
    peak: Peak rates of the device; None if nothing was timed, which makes all columns None.
    accessed: Bytes that the step reads and writes; None if unknown.
  """
  names = ("images_per_second", "flops_per_second", "matmul_fraction", "copy_fraction", "times_pytorch")
  if peak is None:
    return dict.fromkeys(names)
  time_of_step = row["seconds"]
  speed = row["flops"] / time_of_step
  values = (
    row["batch"] / time_of_step,
    speed,
    speed / peak.flops,
    accessed and accessed / time_of_step / peak.bytes,
    theirs and time_of_step / theirs,
  )
  return dict(zip(names, values, strict=True))


class TimedStep:
  """Our compiled training steps.

  Attributes:
    compile_seconds: Seconds that compilation took.
    peak_bytes: Memory that XLA plans for temporaries and arguments.
    bytes_accessed: Bytes that the fused operations of one step read and write, as counted by XLA; None
      if unknown.
  """

  def __init__(self, step: Any, arguments: tuple, compile_seconds: float):
    self.step, self.arguments, self.compile_seconds = step, arguments, compile_seconds
    memory = step.memory_analysis()
    self.peak_bytes = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    self.bytes_accessed = (step.cost_analysis() or {}).get("bytes accessed")

  def run(self, count: int) -> float:
    """Takes `count` steps from the initial state, waits for the device, returns the seconds per step."""
    return self._call(count) / count

  def dispatch_seconds(self) -> float | None:
    """Returns the median seconds of a call without any step."""
    return statistics.median(self._call(0) for _ in range(BLOCKS))

  def _call(self, count: int) -> float:
    start = time.perf_counter()
    jax.block_until_ready(self.step(*self.arguments, np.int32(count)))
    return time.perf_counter() - start


def compile_step(model: Any, batch: int) -> tuple[Any, tuple, float]:
  """Returns the compiled training program, its arguments except the number of steps, and the seconds."""
  trainer = make_trainer(model, batch)
  arguments = make_arguments(trainer)
  # `trainer.train` would donate the state, but every call here starts from the same state.
  train = jax.jit(trainer.train_steps, compiler_options=training.compiler_options())
  start = time.perf_counter()
  compiled = train.lower(*arguments, np.int32(1)).compile()
  return compiled, arguments, time.perf_counter() - start


def make_arguments(trainer: training.Trainer) -> tuple:
  """Returns the state, random data and key for `trainer.train_steps`."""
  rng, examples = np.random.default_rng(0), STEPS * trainer.batch_size
  data = training.Examples(
    *jax.device_put(
      (
        rng.integers(0, 256, (examples, 32, 32, 3), dtype=np.uint8),
        rng.integers(0, 10, examples).astype(np.int32),
        np.full(3, 0.5, np.float32),
        np.full(3, 0.25, np.float32),
      )
    )
  )
  state = trainer.create_state((32, 32, 3), jax.random.key(0))
  return state, data, jax.random.key(1)


def make_trainer(model: Any, batch: int, **fields: Any) -> training.Trainer:
  """Returns the trainer with which the suites train a network."""
  schedule = training.step_schedule(RATE, [])
  optimizer = training.sgd(schedule, momentum=0.9, nesterov=True, weight_decay=1e-4)
  return training.Trainer(model, optimizer, schedule, batch, **fields)


def time_steps(programs: dict[Any, Callable[[int], float]]) -> dict[Any, float]:
  """Returns the median seconds per step of each program.

  The programs run in turn, in blocks of about `BLOCK_SECONDS`.

  Args:
    programs: Functions by their names; each takes a number of steps and returns the seconds per step.
  """
  counts, blocks = {}, {name: [] for name in programs}
  for name, run in programs.items():
    run(1)
    counts[name] = int(np.clip(BLOCK_SECONDS / run(1), 1, STEPS))
  for _ in range(BLOCKS):
    for name, run in programs.items():
      blocks[name].append(run(counts[name]))
  return {name: statistics.median(seconds) for name, seconds in blocks.items()}


def line(row: dict[str, Any]) -> str:
  """Formats a row of the printed table."""
  text = f"{row['case']:20}{row['framework']:8}"
  if row["seconds"] is not None:
    text += f"{row['seconds']:8.4f} s/step{row['images_per_second']:9.1f} images/s"
    text += f"{row['flops_per_second'] / 1e9:8.1f} GFLOP/s ({row['matmul_fraction']:4.0%} of a matmul)"
  text += f"  compile {row['compile_seconds']:5.1f} s  memory {row['peak_bytes'] / 2**20:6.0f} MiB"
  if row["times_pytorch"] is not None and row["framework"] == "cscjax":
    text += f"  {row['times_pytorch']:5.2f} x PyTorch's time"
  return text
