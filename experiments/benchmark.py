"""Speed of the networks' training steps: python -m experiments.benchmark --suite=train --json.

Suites: `train` (median time of a training step), `compile` (time to trace and compile one),
`memory` (XLA's own plan of its memory). Random data, the whole step with the optimizer, augmentation
off. Prints one JSON object a row with --json, else a table.
"""

import json
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags

from cscjax import training
from cscjax.models import create_model, describe
from experiments import cli

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
  **{
    f"res_csc{depth}_remat": {"model": "res_csc", "depth": depth, "remat": True} for depth in (20, 218)
  },
  "feed_forward": {"model": "feed_forward"},
  "ml_csc_u1": {"model": "ml_csc", "unfolding": 1},
  "ml_csc_u2": {"model": "ml_csc", "unfolding": 2},
  "ml_csc_u2_fista": {"model": "ml_csc", "unfolding": 2, "solver": "fista"},
  "msdnet6": {"model": "msdnet", "depth": 6},
  "msdcsc6_u1": {**_MSD6, "unfolding": 1},
  "msdcsc6_u2": {**_MSD6, "unfolding": 2},
  "msdnet12": {"model": "msdnet", "depth": 12},
  "msdcsc12_u1": {**_MSD12, "unfolding": 1},
  "msdcsc12_u2": {**_MSD12, "unfolding": 2},
  "msdcsc12_u2_fista": {**_MSD12, "unfolding": 2, "solver": "fista"},
}
_DEPTHS = ("res_csc20", "res_csc20_remat", "res_csc218", "res_csc218_remat")
_NOT_TIMED = ("res_csc110", "res_csc20_remat", "res_csc218", "res_csc218_remat")
SUITES = {
  "train": tuple(case for case in CASES if case not in _NOT_TIMED),
  "compile": ("res_csc20", "res_csc56", "res_csc110", "res_csc218", "msdcsc12_u2"),
  "memory": _DEPTHS,
}
BLOCKS = 5  # timed calls after one that warms up
BLOCK_SECONDS = 1.0


def main() -> None:
  """Prints a row for each case of the suite."""
  args = flags.FLAGS
  cases = args.cases or SUITES[args.suite]
  unknown = [case for case in cases if case not in CASES]
  if unknown:
    raise cli.UsageError(f"--cases: unknown {', '.join(unknown)}; there are {', '.join(CASES)}")
  if args.batch_size < 1:
    raise cli.UsageError(f"--batch_size: expected an integer >= 1, got {args.batch_size}")
  for row in rows(args.suite, cases, args.batch_size, args.precision):
    print(json.dumps(row) if args.json else _line(row), flush=True)


def rows(suite: str, cases: tuple[str, ...], batch: int, precision: str) -> Iterator[dict[str, Any]]:
  """Measures the cases one after the other."""
  for case in cases:
    fields = dict(CASES[case])
    model = create_model(fields.pop("model"), num_classes=10, dtype=np.dtype(precision), **fields)
    step, arguments, compile_seconds = compile_step(model, batch)
    memory = step.memory_analysis()
    seconds = time_step(step, arguments) if suite == "train" else None
    yield {
      "suite": suite,
      "case": case,
      "framework": "cscjax",
      "device": jax.devices()[0].device_kind,
      "precision": precision,
      "batch": batch,
      "seconds": seconds,
      "images_per_second": seconds and batch / seconds,
      "compile_seconds": compile_seconds,
      "peak_bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes,
      # Forward, and twice as much backward.
      "flops": 3 * batch * sum(layer.forward_flops for layer in describe(model, (32, 32, 3))),
    }


def compile_step(model: Any, batch: int) -> tuple[Any, tuple, float]:
  """The compiled training program, its arguments but for the count of steps, and the seconds it took."""
  optimizer = training.sgd(
    training.step_schedule(0.1, []), momentum=0.9, nesterov=True, weight_decay=1e-4
  )
  state = training.create_train_state(model, optimizer, (32, 32, 3), jax.random.key(0))
  rng = np.random.default_rng(0)
  data = training.DeviceData(
    *jax.device_put(
      (
        rng.integers(0, 256, (8 * batch, 32, 32, 3), dtype=np.uint8),
        rng.integers(0, 10, 8 * batch).astype(np.int32),
        np.full(3, 0.5, np.float32),
        np.full(3, 0.25, np.float32),
      )
    )
  )
  train = jax.jit(partial(training.train_steps, training.Recipe(model, optimizer, batch)))
  arguments = (state, data, jax.random.key(1))
  start = time.perf_counter()
  compiled = train.lower(*arguments, np.int32(1)).compile()
  return compiled, arguments, time.perf_counter() - start


def time_step(step: Any, arguments: tuple) -> float:
  """Median seconds a step, over blocks of about `BLOCK_SECONDS` that end when the device has."""

  def run(count):
    start = time.perf_counter()
    jax.block_until_ready(step(*arguments, np.int32(count)))
    return (time.perf_counter() - start) / count

  run(1)
  count = int(np.clip(BLOCK_SECONDS / run(1), 1, 8))  # one epoch of the random data has 8 steps
  return statistics.median(run(count) for _ in range(BLOCKS))


def _line(row):
  seconds = "" if row["seconds"] is None else f"{row['seconds']:8.4f} s/step"
  speed = "" if row["seconds"] is None else f"{row['images_per_second']:9.1f} images/s"
  gflops = "" if row["seconds"] is None else f"{row['flops'] / row['seconds'] / 1e9:7.1f} GFLOP/s"
  return (
    f"{row['case']:22}{seconds}{speed}{gflops}  compile {row['compile_seconds']:5.1f} s"
    f"  memory {row['peak_bytes'] / 2**20:7.0f} MiB"
  )


def define_flags() -> None:
  """Defines this command's flags."""
  flags.DEFINE_enum("suite", "train", tuple(SUITES), "What to measure.")
  flags.DEFINE_list("cases", None, "Cases to run; those of the suite if none are named.")
  flags.DEFINE_integer("batch_size", 128, "Images a step.")
  flags.DEFINE_enum("precision", "float32", ("float32", "bfloat16"), "Type of the convolutions.")
  flags.DEFINE_bool("json", False, "One JSON object a row.")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
