"""Compares the convolution and its adjoint with a matrix that is built tap by tap."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cscjax import ops
from tests import references


@st.composite
def geometries(draw, padding):
  """Draws (spatial shape, filters, geometry, random generator); "explicit" padding means drawn pairs."""
  rank = draw(st.sampled_from([1, 2]))

  def sizes(low, high):
    return tuple(draw(st.integers(low, high)) for _ in range(rank))

  spatial, kernel = sizes(1, 7), sizes(1, 4)
  stride = draw(st.one_of(st.integers(1, 3), st.just(sizes(1, 3))))
  dilation = draw(st.one_of(st.integers(1, 3), st.just(sizes(1, 3))))
  if padding == "explicit":
    padding = tuple(zip(sizes(0, 3), sizes(0, 3), strict=True))
  channels, m = draw(st.integers(1, 3)), draw(st.integers(1, 3))
  rng = np.random.default_rng(draw(st.integers(0, 1000)))
  filters = rng.normal(size=(*kernel, channels, m))
  geometry = {"stride": stride, "dilation": dilation, "padding": padding}
  assume(min(references.code_spatial(filters, spatial, **geometry)) >= 1)
  return spatial, filters, geometry, rng


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", "VALID", "explicit"])
@given(data=st.data(), batch=st.sampled_from([(), (2,), (2, 3), (1, 1, 2)]))
@settings(max_examples=8)
def test_adjoint_and_explicit_matrix(x64, padding, data, batch):
  spatial, filters, geometry, rng = data.draw(geometries(padding))
  x = rng.normal(size=(*batch, *spatial, filters.shape[-2]))
  analysis = ops.conv(x, filters, **geometry)
  code = rng.normal(size=analysis.shape)
  synthesis = ops.conv_adjoint(code, filters, spatial, **geometry)

  shape = references.code_spatial(filters, spatial, **geometry)
  assert analysis.shape == (*batch, *shape, filters.shape[-1])
  assert ops.analysis_shape(filters, spatial, **geometry) == shape
  assert synthesis.shape == x.shape

  axes = tuple(range(len(batch), x.ndim))
  left, right = np.sum(analysis * code, axis=axes), np.sum(x * synthesis, axis=axes)
  np.testing.assert_allclose(left, right, rtol=0, atol=1e-12 * (1 + np.abs(left).max()) * x.size)

  d = references.conv_matrix(filters, spatial, **geometry)
  flat_x, flat_code = x.reshape(-1, d.shape[0]), code.reshape(-1, d.shape[1])
  np.testing.assert_allclose(np.reshape(analysis, flat_code.shape), flat_x @ d, atol=1e-12)
  np.testing.assert_allclose(np.reshape(synthesis, flat_x.shape), flat_code @ d.T, atol=1e-12)


# Padding longer than the signal, even kernels, and the 4x4 kernel with stride 2 and padding 1 of ML-CSC.
@pytest.mark.parametrize(
  ("spatial", "kernel", "geometry"),
  [
    ((3,), (5,), {"dilation": 4, "padding": "CIRCULAR"}),
    ((5, 4), (2, 4), {"padding": "CIRCULAR"}),
    ((5, 4), (2, 4), {"padding": "SAME", "dilation": (1, 2)}),
    ((8, 8), (4, 4), {"padding": ((1, 1), (1, 1)), "stride": 2}),
    ((7, 6), (3, 3), {"padding": "SAME", "stride": 2}),
    ((6, 7), (3, 3), {"padding": "CIRCULAR", "stride": (2, 3), "dilation": 2}),
    ((4, 5, 3), (2, 3, 2), {"padding": "CIRCULAR", "stride": (2, 1, 1), "dilation": (1, 1, 2)}),
    ((5, 4, 3), (3, 2, 2), {"padding": "SAME", "stride": (1, 2, 1), "dilation": (1, 2, 1)}),
  ],
)
def test_named_cases(x64, spatial, kernel, geometry):
  rng = np.random.default_rng(1)
  filters = rng.normal(size=(*kernel, 2, 3))
  d = references.conv_matrix(filters, spatial, **geometry)
  x = rng.normal(size=(*spatial, 2))
  analysis = ops.conv(x, filters, **geometry)
  np.testing.assert_allclose(np.ravel(analysis), x.ravel() @ d, atol=1e-12)
  code = rng.normal(size=analysis.shape)
  synthesis = ops.conv_adjoint(code, filters, spatial, **geometry)
  np.testing.assert_allclose(np.ravel(synthesis), d @ code.ravel(), atol=1e-12)


def test_centre_of_a_circular_atom():
  """An impulse at position 1 gives the filter centered at 1, wrapped around at the left border."""
  filters = jnp.arange(1.0, 6.0).reshape(5, 1, 1)
  code = jnp.zeros((6, 1)).at[1].set(1)
  atom = ops.conv_adjoint(code, filters, (6,), padding="CIRCULAR")
  np.testing.assert_array_equal(atom[:, 0], [2, 3, 4, 5, 0, 1])


def test_is_a_correlation():
  """No kernel is flipped, as in a CNN."""
  x = jnp.array([1.0, 10.0, 100.0])[:, None]
  filters = jnp.array([1.0, 2.0]).reshape(2, 1, 1)
  np.testing.assert_array_equal(ops.conv(x, filters, padding="VALID")[:, 0], [21, 210])


@pytest.mark.parametrize(
  ("geometry", "code", "signal"),
  [
    ({"padding": "SAME", "stride": 2}, (3, 4), (6, 8)),
    ({"padding": "CIRCULAR", "stride": (1, 3)}, (3, 4), (3, 12)),
    ({"padding": "VALID", "stride": 2, "dilation": 2}, (3, 4), (9, 11)),
    ({"padding": ((1, 1), (0, 1)), "stride": 2}, (3, 4), (5, 8)),
  ],
)
def test_size_of_a_synthesis(geometry, code, signal):
  filters = np.zeros((3, 3, 1, 1))
  assert ops.synthesis_shape(filters, code, **geometry) == signal
  assert references.code_spatial(filters, signal, **geometry) == code


@pytest.mark.parametrize(
  ("x_dtype", "filter_dtype", "expected"),
  [
    ("float32", "float32", "float32"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("bfloat16", "float32", "float32"),
    ("uint8", "float32", "float32"),
    ("float32", "float64", "float64"),
  ],
)
def test_types(x64, x_dtype, filter_dtype, expected):
  x, filters = jnp.ones((4, 4, 1), x_dtype), jnp.ones((3, 3, 1, 2), filter_dtype)
  code = ops.conv(x, filters)
  assert code.dtype == expected
  assert ops.conv_adjoint(code.astype(x_dtype), filters, (4, 4)).dtype == expected


def test_integers_are_converted():
  x, filters = jnp.arange(4)[:, None], jnp.array([1, 2]).reshape(2, 1, 1)
  code = ops.conv(x, filters, padding="VALID")
  np.testing.assert_array_equal(code[:, 0], [2, 5, 8])
  adjoint = ops.conv_adjoint(jnp.array([[1], [0], [2]]), filters, (4,), padding="VALID")
  np.testing.assert_array_equal(adjoint[:, 0], [1, 2, 2, 4])
  assert code.dtype == adjoint.dtype == jnp.float32


GEOMETRY = {"padding": ((1, 0), (2, 1)), "dilation": 2, "stride": (2, 1)}
SPATIAL = (5, 4)


def _arguments(*batch):
  rng = np.random.default_rng(2)
  spatial = references.code_spatial(np.zeros((2, 3, 2, 3)), SPATIAL, **GEOMETRY)
  shapes = ((*SPATIAL, 2), (2, 3, 2, 3), (*spatial, 3))
  return [jnp.asarray(rng.normal(size=(*batch, *shape))) for shape in shapes]


def _three_maps(x, filters, code):
  """Returns the gradients of <conv(x), code> with respect to the code, x and the filters."""

  def product(filters):
    return jnp.sum(ops.conv(x, filters, **GEOMETRY) * code)

  analysis = ops.conv(x, filters, **GEOMETRY)
  return analysis, ops.conv_adjoint(code, filters, SPATIAL, **GEOMETRY), jax.grad(product)(filters)


@pytest.mark.parametrize(
  "geometry", [GEOMETRY, {"padding": "SAME"}, {"padding": "CIRCULAR", "stride": 2, "dilation": (1, 2)}]
)
def test_gradients_of_the_three_maps(x64, geometry):
  """<D^T x, code> is linear in its three arguments, so its gradients are the three maps again."""
  rng = np.random.default_rng(4)
  x, filters = rng.normal(size=(2, *SPATIAL, 2)), jnp.asarray(rng.normal(size=(2, 3, 2, 3)))
  shape = references.code_spatial(filters, SPATIAL, **geometry)
  code, other = rng.normal(size=(2, *shape, 3)), rng.normal(size=filters.shape)

  def value(x, filters, code):
    d = references.conv_matrix(filters, SPATIAL, **geometry)
    return np.sum((x.reshape(2, -1) @ d) * code.reshape(2, -1))

  def by_filters(x, code):
    return jax.grad(lambda w: jnp.sum(ops.conv(x, w, **geometry) * code))(filters)

  gradient = by_filters(x, code)
  np.testing.assert_allclose(np.sum(gradient * other), value(x, other, code), rtol=1e-11)
  adjoint = jax.grad(lambda w: jnp.sum(ops.conv_adjoint(code, w, SPATIAL, **geometry) * x))(filters)
  np.testing.assert_allclose(adjoint, gradient, rtol=1e-11, atol=1e-12)
  by_x, by_code = jax.grad(lambda *a: jnp.sum(by_filters(*a) * other), argnums=(0, 1))(x, code)
  np.testing.assert_allclose(by_x, ops.conv_adjoint(code, other, SPATIAL, **geometry), atol=1e-12)
  np.testing.assert_allclose(by_code, ops.conv(x, other, **geometry), atol=1e-12)


@pytest.mark.parametrize("axes", [(0, None, 0), (None, 0, None), (0, 0, 0), (0, 0, None), (None, 0, 0)])
def test_vmap(x64, axes):
  batched = _arguments(3)
  arguments = [a if axis == 0 else a[0] for a, axis in zip(batched, axes, strict=True)]
  mapped = jax.jit(jax.vmap(_three_maps, axes))(*arguments)
  for i in range(3):
    alone = _three_maps(*(a if axis is None else a[i] for a, axis in zip(arguments, axes, strict=True)))
    for got, expected in zip(mapped, alone, strict=True):
      np.testing.assert_allclose(got[i], expected, atol=1e-12)


@pytest.mark.parametrize("outer", [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0)])
@pytest.mark.parametrize("inner", [(0, None, None), (None, 0, None), (0, 0, 0)])
def test_nested_vmap(x64, outer, inner):
  """Maps over one operand inside a map over the other or both, and vice versa."""
  batched, axes = _arguments(2, 3), list(zip(outer, inner, strict=True))

  def pick(i, j):
    """Returns the arguments at indices i and j; an axis that is not mapped is indexed by 0."""
    return [
      a[0 if o is None else i, 0 if n is None else j] for a, (o, n) in zip(batched, axes, strict=True)
    ]

  arguments = pick(slice(None), slice(None))
  mapped = jax.jit(jax.vmap(jax.vmap(_three_maps, inner), outer))(*arguments)
  for i, j in itertools.product(range(2), range(3)):
    for got, expected in zip(mapped, _three_maps(*pick(i, j)), strict=True):
      np.testing.assert_allclose(got[i, j], expected, atol=1e-12)


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
def test_derivatives_of_a_vmap(x64, axes):
  """Compares the gradient of a vmapped sum, and its derivative, with those of the single terms."""
  _, filters, code = (
    a if axis == 0 else a[0] for a, axis in zip(_arguments(3), (0, *axes), strict=True)
  )
  directions = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size)).reshape(a.shape), (filters, code))

  def energy(w, code):
    return jnp.sum(ops.conv_adjoint(code, w, SPATIAL, **GEOMETRY) ** 2)

  def one_by_one(w, code):
    pairs = [
      [a if axis is None else a[i] for a, axis in zip((w, code), axes, strict=True)] for i in range(3)
    ]
    return sum(energy(*pair) for pair in pairs)

  def together(w, code):
    return jnp.sum(jax.vmap(energy, axes)(w, code))

  expected = jax.jit(lambda *a: jax.jvp(jax.grad(one_by_one, (0, 1)), a, directions))(filters, code)
  found = jax.jit(lambda *a: jax.jvp(jax.grad(together, (0, 1)), a, directions))(filters, code)
  for got, value in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(got, value, rtol=1e-11, atol=1e-11)


def test_vmap_over_other_axes(x64):
  x, filters, _ = _arguments(3)
  moved = jnp.moveaxis(x, 0, 2), jnp.moveaxis(filters, 0, -1)
  for axes in [(2, -1), (2, None), (None, -1)]:
    x_, filters_ = (m if axis else a[0] for m, a, axis in zip(moved, (x, filters), axes, strict=True))
    mapped = jax.vmap(lambda x, w: ops.conv(x, w, **GEOMETRY), axes, -2)(x_, filters_)
    for i in range(3):
      alone = ops.conv(x[i if axes[0] else 0], filters[i if axes[1] else 0], **GEOMETRY)
      np.testing.assert_allclose(mapped[..., i, :], alone, atol=1e-12)


def test_forward_and_second_derivatives(x64):
  """Compares derivatives of ||D code||^2 with respect to the filters with finite differences."""
  _, filters, code = _arguments()
  direction = jnp.asarray(np.random.default_rng(3).normal(size=filters.shape))

  @jax.jit
  def energy(w):
    return jnp.sum(ops.conv_adjoint(code, w, SPATIAL, **GEOMETRY) ** 2)

  gradient = jax.jit(jax.grad(energy))
  h = 1e-5
  slope = (energy(filters + h * direction) - energy(filters - h * direction)) / (2 * h)
  np.testing.assert_allclose(np.sum(gradient(filters) * direction), slope, rtol=1e-7)
  np.testing.assert_allclose(jax.jvp(energy, (filters,), (direction,))[1], slope, rtol=1e-7)
  second = (gradient(filters + h * direction) - gradient(filters - h * direction)) / (2 * h)
  np.testing.assert_allclose(jax.jvp(gradient, (filters,), (direction,))[1], second, atol=1e-6)


def test_inside_a_loop_as_outside(x64):
  x, filters, _ = _arguments()

  def body(signal, _):
    code = ops.conv(signal, filters, **GEOMETRY)
    return 0.1 * ops.conv_adjoint(code, filters, SPATIAL, **GEOMETRY), None

  frame = references.conv_matrix(filters, SPATIAL, **GEOMETRY)
  expected = np.linalg.matrix_power(0.1 * frame @ frame.T, 3) @ np.ravel(x)
  np.testing.assert_allclose(np.ravel(jax.lax.scan(body, x, length=3)[0]), expected, rtol=1e-10)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [2, 3])
def test_circular_positions_are_multiples_of_the_stride(size, stride):
  """This holds at every size, whereas the positions of "SAME" depend on it (TensorFlow's rule)."""
  x = jnp.asarray(np.random.default_rng(0).normal(size=(size, 2)), jnp.float32)
  filters = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 4)), jnp.float32)
  found = ops.conv(x, filters, stride=stride, padding="CIRCULAR")
  np.testing.assert_allclose(found, ops.conv(x, filters, padding="CIRCULAR")[::stride], rtol=1e-5)


def test_without_jit():
  """`jax.disable_jit` is used for debugging; it must not make the primitives call themselves."""
  x, w = jnp.arange(10.0)[None, :, None], jnp.array([1.0, 2.0])[:, None, None]
  with jax.disable_jit():
    out, gradient = jax.value_and_grad(lambda w: jnp.sum(ops.conv(x, w, padding="VALID")))(w)
  assert out == 36 + 2 * 45
  np.testing.assert_array_equal(gradient.ravel(), [36, 45])
