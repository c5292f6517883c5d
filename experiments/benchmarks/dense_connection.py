"""Suite `dense`: ways to write the dense connection of MSD-CSC: each layer reads all channels so far.

    concatenate   a layer's pair (a, z) becomes the next one's signal: what the networks do
    buffer        one array a resolution: layers read its first channels and write theirs behind them
    split         parts are never joined: a convolution of them is the sum of theirs
    scatter       a part is convolved once for all later layers of a dilation (unfolding 0)

The connection alone: no batch norm, no classifier, a constant step and threshold.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cscjax.ops import conv, conv_adjoint, max_pool
from cscjax.training import compiler_options
from experiments.benchmarks import training
from experiments.benchmarks.gradients import planned_bytes

CHANNELS = 3  # of the images; they are no codes, so never clipped
DILATIONS = (1, 2, 3)  # of the layers, in turn
BIAS = -0.1  # minus the threshold
STEP = 0.1  # of the unfoldings


class DilatedFilters(NamedTuple):
  """A layer's dictionary.

  Attributes:
    filters: [3, 3, C, width], over all C channels so far.
    dilation: Of the filters.
  """

  filters: jax.Array
  dilation: int


Parts = list[jax.Array]
"""Consecutive channels of one signal, each [N, H, W, ...]."""


def concatenate(parts: Parts, layers: Sequence[DilatedFilters], unfolding: int) -> Parts:
  """The layers of one resolution on one array, joined after each of them."""
  (x,) = parts
  for layer in layers:
    (kept,), new = _code([x], layer, unfolding)
    x = jnp.concatenate([kept, new], axis=-1)
  return [x]


def buffer(parts: Parts, layers: Sequence[DilatedFilters], unfolding: int) -> Parts:
  """The same in one array that has room for the channels of all these layers."""
  (x,) = parts
  total = sum(layers[-1].filters.shape[-2:])
  store = _write(jnp.zeros((*x.shape[:-1], total), x.dtype), x, 0)
  for layer in layers:
    channels = layer.filters.shape[-2]
    (kept,), new = _code([store[..., :channels]], layer, unfolding)
    if unfolding > 0:  # else `kept` is what the store has there
      store = _write(store, kept, 0)
    store = _write(store, new, channels)
  return [store]


def split(parts: Parts, layers: Sequence[DilatedFilters], unfolding: int) -> Parts:
  """The same on a growing list of parts, which neither this nor its gradient joins."""
  for layer in layers:
    kept, new = _code(parts, layer, unfolding)
    parts = [*kept, new]
  return parts


def scatter(parts: Parts, layers: Sequence[DilatedFilters], unfolding: int) -> Parts:
  """The same with a convolution for each new part and dilation, whose results the layers add up.

  The parts that come from the resolution before are joined first, as they are all known by then.

  Args:
    parts: The signal.
    layers: Those of one resolution, of equal width.
    unfolding: 0; further iterations would change the parts for each layer.
  """
  if unfolding > 0:
    raise ValueError(f"unfolding: expected 0, got {unfolding}")
  new, start = jnp.concatenate(parts, axis=-1), 0
  parts = [new]
  sums: list[Any] = [0.0] * len(layers)
  for i in range(len(layers)):
    end = start + new.shape[-1]
    waiting = range(i, len(layers))
    for dilation in dict.fromkeys(layers[j].dilation for j in waiting):
      readers = [j for j in waiting if layers[j].dilation == dilation]
      filters = jnp.concatenate([layers[j].filters[:, :, start:end] for j in readers], axis=-1)
      terms = jnp.split(conv(new, filters, dilation=dilation), len(readers), axis=-1)
      for j, term in zip(readers, terms, strict=True):
        sums[j] += term
    new, start = _threshold(sums[i]), end
    parts.append(new)
  return parts


VARIANTS: dict[str, Callable[[Parts, Sequence[DilatedFilters], int], Parts]] = {
  "concatenate": concatenate,
  "buffer": buffer,
  "split": split,
  "scatter": scatter,
}


class Case(NamedTuple):
  """What is measured.

  Attributes:
    variant: A key of `VARIANTS`.
    depth: Layers.
    unfolding: Iterations after the first one in each layer.
  """

  variant: str
  depth: int
  unfolding: int


CASES = {
  f"{variant}_d{depth}_u{unfolding}": Case(variant, depth, unfolding)
  for depth in (6, 9, 12)
  for unfolding in (0, 1, 2)
  for variant in VARIANTS
  if variant != "scatter" or unfolding == 0
}


def loss(filters: Sequence[jax.Array], images: jax.Array, *, variant: str, unfolding: int) -> jax.Array:
  """Mean of the squares of the last layer's code, the same for every variant.

  Args:
    filters: Of each layer, three or more, [3, 3, C, width] with C all channels before it.
    images: [N, H, W, CHANNELS]; H and W multiples of 4.
    variant: A key of `VARIANTS`.
    unfolding: Iterations after the first one in each layer.
  """
  layers = [DilatedFilters(f, dilation) for f, dilation in zip(filters, itertools.cycle(DILATIONS))]
  depth, parts = len(layers), [images]
  for start, end in itertools.pairwise([0, depth // 3, 2 * depth // 3, depth]):
    if start > 0:
      parts = [max_pool(part) for part in parts]
    parts = VARIANTS[variant](parts, layers[start:end], unfolding)
  squares = jnp.stack([jnp.sum(jnp.square(part)) for part in parts])
  return jnp.sum(squares) / sum(part.size for part in parts)


def random_inputs(depth: int, batch: int, width: int, size: int) -> tuple[list[np.ndarray], np.ndarray]:
  """He-normal filters and normal images, float64, as `loss` takes them."""
  rng = np.random.default_rng(0)
  shapes = [(3, 3, CHANNELS + i * width, width) for i in range(depth)]
  filters = [rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1])) for shape in shapes]
  return filters, rng.normal(size=(batch, size, size, CHANNELS))


def rows(
  cases: Sequence[str], batch: int = 128, *, width: int = 32, size: int = 32
) -> Iterator[dict[str, Any]]:
  """Measures the cases; those of one depth and unfolding take turns.

  Args:
    cases: Keys of `CASES`.
    batch: Images N, [N, size, size, CHANNELS].
    width: New channels of each layer.
    size: Of the images, a multiple of 4.
  """
  for depth, unfolding in dict.fromkeys(CASES[case][1:] for case in cases):
    inputs = jax.tree.map(jnp.float32, random_inputs(depth, batch, width, size))
    forward, both = {}, {}
    for case in (case for case in cases if CASES[case][1:] == (depth, unfolding)):
      function = partial(loss, variant=CASES[case].variant, unfolding=unfolding)
      forward[case] = _TimedFunction(function, inputs)
      both[case] = _TimedFunction(jax.value_and_grad(function, argnums=(0, 1)), inputs)
    forward_seconds, seconds = (
      training.time_steps({case: program.run for case, program in programs.items()})
      for programs in (forward, both)
    )
    for case, program in both.items():
      yield {
        "suite": "dense",
        "case": case,
        **CASES[case]._asdict(),
        "device": jax.devices()[0].device_kind,
        "batch": batch,
        "precision": "float32",
        "forward_seconds": forward_seconds[case],
        "seconds": seconds[case],
        "compile_seconds": program.compile_seconds,
        "peak_bytes": planned_bytes(program.compiled),
      }


def line(row: dict[str, Any]) -> str:
  """A row for people."""
  return (
    f"{row['case']:20}{row['seconds']:9.4f} s  forward{row['forward_seconds']:9.4f} s"
    f"  compile {row['compile_seconds']:5.1f} s  memory {row['peak_bytes'] / 2**20:6.0f} MiB"
  )


class _TimedFunction:
  """A function compiled for its arguments.

  Attributes:
    compiled: The function.
    compile_seconds: What tracing and compiling took.
  """

  def __init__(self, function: Callable, arguments: tuple):
    self._arguments = arguments
    jitted = jax.jit(function, compiler_options=compiler_options())
    start = time.perf_counter()
    self.compiled = jitted.lower(*arguments).compile()
    self.compile_seconds = time.perf_counter() - start

  def run(self, count: int) -> float:
    """Seconds a call, over `count` calls one after the other."""
    start = time.perf_counter()
    for _ in range(count):
      jax.block_until_ready(self.compiled(*self._arguments))
    return (time.perf_counter() - start) / count


def _code(parts, layer, unfolding):
  """The layer's code of a signal in parts: the parts as they are kept, and the new channels.

  F^T z is taken a part at a time, too: slices of one F^T z would join their gradients.
  """
  ends = np.cumsum([part.shape[-1] for part in parts])
  blocks = jnp.split(layer.filters, ends[:-1], axis=2)

  def analysis(parts):
    return sum(conv(part, f, dilation=layer.dilation) for part, f in zip(parts, blocks, strict=True))

  kept, new = parts, _threshold(analysis(parts))
  for _ in range(unfolding):
    size = new.shape[1:-1]
    residual = [conv_adjoint(new, f, size, dilation=layer.dilation) for f in blocks]
    if kept is not parts:  # else a + F^T z - x is F^T z
      residual = [(a - x) + r for a, x, r in zip(kept, parts, residual, strict=True)]
    new = _threshold(new - STEP * analysis(residual))
    kept = [a - STEP * r for a, r in zip(kept, residual, strict=True)]
    is_code = jnp.arange(kept[0].shape[-1]) >= CHANNELS  # the first part begins with the image
    kept = [jnp.where(is_code, jax.nn.relu(kept[0]), kept[0]), *map(jax.nn.relu, kept[1:])]
  return kept, new


def _threshold(z):
  return jax.nn.relu(z + BIAS)


def _write(store, part, channel):
  return lax.dynamic_update_slice_in_dim(store, part, channel, axis=-1)
