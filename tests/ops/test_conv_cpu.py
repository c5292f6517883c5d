"""Compares the three maps for CPUs with matrices, on both sides of each threshold between algorithms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import export

from cscjax import ops
from cscjax.ops import _conv_cpu
from tests import references

CHANNELS = (1, 8, 9)  # 8 is the largest number for which `_shift_add` is used


def _check(spatial, kernel, channels, strides, dilations, pads, dtype=np.float64, error=1e-13, atoms=2):
  """Checks all three maps to within `error` times the largest entry."""
  geometry = {"stride": strides, "dilation": dilations, "padding": pads}
  rng = np.random.default_rng(0)
  w, other = rng.normal(size=(2, *kernel, channels, atoms))
  shape = references.code_spatial(w, spatial, **geometry)
  x, y = rng.normal(size=(3, *spatial, channels)), rng.normal(size=(3, *shape, atoms))
  w, x, y = (np.asarray(jnp.asarray(a, dtype), np.float64) for a in (w, x, y))  # rounded to the type

  def run(function, *arguments):
    sizes = (spatial, kernel)
    function = partial(function, strides=strides, dilations=dilations, pads=pads, sizes=sizes)
    out = jax.jit(function)(*(jnp.asarray(a, dtype) for a in arguments))
    assert out.dtype == dtype
    return np.asarray(out, np.float64)

  def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=error * (1 + np.abs(expected).max()))

  d = references.conv_matrix(w, spatial, **geometry)
  close(run(_conv_cpu.conv, x, w), (x.reshape(3, -1) @ d).reshape(y.shape))
  close(run(_conv_cpu.input_transpose, y, w), (y.reshape(3, -1) @ d.T).reshape(x.shape))
  by_w = run(_conv_cpu.filter_transpose, x, y)
  assert by_w.shape == w.shape
  along = np.sum(
    (x.reshape(3, -1) @ references.conv_matrix(other, spatial, **geometry)) * y.reshape(3, -1)
  )
  np.testing.assert_allclose(np.sum(by_w * other), along, atol=error * np.sum(np.abs(by_w * other)))


@pytest.mark.slow
@given(
  spatial=st.tuples(st.integers(1, 6), st.integers(1, 5)),
  kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
  channels=st.sampled_from(CHANNELS),
  strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
  dilations=st.tuples(st.integers(1, 3), st.integers(1, 2)),
  pads=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
  tile=st.sampled_from([1, 200, 1000, 2**19]),
  unrolled=st.sampled_from([2, 32]),
)
@settings(max_examples=24)
def test_images(x64, spatial, kernel, channels, strides, dilations, pads, tile, unrolled):
  """Checks images, also in tiles of some rows that need not divide the height, and in small blocks.

  With `unrolled` = 2, most of these kernels take the path of large kernels.
  """
  geometry = {"stride": strides, "dilation": dilations, "padding": pads}
  assume(min(references.code_spatial(np.zeros((*kernel, 1, 1)), spatial, **geometry)) >= 1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_conv_cpu, "_TILE", tile)
    patch.setattr(_conv_cpu, "_PRODUCT", tile)
    patch.setattr(_conv_cpu, "_UNROLLED", unrolled)
    _check(spatial, kernel, channels, strides, dilations, pads)


@pytest.mark.parametrize("unrolled", [2, 32])
@pytest.mark.parametrize("channels", [1, 9])
@pytest.mark.parametrize(
  ("length", "stride", "dilation", "pad"), [(11, 2, 1, (1, 0)), (3, 1, 2, (4, 4))]
)
def test_signals(x64, monkeypatch, unrolled, channels, length, stride, dilation, pad):
  monkeypatch.setattr(_conv_cpu, "_TILE", 40)
  monkeypatch.setattr(_conv_cpu, "_UNROLLED", unrolled)
  _check((length,), (4,), channels, (stride,), (dilation,), (pad,))


def test_tiles_that_overlap(x64, monkeypatch):
  """Seven rows are split into tiles of two, so the last tile overlaps the one before it."""
  monkeypatch.setattr(_conv_cpu, "_TILE", 4 * 3 * 6 * 2)
  _check((8, 7), (2, 2), 1, (1, 1), (1, 1), ((0, 0), (0, 0)))


@pytest.mark.parametrize("unrolled", [2, 32])
@pytest.mark.parametrize("channels", [1, 9])
def test_volumes(x64, monkeypatch, unrolled, channels):
  monkeypatch.setattr(_conv_cpu, "_TILE", 200)
  monkeypatch.setattr(_conv_cpu, "_UNROLLED", unrolled)
  pads = ((1, 0), (0, 2), (2, 1))
  _check((5, 4, 6), (3, 2, 3), channels, (1, 2, 1), (1, 1, 2), pads)


@pytest.mark.parametrize(
  ("spatial", "kernel", "strides", "dilations", "pads"),
  [
    ((40, 37), (7, 8), (1, 1), (1, 1), ((3, 3), (3, 4))),
    ((23, 20), (9, 6), (2, 3), (3, 2), ((5, 0), (1, 6))),
    ((6, 5), (12, 11), (1, 2), (1, 1), ((6, 5), (5, 5))),  # more taps than pixels
    ((90,), (70,), (1,), (1,), ((35, 34),)),
    ((200,), (41,), (2,), (3,), ((0, 7),)),
  ],
)
@pytest.mark.parametrize("channels", [1, 9])
def test_large_kernels(x64, spatial, kernel, strides, dilations, pads, channels):
  _check(spatial, kernel, channels, strides, dilations, pads)


@pytest.mark.parametrize(
  ("strides", "pads", "atoms"),
  [
    ((1, 1), ((0, 0), (0, 0)), 2),
    ((2, 2), ((0, 0), (0, 0)), 17),
    ((2, 2), ((1, 1), (1, 1)), 17),  # the input transpose has no padding, but zeros between its rows
  ],
)
def test_slow_cases_of_the_library(x64, strides, pads, atoms):
  _check((4, 4), (2, 2), 9, strides, (1, 1), pads, atoms=atoms)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  ("spatial", "kernel", "channels", "atoms", "pads", "shifts"),
  [
    ((6, 12), (3, 5), 1, 16, ((1, 1), (2, 2)), 2),
    ((6, 11), (3, 8), 1, 16, ((1, 1), (3, 4)), 2),  # the number of outputs is odd
    ((7, 9), (2, 2), 3, 4, ((0, 0), (0, 0)), 4),  # an odd number of channels
    ((5, 12), (2, 3), 16, 4, ((2, 0), (0, 3)), 4),
    ((60,), (50,), 5, 10, ((20, 29),), 3),
    ((60,), (16,), 17, 3, ((0, 15),), 16),  # many channels
    ((21,), (16,), 17, 3, ((0, 15),), 3),  # with 8 shifts, filters would be longer than the signal
    ((4, 3, 14), (2, 2, 3), 2, 1, ((0, 1), (1, 0), (1, 1)), 16),  # more shifts than outputs
  ],
)
def test_shifted_filters(x64, monkeypatch, spatial, kernel, channels, atoms, pads, shifts, dtype):
  """With few filters, several outputs are computed at once, also if their number is no multiple."""
  monkeypatch.setattr(_conv_cpu, "_FEW_PIXELS", 1)
  found = []
  number = _conv_cpu._number_of_shifts
  monkeypatch.setattr(
    _conv_cpu, "_number_of_shifts", lambda *args: found.append(number(*args)) or found[-1]
  )
  rank = len(spatial)
  error = 8 * float(jnp.finfo(dtype).eps)
  _check(spatial, kernel, channels, (1,) * rank, (1,) * rank, pads, dtype, error, atoms)
  assert found[0] == shifts


@pytest.mark.parametrize(
  ("spatial", "kernel", "channels", "atoms", "pads", "phases"),
  [
    ((6, 12), (3, 8), 1, 16, ((1, 1), (3, 4)), 4),
    ((5, 13), (2, 8), 3, 16, ((0, 0), (0, 0)), 4),  # the number of coefficients is no multiple
    ((3, 5), (2, 5), 8, 2, ((1, 0), (2, 7)), 4),
    ((60,), (50,), 5, 10, ((20, 29),), 8),
    ((4, 3, 14), (2, 2, 3), 2, 32, ((0, 1), (1, 0), (1, 1)), 1),
  ],
)
def test_polyphase_form_of_the_input_transpose(
  x64, monkeypatch, spatial, kernel, channels, atoms, pads, phases
):
  monkeypatch.setattr(_conv_cpu, "_TILE", 200)
  rank = len(spatial)
  _check(spatial, kernel, channels, (1,) * rank, (1,) * rank, pads, atoms=atoms)
  assert _conv_cpu._number_of_phases(kernel[-1], atoms) == phases


@pytest.mark.parametrize(("strides", "dilations"), [((1, 2), (1, 1)), ((1, 1), (1, 2))])
def test_filters_are_not_shifted_along_a_strided_or_dilated_axis(x64, monkeypatch, strides, dilations):
  monkeypatch.setattr(_conv_cpu, "_FEW_PIXELS", 1)
  monkeypatch.setattr(_conv_cpu, "_number_of_shifts", lambda *args: pytest.fail("shifted"))
  _check((6, 12), (3, 3), 1, strides, dilations, ((1, 1), (1, 1)), jnp.float32, 1e-6)


@pytest.mark.parametrize("padding", ["VALID", "CIRCULAR"])
def test_compiled_convolution_is_not_slow(padding):
  """XLA must not remove what is added: without padding, and with 3 channels, it is far slower."""
  x, w = jnp.zeros((2, 16, 16, 3)), jnp.zeros((3, 3, 3, 24))
  compiled = jax.jit(partial(ops.conv, padding=padding)).lower(x, w).compile().as_text()
  assert "window={size=3x3 pad=0_-1x0_0}" in compiled
  assert "f32[3,3,4,24]" in compiled


@pytest.mark.parametrize(
  ("spatial", "kernel"), [((64, 64), (30, 30)), ((8, 8), (30, 30)), ((2048,), (1024,))]
)
@pytest.mark.parametrize("name", ["conv", "input_transpose", "filter_transpose"])
def test_size_of_a_program_does_not_grow_with_the_taps(spatial, kernel, name):
  """The compile time grows with the number of operations: a thousand of them take a minute."""
  rank = len(spatial)
  pads = tuple(((k - 1) // 2, k // 2) for k in kernel)
  geometry = {"strides": (1,) * rank, "dilations": (1,) * rank, "pads": pads, "sizes": (spatial, kernel)}
  x, w, y = (jnp.zeros(shape) for shape in ((2, *spatial, 1), (*kernel, 1, 4), (2, *spatial, 4)))
  arguments = {"conv": (x, w), "input_transpose": (y, w), "filter_transpose": (x, y)}[name]
  program = jax.jit(partial(getattr(_conv_cpu, name), **geometry)).lower(*arguments).as_text()
  assert len(program.splitlines()) < 400


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  ("spatial", "kernel", "channels", "pads"),
  [((12, 12), (8, 8), 1, ((3, 4), (3, 4))), ((2, 2), (3, 3), 40, ((1, 1), (1, 1)))],
)
def test_rounding(dtype, spatial, kernel, channels, pads):
  """Sums are computed in at least float32, so bfloat16 is rounded only once, at the end."""
  error = 2e-6 if dtype == jnp.float32 else 0.5 * float(jnp.finfo(dtype).eps) * 1.01
  _check(spatial, kernel, channels, (1, 1), (1, 1), pads, dtype, error)


@pytest.mark.parametrize("channels", [2, 9])
def test_derivatives_of_every_kind_on_a_tiny_map(x64, channels):
  """Checks a Hessian-vector product against finite differences, and vmap, for 3x3 filters on 2x2."""
  rng = np.random.default_rng(1)
  w, tangent = jnp.asarray(rng.normal(size=(2, 3, 3, channels, 3)))
  codes = jnp.asarray(rng.normal(size=(2, 2, 2, 3)))

  def energy(w, code):
    return jnp.sum(ops.conv(ops.conv_adjoint(code, w, (2, 2)), w) ** 2)

  gradient = jax.jit(jax.grad(energy))
  h = 1e-5
  expected = (gradient(w + h * tangent, codes[0]) - gradient(w - h * tangent, codes[0])) / (2 * h)
  second = jax.jit(lambda t: jax.jvp(lambda w: gradient(w, codes[0]), (w,), (t,))[1])(tangent)
  np.testing.assert_allclose(second, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
  mapped = jax.jit(jax.vmap(gradient, (None, 0)))(w, codes)
  for got, code in zip(mapped, codes, strict=True):
    np.testing.assert_allclose(got, gradient(w, code), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 9])
def test_empty_batches(channels):
  w = jnp.ones((3, 3, channels, 2))
  x, code = jnp.ones((0, 2, 4, 4, channels)), jnp.ones((2, 0, 4, 4, 2))
  assert jax.vmap(lambda x: ops.conv(x, w))(x).shape == (0, 2, 4, 4, 2)
  assert jax.vmap(lambda c: ops.conv_adjoint(c, w, (4, 4)))(code).shape == (2, 0, 4, 4, channels)
  assert jax.vmap(ops.conv)(x, jnp.ones((0, 3, 3, channels, 2))).shape == (0, 2, 4, 4, 2)


@pytest.mark.parametrize(
  ("spatial", "kernel", "channels"),
  [((8, 8), (3, 3), 1), ((4, 4), (3, 3), 9), ((2, 2), (7, 7), 9), ((20,), (5,), 2)],
  ids=["few channels", "many channels", "patches", "1-D"],
)
def test_the_number_of_images_can_be_symbolic(spatial, kernel, channels):
  """All three maps in a program that `jax.export` exports for batches of any size."""
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.normal(size=(*kernel, channels, 5)), jnp.float32)
  x = rng.normal(size=(3, *spatial, channels)).astype(np.float32)

  def energy(w, x):
    return jnp.sum(ops.conv_adjoint(jnp.abs(ops.conv(x, w)), w, spatial) ** 2)

  gradients = jax.jit(jax.grad(energy, argnums=(0, 1)))
  (n,) = export.symbolic_shape("n")
  any_number = jax.ShapeDtypeStruct((n, *spatial, channels), jnp.float32)
  exported = export.export(gradients, platforms=["cpu"])(w, any_number)
  for got, expected in zip(exported.call(w, x), gradients(w, x), strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_size_of_the_images_can_be_symbolic():
  """An analysis of few filters, whose number of shifts depends on the sizes."""
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.normal(size=(3, 4, 1, 8)), jnp.float32)
  shape = export.symbolic_shape("n, l, l", constraints=["l >= 12"])
  argument = jax.ShapeDtypeStruct((*shape, 1), jnp.float32)
  exported = export.export(jax.jit(ops.conv), platforms=["cpu"])(argument, w)
  x = rng.normal(size=(2, 40, 40, 1)).astype(np.float32)
  np.testing.assert_allclose(exported.call(x, w), ops.conv(x, w), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "first"), [("conv", 18), ("conv_adjoint", 19)])
def test_a_value_that_is_not_finite_stays_near_its_place(name, first):
  """It reaches the pixels that depend on it, and at most 15 more of the same rows of the same image."""
  w, channels = jnp.ones((3, 4, 1, 2)), 1 if name == "conv" else 2
  given = jnp.ones((2, 40, 40, channels)).at[0, 20, 20].set(jnp.nan)
  out = ops.conv(given, w) if name == "conv" else ops.conv_adjoint(given, w, (40, 40))
  missing = np.isnan(out).any(-1)
  rows, columns = np.nonzero(missing[0])
  assert missing[0, 19:22, first : first + 4].all()
  assert not missing[1].any()
  assert set(rows) == {19, 20, 21}
  assert first - 15 <= columns.min() <= columns.max() < first + 19
