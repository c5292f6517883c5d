"""Suite `convolutions`: values and times of the convolutions of the paper's networks.

The suite measures three operations of each convolution: the analysis, the synthesis, and the gradient
with respect to the filters. These are all that training needs: the gradient of the analysis with respect
to the signal is the synthesis, and the gradient of the synthesis with respect to the code is the
analysis. If PyTorch is installed and uses the same kind of device, its values and times are compared
with ours.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax.ops import conv, conv_adjoint
from cscjax.training import compiler_options
from experiments.benchmarks import rates
from experiments.benchmarks.training import time_steps


class Geometry(NamedTuple):
  """The geometry of a convolution of square signals with padding "SAME".

  Attributes:
    size: Height and width of the signal.
    channels: Number of channels C of the signal.
    atoms: Number of atoms m, which is the number of channels of the code.
    dilation: Spacing of the taps of a filter.
    stride: Stride of the convolution.
    taps: Height and width of the filters.
  """

  size: int
  channels: int
  atoms: int
  dilation: int = 1
  stride: int = 1
  taps: int = 3

  @property
  def code_size(self) -> int:
    """Height and width of the code."""
    return -(-self.size // self.stride)

  @property
  def flops(self) -> int:
    """Operations of each map for one signal: two per multiply-add, those on the padding included."""
    return 2 * self.code_size**2 * self.taps**2 * self.channels * self.atoms


class Arrays(NamedTuple):
  """The arguments of every map.

  Attributes:
    signal: Signal [N, H, W, C].
    filters: Filters [kh, kw, C, m].
    code: Code [N, H', W', m].
  """

  signal: Any
  filters: Any
  code: Any


GEOMETRIES = {
  # MSD-CSC
  "32x32_3to32_d1": Geometry(32, 3, 32),
  "32x32_35to32_d2": Geometry(32, 35, 32, dilation=2),
  "32x32_99to32_d1": Geometry(32, 99, 32),
  "16x16_195to32_d1": Geometry(16, 195, 32),
  "8x8_323to32_d3": Geometry(8, 323, 32, dilation=3),
  "8x8_355to32_d3": Geometry(8, 355, 32, dilation=3),
  # Res-CSC and ResNet
  "32x32_16to16_d1": Geometry(32, 16, 16),
  "16x16_32to32_d1": Geometry(16, 32, 32),
  "8x8_64to64_d1": Geometry(8, 64, 64),
  "32x32_16to32_s2": Geometry(32, 16, 32, stride=2),
  "16x16_32to64_s2": Geometry(16, 32, 64, stride=2),
  # ML-CSC, whose padding of 1 equals "SAME" here
  "32x32_3to32_k4s2": Geometry(32, 3, 32, stride=2, taps=4),
  "16x16_32to64_k4s2": Geometry(16, 32, 64, stride=2, taps=4),
  "8x8_64to128_k4s2": Geometry(8, 64, 128, stride=2, taps=4),
  "4x4_128to256_d1": Geometry(4, 128, 256),
  "2x2_512to512_d1": Geometry(2, 512, 512),
}
OPERATIONS = ("analysis", "synthesis", "filter_gradient")
CASES = {
  f"{name}_{operation}": (geometry, operation)
  for name, geometry in GEOMETRIES.items()
  for operation in OPERATIONS
}
APPLICATIONS = 16  # applications of a map that are timed together


def rows(cases: Sequence[str], batch: int, precision: str) -> Iterator[dict[str, Any]]:
  """Measures the cases; yields our row of each case and, if available, PyTorch's.

  Args:
    cases: Names in `CASES`.
    batch: Number of signals.
    precision: "float32" or "bfloat16".
  """
  pytorch = _pytorch()
  for case in cases:
    geometry, operation = CASES[case]
    arrays = make_arrays(geometry, batch)
    programs: dict[str, Any] = {"cscjax": TimedMap(geometry, operation, arrays, precision)}
    if pytorch:
      programs["pytorch"] = pytorch.TorchMap(geometry, operation, arrays, precision)
    results = {framework: program.result() for framework, program in programs.items()}
    steps = time_steps({framework: program.run for framework, program in programs.items()})
    for framework in programs:
      seconds = steps[framework] / APPLICATIONS
      yield {
        "suite": "convolutions",
        "case": case,
        "framework": framework,
        "device": jax.devices()[0].device_kind,
        "precision": precision,
        "batch": batch,
        "seconds": seconds,
        "flops": batch * geometry.flops,
        "flops_per_second": batch * geometry.flops / seconds,
        "error": distance(results[framework], results["pytorch"]) if pytorch else None,
        "times_pytorch": steps[framework] / steps["pytorch"] if pytorch else None,
      }


def make_arrays(geometry: Geometry, batch: int) -> Arrays:
  """Returns random float32 arrays for a batch of signals."""
  size, channels, atoms, taps = geometry.size, geometry.channels, geometry.atoms, geometry.taps
  rng = np.random.default_rng(0)
  return Arrays(
    rng.normal(size=(batch, size, size, channels)).astype(np.float32),
    rng.normal(size=(taps, taps, channels, atoms)).astype(np.float32),
    rng.normal(size=(batch, geometry.code_size, geometry.code_size, atoms)).astype(np.float32),
  )


def distance(found: np.ndarray, expected: np.ndarray) -> float:
  """Returns the largest absolute difference, relative to the largest entry of `expected`."""
  return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


class TimedMap:
  """One of our maps in a compiled loop, like in the loop over training steps."""

  def __init__(self, geometry: Geometry, operation: str, arrays: Arrays, precision: str):
    self.arrays = Arrays(*(jnp.asarray(array, np.dtype(precision)) for array in arrays))
    loop = jax.jit(partial(_loop, geometry, operation), compiler_options=compiler_options())
    self.loop = loop.lower(self.arrays, np.int32(0)).compile()

  def run(self, count: int) -> float:
    """Runs `count * APPLICATIONS` applications and returns the seconds per `APPLICATIONS` of them."""
    start = time.perf_counter()
    jax.block_until_ready(self.loop(self.arrays, np.int32(count * APPLICATIONS)))
    return (time.perf_counter() - start) / count

  def result(self) -> np.ndarray:
    """Returns the value of the map in float32."""
    return np.asarray(self.loop(self.arrays, np.int32(1)), np.float32)


def _loop(geometry: Geometry, operation: str, arrays: Arrays, count: jax.Array) -> jax.Array:
  """Applies the map `count` times and returns the value of the last application."""

  def again(_: jax.Array, carry: tuple[Arrays, jax.Array]) -> tuple[Arrays, jax.Array]:
    arrays, last = carry
    # One entry of each array depends on the last value. Otherwise XLA would move the work out of the
    # loop and do it once; on the CPU it does so even behind an optimization barrier.
    zero = 0 * last[0, 0, 0, 0]
    arrays = Arrays(*(array.at[0, 0, 0, 0].add(zero) for array in arrays))
    return arrays, _apply(geometry, operation, arrays)

  value = jax.eval_shape(partial(_apply, geometry, operation), arrays)
  return lax.fori_loop(0, count, again, (arrays, jnp.zeros_like(value)))[1]


def _apply(geometry: Geometry, operation: str, arrays: Arrays) -> jax.Array:
  signal, filters, code = arrays
  settings: dict[str, Any] = {"stride": geometry.stride, "dilation": geometry.dilation}
  if operation == "analysis":
    return conv(signal, filters, **settings)
  if operation == "synthesis":
    return conv_adjoint(code, filters, signal.shape[1:3], **settings)
  return jax.linear_transpose(lambda filters: conv(signal, filters, **settings), filters)(code)[0]


def _pytorch() -> ModuleType | None:
  """Returns PyTorch's module, or None if PyTorch is missing or uses another kind of device than JAX."""
  if not rates.has_pytorch():
    return None
  from experiments.benchmarks import pytorch_convolutions, pytorch_training

  if pytorch_training.ON_GPU == (jax.default_backend() == "gpu"):
    return pytorch_convolutions
  devices = f"PyTorch uses {pytorch_training.DEVICE}, JAX uses {jax.default_backend()}"
  print(f"PyTorch is skipped: {devices}", file=sys.stderr)
  return None


def line(row: dict[str, Any]) -> str:
  """Formats a row of the printed table."""
  text = f"{row['case']:34}{row['framework']:8}{1e3 * row['seconds']:9.3f} ms"
  text += f"{row['flops_per_second'] / 1e9:9.1f} GFLOP/s"
  if row["times_pytorch"] is not None and row["framework"] == "cscjax":
    text += f"  error {row['error']:.0e}  {row['times_pytorch']:5.2f} x PyTorch's time"
  return text
