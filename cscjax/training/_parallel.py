"""One device or several: the only file that knows how a program is compiled for devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cscjax import checks

AXIS = "devices"
MODES = ("auto", "jit", "pmap")
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def create_mesh(mode: str) -> Mesh | None:
  """The devices to train on: None for one device (`jit`), else a mesh of all of them along `AXIS`.

  "pmap" means one program a device, each with its part of the batch, gradients averaged. It is written
  with `jax.shard_map`: `jax.pmap` is in maintenance mode and has itself become jit + shard_map.

  Args:
    mode: "jit", "pmap", or "auto": "pmap" where there are several devices.

  Raises:
    ValueError: If the mode is unknown.
  """
  checks.one_of("parallel", mode, MODES)
  devices = jax.devices()
  if mode == "jit" or (mode == "auto" and len(devices) == 1):
    return None
  return jax.make_mesh((len(devices),), (AXIS,), devices=devices)


def compile_for(mesh: Mesh | None, function: Callable, *, donate: int | None = None) -> Callable:
  """Compiles a function of replicated arguments for the devices of a mesh.

  Args:
    mesh: From `create_mesh`.
    function: Pure, with positional arguments; on a mesh it runs on each device, with `AXIS` bound, and
      has to return the same on all.
    donate: Position of the argument whose memory the result may take.
  """
  donated = () if donate is None else (donate,)
  if mesh is not None:
    everywhere = PartitionSpec()
    function = jax.shard_map(
      function, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )
  return jax.jit(function, donate_argnums=donated, compiler_options=compiler_options())


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


def replicate(mesh: Mesh | None, tree: Any) -> Any:
  """The tree on the device, or on each of the mesh's."""
  return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, PartitionSpec()))
