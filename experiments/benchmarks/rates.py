"""Peak rates of the device, with which training steps are compared: matrix products and copies."""

import importlib.util
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CALLS = 5  # number of timed calls, of which the fastest counts


class PeakRates(NamedTuple):
  """Peak rates of the device, with the faster framework if PyTorch is installed.

  Attributes:
    flops: Operations per second of a square matrix product in the type of the convolutions.
    bytes: Bytes per second, read and written, of a copy in float32.
  """

  flops: float
  bytes: float


def measure(precision: str) -> PeakRates:
  """Measures the peak rates of the first device."""
  on_cpu = jax.default_backend() == "cpu"
  size, length = (2048, 2**25) if on_cpu else (8192, 2**28)
  found = [_ours(precision, size, length)]
  if has_pytorch():
    from experiments.benchmarks import pytorch_training

    found.append(pytorch_training.rates(precision, size, length))
  return PeakRates(*(max(rates) for rates in zip(*found, strict=True)))


def has_pytorch() -> bool:
  """Whether PyTorch is installed."""
  return importlib.util.find_spec("torch") is not None


def _ours(precision: str, size: int, length: int) -> tuple[float, float]:
  a = jax.random.normal(jax.random.key(0), (size, size), np.dtype(precision))
  copy = jax.jit(jnp.negative, donate_argnums=0)  # in place, so that no memory is allocated
  return 2 * size**3 / _best(jax.jit(lambda a: a @ a), a), 8 * length / _best(copy, jnp.ones(length))


def _best(function: Callable[[jax.Array], jax.Array], argument: jax.Array) -> float:
  """Returns the seconds of the fastest call; each call takes the result of the previous one."""
  seconds = []
  argument = jax.block_until_ready(function(argument))
  for _ in range(CALLS):
    start = time.perf_counter()
    argument = jax.block_until_ready(function(argument))
    seconds.append(time.perf_counter() - start)
  return min(seconds)
