"""What the device can do at most, to judge a step by: its matrix rate and its copy bandwidth."""

import importlib.util
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CALLS = 5  # of which the fastest counts


class PeakRates(NamedTuple):
  """Of the faster framework, where there are two.

  Attributes:
    flops: A second, of a square matrix product in the type of the convolutions.
    bytes: A second, read and written, of a copy in float32.
  """

  flops: float
  bytes: float


def measure(precision: str) -> PeakRates:
  """Measures the first device."""
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


def _ours(precision, size, length):
  a = jax.random.normal(jax.random.key(0), (size, size), np.dtype(precision))
  copy = jax.jit(jnp.negative, donate_argnums=0)  # in place: no new pages
  return 2 * size**3 / _best(jax.jit(lambda a: a @ a), a), 8 * length / _best(copy, jnp.ones(length))


def _best(function, argument):
  """Seconds of the fastest call, each on the result of the one before."""
  seconds = []
  argument = jax.block_until_ready(function(argument))
  for _ in range(CALLS):
    start = time.perf_counter()
    argument = jax.block_until_ready(function(argument))
    seconds.append(time.perf_counter() - start)
  return min(seconds)
