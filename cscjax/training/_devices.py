"""Several devices, and several processes with devices each, that do the steps of one run together."""

import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def create_mesh() -> Mesh | None:
  """Returns a mesh of all devices of all processes along `AXIS`, or None if there is only one device."""
  devices = jax.devices()
  if len(devices) == 1:
    return None
  return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def over_mesh(mesh: Mesh | None, *axes: str) -> NamedSharding | None:
  """Returns the sharding of an array whose leading axes are split over `axes`; None without a mesh."""
  return None if mesh is None else NamedSharding(mesh, PartitionSpec(*axes))


@functools.cache
def compiler_options() -> dict[str, str]:
  """For `jax.jit(step, compiler_options=...)` of a whole training step on the default backend.

  XLA's CPU backend has another library of convolutions and products (YNNPACK), which takes a half to a
  third of the time, behind an option that is experimental: empty where this XLA does not know it. Of its
  values, this is the one that does not make sums over channels slow in turn.

  Other backends have none. On a GPU XLA's own choice is the safe one, which leaves convolutions out of
  CUDA graphs: with them a training step was 8 % faster on an H100, but one run of three ended with
  CUDNN_STATUS_EXECUTION_FAILED. XLA_FLAGS=--xla_gpu_enable_command_buffer=+CONVOLUTION puts them in.
  With XLA_FLAGS=--xla_gpu_deterministic_ops=true two runs of a step give the same bits (according to
  XLA's documentation; not verified).
  """
  if jax.default_backend() != "cpu":
    return {}
  try:
    jax.jit(lambda x: x, compiler_options=CPU_OPTIONS).lower(0.0).compile()
  except jax.errors.JaxRuntimeError:
    return {}
  return CPU_OPTIONS


def is_first() -> bool:
  """Whether this process prints and writes; true where it is the only one."""
  return jax.process_index() == 0


def process_max(value: int) -> int:
  """The largest of the processes' values; every process has to call it at the same point.

  Args:
    value: In the range of int32.
  """
  return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def from_process_0(tree: Any) -> Any:
  """The first process's arrays, in host memory; every process has to call it at the same point.

  Args:
    tree: On the other processes one of the same structure, shapes and types.
  """
  return multihost_utils.broadcast_one_to_all(tree)
