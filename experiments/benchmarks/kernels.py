"""Suite `kernels`: what a training step, or an iteration of a solver, launches on a GPU.

No GPU is needed: XLA's CUDA plugin compiles for an H100 that is only described. The text of the program
tells how many kernels are launched, not how long they take. The counts of each version of JAX are kept
in kernel_counts.json, which a slow test compares:

    python -m experiments.benchmarks.kernels --cases=resnet20

counts again for the version that is installed, and writes the file.
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
from experiments import cli
from experiments.benchmarks import hlo
from experiments.benchmarks.library_calls import CALLS, FILTER_SIZE
from experiments.benchmarks.training import CASES as NETWORKS
from experiments.benchmarks.training import make_network, make_trainer
from experiments.benchmarks.worker import Worker

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
OPTIONS: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"}  # it would try algorithms on a GPU
EXAMPLES = 50_000  # of CIFAR-10
NETWORK_FILTER_SIZE = 4  # the longest side of a network's filters
CASES = (*NETWORKS, *CALLS)
COUNTED = ("resnet20", "res_csc20", "msdnet6", "msdcsc12_u2", *CALLS)  # cases of the stored counts
PATH = pathlib.Path(__file__).with_name("kernel_counts.json")


def rows(cases: Sequence[str], batch: int, precision: str) -> Iterator[dict[str, Any]]:
  """Compiles the cases one after the other.

  The counts of a row are those of `hlo.Count`: of a training step, or of an iteration of a library call,
  which is always in float32 and for which `batch` is None.

  Raises:
    UsageError: If the CUDA plugin is not installed.
    RuntimeError: If a case does not compile.
  """
  if not has_plugin():
    raise cli.UsageError("--suite: kernels needs JAX's CUDA plugin (pip install 'cscjax[cuda12]')")
  worker = Worker(_make_answer)  # a process that has looked for a GPU in vain cannot use the plugin
  try:
    for case in cases:
      worker.send({"case": case, "batch": batch, "precision": precision})
      row = worker.receive()
      if "error" in row:
        raise RuntimeError(f"{case}: {row['error']}")
      yield row
  finally:
    worker.close()


def _make_answer():
  jax.config.update("jax_platforms", "cpu")  # else the plugin looks for a driver
  return lambda request: count(**request)


def count(case: str, batch: int, precision: str) -> dict[str, Any]:
  """The row of a case, where JAX runs on the CPU."""
  start = time.perf_counter()
  iterations = 1
  if case in CALLS:
    call, iterations = CALLS[case], CALLS[case].iterations
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in call.shapes]
    program = hlo.HloModule(compiled_text(call.function, *arguments), FILTER_SIZE)
  else:
    program = hlo.HloModule(compile_step(case, batch, precision), NETWORK_FILTER_SIZE)
  counts = {name: value / iterations for name, value in program.largest_turn()._asdict().items()}
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
  """Whether JAX can compile for CUDA here."""
  return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def compile_step(case: str, batch: int, precision: str) -> str:
  """The optimized HLO of a network's training program."""
  network = make_network(NETWORKS[case], precision, "gpu")
  trainer = make_trainer(network, batch, shift=4, flip=True)  # as the flagfiles train on CIFAR-10

  def arguments():
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
  """The optimized HLO of a function of arguments of which only shapes and types are known."""
  on_gpu = SingleDeviceSharding(_topology().devices[0])
  arguments = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_gpu), arguments
  )
  traced = jax.jit(function, donate_argnums=() if donate is None else donate).trace(*arguments)
  return traced.lower(lowering_platforms=("cuda",)).compile(OPTIONS).as_text() or ""


@functools.cache
def _topology():
  return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")


def stored_counts() -> dict[str, dict[str, dict[str, float]]]:
  """The counts of each case by the version of JAX."""
  return json.loads(PATH.read_text())


def line(row: dict[str, Any]) -> str:
  """A row for people."""
  text = (
    f"{row['case']:18}{row['kernels']:7g} kernels, {row['copies_and_transposes']:g} of them move data,"
  )
  text += f"{row['whole_signal_windows']:4g} whole-signal windows,{row['loops']:4g} loops,"
  return text + f"{row['waits']:4g} waits  compile {row['compile_seconds']:4.0f} s"


def main() -> None:
  """Counts the cases and stores what was found, one after the other."""
  stored = stored_counts() if PATH.exists() else {}
  for row in rows(flags.FLAGS.cases or COUNTED, 128, "bfloat16"):
    counts = {name: row[name] for name in hlo.Count._fields}
    stored.setdefault(row["jax"], {})[row["case"]] = counts
    PATH.write_text(json.dumps(stored, indent=2) + "\n")
    print(line(row), flush=True)


if __name__ == "__main__":
  flags.DEFINE_list("cases", None, "Cases to count; those that are stored if none are named.")
  cli.run(main)
