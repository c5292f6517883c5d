"""Computation on the host in float64, with codes as vectors that contain all of their parts."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import checks
from cscjax.dictionaries import Code


@contextlib.contextmanager
def float64_on_host() -> Iterator[None]:
  """Computes in float64, on the CPU if JAX has one, and with full precision."""
  try:
    device = jax.local_devices(backend="cpu")[0]
  except RuntimeError:  # JAX_PLATFORMS=cuda: JAX has the GPU alone
    device = None
  with jax.enable_x64(True), jax.default_device(device):
    yield


def check_known(function: str, *arguments: Any) -> None:
  """Raises ValueError if the values of arguments of a function are unknown."""
  if checks.is_traced(arguments):
    raise ValueError(
      f"{function} computes with NumPy; call it outside of jax.jit and other transformations"
    )


def as_float64(leaf: Any) -> Any:
  """Converts floating-point arrays to float64 on the default device."""
  if not isinstance(leaf, jax.Array | np.ndarray):
    return leaf
  host = np.asarray(leaf)
  return jnp.asarray(host, jnp.float64 if jnp.issubdtype(host.dtype, jnp.floating) else host.dtype)


def flatten(code: Code) -> np.ndarray:
  """Flattens a code without batch axes to [p]."""
  return flatten_batch(jax.tree.leaves(code), jax.tree.leaves(code), ())[0]


def flatten_batch(values: Sequence[Any], code: Sequence[Any], batch: tuple[int, ...]) -> np.ndarray:
  """Broadcasts values to the parts of a code and flattens them to [N, p].

  Args:
    values: An array for each part of the code.
    code: The parts, arrays or shapes.
    batch: The batch axes.
  """
  parts = [np.broadcast_to(v, c.shape) for v, c in zip(values, code, strict=True)]
  sizes = [math.prod(p.shape[len(batch) :]) for p in parts]
  flat = [p.reshape(math.prod(batch), n) for p, n in zip(parts, sizes, strict=True)]
  return np.concatenate(flat, axis=1).astype(np.float64)
