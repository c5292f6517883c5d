"""Tests the filter transpose for GPUs on the CPU, and the programs that are lowered for a GPU."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cscjax import ops
from cscjax.ops import _conv_gpu, _conv_plain
from tests import references


def _check(spatial, kernel, strides, dilations, pads, dtype=np.float64, error=1e-13):
  """Compares with the plain form in float64, to within `error` times the largest entry."""
  geometry = {"stride": strides, "dilation": dilations, "padding": pads}
  shape = references.code_spatial(np.zeros((*kernel, 1, 1)), spatial, **geometry)
  rng = np.random.default_rng(0)
  x, y = (jnp.asarray(rng.normal(size=(2, *s)), dtype) for s in ((*spatial, 2), (*shape, 3)))
  params = {"strides": strides, "dilations": dilations, "pads": pads, "sizes": (spatial, kernel)}
  got = jax.jit(partial(_conv_gpu.filter_transpose, **params))(x, y)
  assert got.dtype == dtype
  plain = jax.jit(partial(_conv_plain.filter_transpose, **params))
  expected = plain(x.astype(np.float64), y.astype(np.float64))
  assert got.shape == expected.shape == (*kernel, 2, 3)
  np.testing.assert_allclose(got, expected, rtol=0, atol=error * (1 + np.abs(expected).max()))


@st.composite
def _geometries(draw):
  rank = draw(st.sampled_from([1, 2]))

  def sizes(low, high):
    return tuple(draw(st.integers(low, high)) for _ in range(rank))

  pads = tuple(zip(sizes(0, 7), sizes(0, 7), strict=True))
  geometry: dict[str, Any] = {"stride": sizes(1, 4), "dilation": sizes(1, 4), "padding": pads}
  spatial, kernel = sizes(1, 11), sizes(1, 4)
  assume(min(references.code_spatial(np.zeros((*kernel, 1, 1)), spatial, **geometry)) >= 1)
  return spatial, kernel, *geometry.values()


@given(_geometries())
@settings(max_examples=12)
def test_any_geometry(x64, case):
  _check(*case)


@pytest.mark.parametrize(
  ("spatial", "kernel", "strides", "dilations", "pads"),
  [
    ((33, 32), (3, 3), (1, 1), (3, 2), ((3, 3), (2, 2))),
    ((8, 8), (3, 3), (1, 1), (3, 3), ((3, 3), (3, 3))),  # parts that are not larger than the filter
    ((9, 8), (2, 4), (1, 1), (2, 3), ((1, 1), (4, 5))),  # padding that is not a multiple of the dilation
    ((12, 13), (3, 2), (2, 3), (3, 2), ((2, 1), (0, 0))),  # stride and dilation without a common divisor
    (
      (16, 17),
      (3, 3),
      (2, 4),
      (4, 2),
      ((4, 4), (1, 2)),
    ),  # d / 2 residues in one axis, a single residue in the other
    ((16,), (3,), (6,), (4,), ((3, 0),)),
    ((10, 9), (2, 2), (2, 1), (1, 2), ((0, 1), (1, 1))),  # an axis that is not dilated
    ((5, 5), (3, 3), (1, 1), (2, 2), ((14, 1), (0, 14))),  # outputs that depend on padding only
    ((5, 4, 7), (2, 3, 3), (1, 2, 1), (1, 2, 3), ((0, 1), (2, 2), (3, 3))),
    ((20,), (5,), (1,), (16,), ((32, 32),)),  # a dilation close to the size of the signal
  ],
)
def test_named_geometries(x64, spatial, kernel, strides, dilations, pads):
  _check(spatial, kernel, strides, dilations, pads)


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 1e-6), (jnp.bfloat16, 2**-7)])
def test_types(x64, dtype, error):
  _check((8, 9), (3, 3), (1, 1), (2, 3), ((2, 2), (3, 3)), dtype, error)


def test_empty_batch():
  params = {"strides": (1,), "dilations": (2,), "pads": ((2, 2),), "sizes": ((8,), (3,))}
  out = _conv_gpu.filter_transpose(jnp.ones((0, 8, 2)), jnp.ones((0, 8, 4)), **params)
  np.testing.assert_array_equal(out, np.zeros((3, 2, 4)))


GROUPED = {"strides": (2, 1), "dilations": (1, 2), "pads": ((1, 0), (1, 3)), "sizes": ((9, 8), (3, 2))}


@pytest.mark.parametrize(
  ("function", "operands"),
  [
    (_conv_plain.conv, "xw"),
    (_conv_plain.input_transpose, "yw"),
    (_conv_plain.filter_transpose, "xy"),
    (_conv_gpu.filter_transpose, "xy"),
  ],
)
@pytest.mark.parametrize("rank", [1, 2])
def test_groups(x64, function, operands, rank):
  """Compares each group with the map of this group alone."""
  params = {name: value[-rank:] for name, value in GROUPED.items() if name != "sizes"}
  params["sizes"] = tuple(size[-rank:] for size in GROUPED["sizes"])
  shapes = {"x": (2, 9, 8, 4), "w": (3, 2, 4, 5), "y": (2, 4, 10, 5)}
  if rank == 1:
    shapes = {"x": (2, 8, 4), "w": (2, 4, 5), "y": (2, 10, 5)}
  rng = np.random.default_rng(5)
  pair = [jnp.asarray(rng.normal(size=(3, *shapes[name]))) for name in operands]
  grouped = jax.jit(partial(function, **params))(*pair)
  for got, *operands in zip(grouped, *pair, strict=True):
    np.testing.assert_allclose(got, function(*operands, **params), atol=1e-12)


def _gpu_text(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def _convolutions(text):
  return re.findall(r"stablehlo\.convolution.*", text)


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", ((1, 3), (0, 2))])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (1, (1, 5)), ((3, 1), 2), (2, 4)])
@pytest.mark.parametrize("adjoint", [False, True])
def test_xla_recognises_gradients_by_dilated_filters(padding, stride, dilation, adjoint):
  """XLA requires stride 1, and that y is larger than the filters but not larger than x."""
  spatial, kernel, geometry = (17, 16), (3, 2), {"stride": stride, "dilation": dilation}
  filters = jnp.zeros((*kernel, 4, 5))
  code = ops.analysis_shape(filters, spatial, padding=padding, **geometry)

  def product(w, x, y):
    if adjoint:
      return jnp.sum(ops.conv_adjoint(y, w, spatial, padding=padding, **geometry) * x)
    return jnp.sum(ops.conv(x, w, padding=padding, **geometry) * y)

  text = _gpu_text(jax.grad(product), filters.shape, (6, *spatial, 4), (6, *code, 5))
  (gradient,) = _convolutions(text)
  assert "stride = [1, 1]" in gradient
  x, y, w = ([int(n) for n in shape] for shape in re.findall(r"tensor<(\d+)x(\d+)x(\d+)x", gradient))
  assert all(k < n <= size for k, n, size in zip(w[:2], y[1:], x[1:], strict=True))


@pytest.mark.parametrize(("kernel", "dilations"), [((3, 3), (1, 1)), ((1, 3), (4, 1))])
def test_undilated_gradient_keeps_the_plain_form(kernel, dilations):
  """The dilation of a filter with a single tap has no effect."""
  pads = ((0, 0), (1, 1)) if kernel == (1, 3) else ((1, 1), (1, 1))
  params = {"strides": (2, 1), "pads": pads, "sizes": ((8, 8), kernel)}
  shapes = ((6, 8, 8, 4), (6, 4, 8, 5))
  own = partial(_conv_gpu.filter_transpose, dilations=dilations, **params)
  plain = partial(_conv_plain.filter_transpose, dilations=(1, 1), **params)
  assert _gpu_text(own, *shapes) == _gpu_text(plain, *shapes)


@pytest.mark.parametrize("axes", [(0, 0, 0), (None, 0, 0), (0, None, 0), (0, 0, None), (None, 0, None)])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_vmap_is_one_convolution_on_a_gpu(axes, order):
  """The convolution has groups if both operands are mapped, and none if only one is."""
  shapes = ((2, 8, 8, 4), (3, 3, 4, 5), (2, 8, 8, 5))  # x, filters, code

  def value(x, w, code):
    return jnp.sum(ops.conv(x, w, dilation=2) * code)

  argument = (2, 0, 1)[order]
  mapped = [(7, *shape) if axis == 0 else shape for shape, axis in zip(shapes, axes, strict=True)]
  text = _gpu_text(jax.vmap(jax.grad(value, argument), axes), *mapped)
  assert "while" not in text
  (only,) = _convolutions(text)
  groups = 7 if all(axis == 0 for i, axis in enumerate(axes) if i != argument) else 1
  kind = "batch" if argument == 1 else "feature"
  assert f"{kind}_group_count = {groups} " in only
