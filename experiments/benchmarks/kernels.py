"""Suite `kernels`: number of kernels that a training step or a solver iteration launches on a GPU.

No GPU is needed: XLA's CUDA plugin compiles for the description of an H100. The text of the compiled
program shows how many kernels it launches, but not how long they take. kernel_counts.json holds the
counts for each version of JAX, with which a slow test compares the current ones. To count the kernels
again with the installed version and update the file, run

    python -m experiments.benchmarks.kernels --cases=resnet20
"""

import functools
import importlib.util
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from cscjax import training
from cscjax.runs import write_json
from experiments import cli
from experiments.benchmarks import hlo
from experiments.benchmarks.library_calls import CALLS, FILTER_SIZE
from experiments.benchmarks.training import CASES as NETWORKS
from experiments.benchmarks.training import make_network, make_trainer
from experiments.benchmarks.worker import Answer, Worker

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
OPTIONS: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"}  # autotuning would need a GPU
EXAMPLES = 50_000  # training examples of CIFAR-10
NETWORK_FILTER_SIZE = 4  # longest side of the networks' filters
CASES = (*NETWORKS, *CALLS)
COUNTED = ("resnet20", "res_csc20", "msdnet6", "msdcsc12_u2", *CALLS)  # cases with stored counts
PATH = pathlib.Path(__file__).with_name("kernel_counts.json")


def rows(cases: Sequence[str], batch: int, precision: str) -> Iterator[dict[str, Any]]:
  """Compiles the cases and yields a row with the counts of each.

  The counts are the fields of `hlo.Count`, for one training step or for one iteration of a library call.
  Library calls always run in float32, and `batch` is None in their rows.

  Args:
    cases: Names in `CASES`.
    batch: Number of images in a training step.
    precision: "float32" or "bfloat16", for the training steps.

  Raises:
    UsageError: If the CUDA plugin is not installed.
    RuntimeError: If a case does not compile.
  """
  if not has_plugin():
    raise cli.UsageError("--suite: kernels needs JAX's CUDA plugin (pip install 'cscjax[cuda12]')")
  worker = Worker(_make_answer)  # a process in which JAX found no GPU cannot use the plugin any more
  try:
    for case in cases:
      worker.send({"case": case, "batch": batch, "precision": precision})
      row = worker.receive()
      if "error" in row:
        raise RuntimeError(f"{case}: {row['error']}")
      yield row
  finally:
    worker.close()


def _make_answer() -> Answer:
  jax.config.update("jax_platforms", "cpu")  # otherwise the plugin looks for a driver
  return lambda request: count(**request)


def count(case: str, batch: int, precision: str) -> dict[str, Any]:
  """Returns the row of a case. JAX must use the CPU in this process."""
  start = time.perf_counter()
  iterations = 1
  if case in CALLS:
    call, iterations = CALLS[case], CALLS[case].iterations
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in call.shapes]
    program = hlo.HloModule(compiled_text(call.function, *arguments), FILTER_SIZE)
  else:
    program = hlo.HloModule(compile_step(case, batch, precision), NETWORK_FILTER_SIZE)
  counts = {name: value / iterations for name, value in program.largest_iteration()._asdict().items()}
  return {
    "suite": "kernels",
    "case": case,
    **{name: int(value) if value == int(value) else round(value, 2) for name, value in counts.items()},
    "precision": "float32" if case in CALLS else precision,
    "batch": None if case in CALLS else batch,
    "compile_seconds": time.perf_counter() - start,
    "jax": jax.__version__,
  }


def has_plugin() -> bool:
  """Whether JAX's CUDA plugin is installed."""
  return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def compile_step(case: str, batch: int, precision: str) -> str:
  """Returns the optimized HLO of a network's training program."""
  network = make_network(NETWORKS[case], precision, "gpu")
  trainer = make_trainer(network, batch, shift=4, flip=True)  # the flagfiles' augmentation of CIFAR-10

  def arguments() -> tuple:
    state = trainer.create_state((32, 32, 3), jax.random.key(0))
    data = training.Examples(
      jnp.zeros((EXAMPLES, 32, 32, 3), jnp.uint8),
      jnp.zeros(EXAMPLES, jnp.int32),
      jnp.zeros(3),
      jnp.ones(3),
    )
    return state, data, jax.random.key(1), jnp.int32(1)

  return compiled_text(trainer.train_steps, *jax.eval_shape(arguments), donate=0)


def compiled_text(function: Callable, *arguments: Any, donate: int | None = None) -> str:
  """Compiles a function for a GPU and returns the optimized HLO.

  Args:
    function: Function of arrays.
    *arguments: Trees whose leaves have a shape and a type.
    donate: Index of an argument whose memory is donated.
  """
  on_gpu = SingleDeviceSharding(_topology().devices[0])
  arguments = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_gpu), arguments
  )
  traced = jax.jit(function, donate_argnums=() if donate is None else donate).trace(*arguments)
  return traced.lower(lowering_platforms=("cuda",)).compile(OPTIONS).as_text() or ""


@functools.cache
def _topology() -> Any:
  return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")


def stored_counts() -> dict[str, dict[str, dict[str, float]]]:
  """Returns the stored counts by the version of JAX and the name of the case."""
  return json.loads(PATH.read_text())


def line(row: dict[str, Any]) -> str:
  """Formats a row of the printed table."""
  text = f"{row['case']:18}{row['kernels']:7g} kernels, {row['copies_and_transposes']:g} only move data,"
  text += f"{row['whole_signal_windows']:4g} whole-signal windows,{row['loops']:4g} loops,"
  return text + f"{row['waits']:4g} waits  compile {row['compile_seconds']:4.0f} s"


def main() -> None:
  """Counts the kernels of the cases and stores the counts after each case."""
  stored = stored_counts() if PATH.exists() else {}
  for row in rows(flags.FLAGS.cases or COUNTED, 128, "bfloat16"):
    counts = {name: row[name] for name in hlo.Count._fields}
    stored.setdefault(row["jax"], {})[row["case"]] = counts
    write_json(PATH, stored)
    print(line(row), flush=True)


if __name__ == "__main__":
  flags.DEFINE_list("cases", None, "Cases to count. Default: those with stored counts.")
  cli.run(main)
