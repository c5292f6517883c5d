"""Suite `dense`: ways to implement the dense connection of MSD-CSC.

In a dense connection each layer reads the channels of all layers before it.

    concatenate   a layer concatenates its code (a, z), which is the next layer's signal; the networks
                  use this variant
    buffer        all layers of one resolution read and write channels of one preallocated array
    split         the parts are never concatenated; a layer adds up the convolutions of the parts
    scatter       each part is convolved once for all later layers with the same dilation (unfolding 0)

The suite measures the connection alone: without batch norm and classifier, and with a constant step size
and threshold.
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

CHANNELS = 3  # channels of the images, which are not codes and thus never clipped
DILATIONS = (1, 2, 3)  # dilations of the layers, repeated cyclically
BIAS = -0.1  # minus the threshold
STEP = 0.1  # step size of the unfolded iterations


class DilatedFilters(NamedTuple):
  """The dictionary of a layer.

  Attributes:
    filters: Filters [3, 3, C, width], where C is the number of channels before the layer.
    dilation: Dilation of the filters.
  """

  filters: jax.Array
  dilation: int


Parts = list[jax.Array]
"""A signal split along its channels into arrays [N, H, W, ...]."""


def concatenate(parts: Parts, layers: Sequence[DilatedFilters], unfolding: int) -> Parts:
  """Applies the layers of one resolution and concatenates the channels after each layer."""
  (x,) = parts
  for layer in layers:
    (kept,), new = _code([x], layer, unfolding)
    x = jnp.concatenate([kept, new], axis=-1)
  return [x]


def buffer(parts: Parts, layers: Sequence[DilatedFilters], unfolding: int) -> Parts:
  """Applies the layers of one resolution in one array with room for the channels of all of them."""
  (x,) = parts
  total = sum(layers[-1].filters.shape[-2:])
  store = _write(jnp.zeros((*x.shape[:-1], total), x.dtype), x, 0)
  for layer in layers:
    channels = layer.filters.shape[-2]
    (kept,), new = _code([store[..., :channels]], layer, unfolding)
    if unfolding > 0:  # otherwise the store already holds `kept`
      store = _write(store, kept, 0)
    store = _write(store, new, channels)
  return [store]


def split(parts: Parts, layers: Sequence[DilatedFilters], unfolding: int) -> Parts:
  """Applies the layers of one resolution to a growing list of parts that are never concatenated."""
  for layer in layers:
    kept, new = _code(parts, layer, unfolding)
    parts = [*kept, new]
  return parts


def scatter(parts: Parts, layers: Sequence[DilatedFilters], unfolding: int) -> Parts:
  """Applies the layers of one resolution with one convolution per new part and dilation.

  The layers add up the results of these convolutions. The parts of the previous resolution are all known
  at the start and are concatenated first.

  Args:
    parts: Parts of the signal.
    layers: Layers of one resolution, of equal width.
    unfolding: Must be 0, because further iterations would change the parts for each layer.

  Raises:
    ValueError: If `unfolding` is positive.
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
  """A case of the suite.

  Attributes:
    variant: Name in `VARIANTS`.
    depth: Number of layers.
    unfolding: Number of iterations after the first one in each layer.
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
  """Returns the mean square of the last layer's code, which is the same for every variant.

  Args:
    filters: Filters [3, 3, C, width] of each of at least three layers; C counts all channels before it.
    images: Images [N, H, W, CHANNELS]; H and W are multiples of 4.
    variant: Name in `VARIANTS`.
    unfolding: Number of iterations after the first one in each layer.
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
  """Returns the arguments of `loss` in float64: He-normal filters and normal images."""
  rng = np.random.default_rng(0)
  shapes = [(3, 3, CHANNELS + i * width, width) for i in range(depth)]
  filters = [rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1])) for shape in shapes]
  return filters, rng.normal(size=(batch, size, size, CHANNELS))


def rows(
  cases: Sequence[str], batch: int = 128, *, width: int = 32, size: int = 32
) -> Iterator[dict[str, Any]]:
  """Measures the cases and yields a row for each; cases of equal depth and unfolding are interleaved.

  Args:
    cases: Names in `CASES`.
    batch: Number of images.
    width: Number of new channels of each layer.
    size: Height and width of the images, a multiple of 4.
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
  """Formats a row of the printed table."""
  return (
    f"{row['case']:20}{row['seconds']:9.4f} s  forward{row['forward_seconds']:9.4f} s"
    f"  compile {row['compile_seconds']:5.1f} s  memory {row['peak_bytes'] / 2**20:6.0f} MiB"
  )


class _TimedFunction:
  """A function compiled for its arguments.

  Attributes:
    compiled: The compiled function.
    compile_seconds: Seconds that tracing and compilation took.
  """

  def __init__(self, function: Callable, arguments: tuple):
    self._arguments = arguments
    jitted = jax.jit(function, compiler_options=compiler_options())
    start = time.perf_counter()
    self.compiled = jitted.lower(*arguments).compile()
    self.compile_seconds = time.perf_counter() - start

  def run(self, count: int) -> float:
    """Calls the function `count` times and returns the seconds per call."""
    start = time.perf_counter()
    for _ in range(count):
      jax.block_until_ready(self.compiled(*self._arguments))
    return (time.perf_counter() - start) / count


def _code(parts: Parts, layer: DilatedFilters, unfolding: int) -> tuple[Parts, jax.Array]:
  """Returns a layer's code of a signal in parts: the updated parts, and the new channels.

  F^T z is also computed for each part alone. Slices of one F^T z would concatenate their gradients.
  """
  ends = np.cumsum([part.shape[-1] for part in parts])
  blocks = jnp.split(layer.filters, ends[:-1], axis=2)

  def analysis(parts: Parts) -> Any:
    return sum(conv(part, f, dilation=layer.dilation) for part, f in zip(parts, blocks, strict=True))

  kept, new = parts, _threshold(analysis(parts))
  for _ in range(unfolding):
    size = new.shape[1:-1]
    residual = [conv_adjoint(new, f, size, dilation=layer.dilation) for f in blocks]
    if kept is not parts:  # otherwise a = x, so that a + F^T z - x is F^T z
      residual = [(a - x) + r for a, x, r in zip(kept, parts, residual, strict=True)]
    new = _threshold(new - STEP * analysis(residual))
    kept = [a - STEP * r for a, r in zip(kept, residual, strict=True)]
    is_code = jnp.arange(kept[0].shape[-1]) >= CHANNELS  # the first part begins with the image
    kept = [jnp.where(is_code, jax.nn.relu(kept[0]), kept[0]), *map(jax.nn.relu, kept[1:])]
  return kept, new


def _threshold(z: jax.Array) -> jax.Array:
  return jax.nn.relu(z + BIAS)


def _write(store: jax.Array, part: jax.Array, channel: int) -> jax.Array:
  return lax.dynamic_update_slice_in_dim(store, part, channel, axis=-1)
