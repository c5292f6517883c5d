"""Compares effective atoms and reconstructions with products of explicit matrices in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.dictionaries import (
  CodedLayer,
  effective_atoms,
  join,
  layer_reconstructions,
  nonzero_fraction,
  scaled_fit,
)
from cscjax.ops import max_pool
from tests.references import conv_matrix

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)


def dictionary(*shape, **geometry):
  return cscjax.ConvDictionary(jnp.asarray(RNG.normal(size=shape)), **geometry)


def stack(x, dictionaries, pooled=()):
  """Returns layers with random codes; max-pooling precedes the layers with indices in `pooled`."""
  layers, signal = [], jnp.asarray(x)
  for i, d in enumerate(dictionaries):
    signal = max_pool(signal) if i in pooled else signal
    like = d.analysis(signal)
    parts = like if isinstance(like, tuple) else (like,)
    parts = tuple(jnp.asarray(np.maximum(RNG.normal(size=part.shape), 0)) for part in parts)
    code = parts if isinstance(like, tuple) else parts[0]
    layers.append(CodedLayer(d, signal, code))
    signal = join(code)
  return layers


def matrix(d, signal):
  geometry = {"stride": d.stride, "dilation": d.dilation, "padding": d.padding}
  return conv_matrix(d.filters, signal.shape[1:-1], **geometry)


def plain():
  """Returns three layers with dilation, stride and explicit padding, and their matrices."""
  geometries = ({"dilation": 2}, {"stride": 2, "padding": ((1, 1), (1, 1))}, {})
  shapes = ((3, 3, 2, 3), (4, 4, 3, 4), (3, 3, 4, 2))
  ds = [dictionary(*shape, **geometry) for shape, geometry in zip(shapes, geometries, strict=True)]
  layers = stack(RNG.normal(size=(2, 9, 8, 2)), ds)
  return layers, [matrix(d, signal) for d, signal, _ in layers]


def box(image):
  """Crops an image [H, W, C] to the box of its nonzero values."""
  where = np.argwhere(np.any(image != 0, axis=-1))
  (top, left), (bottom, right) = where.min(0), where.max(0)
  return image[top : bottom + 1, left : right + 1]


def means(size):
  """Returns the adjoint of mean-pooling by 2 as a matrix; at an odd size the last window has size 1."""
  half = -(-size // 2)
  spread = np.zeros((size, half))
  for i in range(size):
    spread[i, i // 2] = 1 if size % 2 and i == size - 1 else 0.5
  return spread


def column(code, channel):
  """Returns the index of a coefficient in the middle of the signal in the flattened code."""
  _, height, width, channels = code.shape
  return ((height // 2) * width + width // 2) * channels + channel


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_effective_atoms_are_columns_of_the_product(depth):
  layers, matrices = plain()
  product = functools.reduce(np.matmul, matrices[:depth])
  code = layers[depth - 1][2]
  for channel in range(code.shape[-1]):
    expected = box(product[:, column(code, channel)].reshape(9, 8, 2))
    found = effective_atoms(layers[:depth], [channel])
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-10, atol=1e-12)
  atoms = effective_atoms(layers[:depth])
  assert atoms.shape[2:] == (2, code.shape[-1])
  assert all(n >= m for n, m in zip(atoms.shape[:2], expected.shape[:2], strict=True))


def test_atoms_of_one_layer_are_its_filters():
  d = dictionary(3, 3, 1, 5)
  layers = stack(RNG.normal(size=(1, 7, 7, 1)), [d])
  np.testing.assert_allclose(effective_atoms(layers), d.filters, rtol=1e-12)
  np.testing.assert_allclose(effective_atoms(layers, [4, 1]), d.filters[..., [4, 1]], rtol=1e-12)


def test_effective_atoms_through_pooling():
  """Compares with the matrix of the adjoint of mean-pooling from 5x4 to 3x2 pixels."""
  layers = stack(RNG.normal(size=(2, 5, 4, 1)), [dictionary(3, 3, 1, 2), dictionary(3, 3, 2, 3)], {1})
  first, second = (matrix(d, signal) for d, signal, _ in layers)
  spread = np.kron(np.kron(means(5), means(4)), np.eye(2))
  product = first @ spread @ second
  for channel in range(3):
    expected = box(product[:, column(layers[1][2], channel)].reshape(5, 4, 1))
    np.testing.assert_allclose(effective_atoms(layers, [channel])[..., 0], expected, rtol=1e-10)


def dense(pooled=()):
  """Returns two layers with dictionaries [I, F^T]."""
  pair = [cscjax.IdentityAugmented(dictionary(3, 3, c, 2, dilation=s)) for c, s in ((1, 1), (3, 2))]
  return stack(RNG.normal(size=(2, 6, 5, 1)), pair, pooled)


def test_effective_atoms_of_a_dense_connection():
  """A coefficient z of layer 2 represents a code (a, z) of layer 1, and this the image a + F^T z."""
  layers = dense()
  (d1, x, _), (d2, signal, (_, z)) = layers
  first, second = matrix(d1.conv, x), matrix(d2.conv, signal)
  for channel in range(2):
    parts = second[:, column(z, channel)].reshape(6, 5, 3)
    image = parts[..., :1] + (first @ parts[..., 1:].ravel()).reshape(6, 5, 1)
    np.testing.assert_allclose(effective_atoms(layers, [channel])[..., 0], box(image), rtol=1e-10)


def maxima(code):
  """Returns the matrix [H W C, h w C] that moves each value to the maximum of its window in a code."""
  height, width, channels = code.shape
  small = (-(-height // 2), -(-width // 2), channels)
  places = np.zeros((*code.shape, *small))
  for row, column_, channel in itertools.product(*map(range, small)):
    window = code[2 * row : 2 * row + 2, 2 * column_ : 2 * column_ + 2, channel]
    i, j = np.unravel_index(np.argmax(window), window.shape)
    places[2 * row + i, 2 * column_ + j, channel, row, column_, channel] = 1
  return places.reshape(code.size, -1)


def test_reconstructions_are_products_with_the_codes():
  layers, matrices = plain()
  found = layer_reconstructions(layers)
  assert found.shape == (3, 2, 9, 8, 2)
  for depth in (1, 2, 3):
    product = functools.reduce(np.matmul, matrices[:depth])
    for n in range(2):
      expected = product @ np.ravel(layers[depth - 1][2][n])
      np.testing.assert_allclose(found[depth - 1, n].ravel(), expected, rtol=1e-9, atol=1e-12)


def test_reconstructions_through_pooling_go_to_the_maxima():
  layers = stack(RNG.normal(size=(2, 5, 4, 1)), [dictionary(3, 3, 1, 2), dictionary(3, 3, 2, 3)], {1})
  first, second = (matrix(d, signal) for d, signal, _ in layers)
  found = layer_reconstructions(layers)
  for n in range(2):
    below, code = (np.asarray(layer[2][n]) for layer in layers)
    np.testing.assert_allclose(found[0, n].ravel(), first @ below.ravel(), rtol=1e-9)
    expected = first @ maxima(below) @ second @ code.ravel()
    np.testing.assert_allclose(found[1, n].ravel(), expected, rtol=1e-9, atol=1e-12)


def test_reconstructions_of_a_dense_connection():
  layers = dense()
  (d1, x, (a, z)), (d2, signal, (a2, z2)) = layers
  first, second = matrix(d1.conv, x), matrix(d2.conv, signal)
  found = layer_reconstructions(layers)
  for n in range(2):
    np.testing.assert_allclose(found[0, n].ravel(), np.ravel(a[n]) + first @ np.ravel(z[n]), rtol=1e-9)
    parts = np.asarray(a2[n]) + (second @ np.ravel(z2[n])).reshape(6, 5, 3)
    expected = parts[..., :1].ravel() + first @ parts[..., 1:].ravel()
    np.testing.assert_allclose(found[1, n].ravel(), expected, rtol=1e-9, atol=1e-12)


def test_exact_codes_reconstruct_the_signal():
  """Here x = D_1 code_1 and code_1 = D_2 code_2, with a circular convolution and a dense connection."""
  d1, d2 = dictionary(3, 3, 1, 3, padding="CIRCULAR"), cscjax.IdentityAugmented(dictionary(3, 3, 3, 2))
  top = (RNG.normal(size=(1, 6, 6, 3)), RNG.normal(size=(1, 6, 6, 2)))
  middle = d2.synthesis(tuple(map(jnp.asarray, top)))
  x = d1.synthesis(middle)
  layers = [CodedLayer(d1, x, middle), CodedLayer(d2, middle, tuple(map(jnp.asarray, top)))]
  rebuilt = layer_reconstructions(layers)
  np.testing.assert_allclose(rebuilt, np.stack([x, x]), rtol=1e-9, atol=1e-12)
  fit = scaled_fit(x, 5 * rebuilt)
  np.testing.assert_allclose(fit.error, 0, atol=1e-12)
  np.testing.assert_allclose(fit.scale, 0.2)


def test_a_reconstruction_is_linear_in_its_code():
  layers = dense(pooled={1})
  d, signal, first = layers[-1]
  second = tuple(jnp.asarray(RNG.normal(size=part.shape)) for part in first)

  def rebuilt(code):
    return layer_reconstructions([*layers[:-1], CodedLayer(d, signal, code)])

  mixed = rebuilt(tuple(2 * a - 3 * b for a, b in zip(first, second, strict=True)))
  expected = 2 * rebuilt(first)[1] - 3 * rebuilt(second)[1]
  np.testing.assert_allclose(mixed[1], expected, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(mixed[0], rebuilt(first)[0], rtol=1e-12)


def test_a_hundred_small_layers_do_not_vanish():
  """Each layer scales by 1e-3, so the product underflows in float32, and its square in float64."""
  with jax.enable_x64(False):
    _check_small_layers()


def _check_small_layers():
  d = cscjax.ConvDictionary(jnp.full((1, 1, 1), 1e-3, jnp.float32))
  x = jnp.asarray([[[1.0], [-2.0], [3.0]]], jnp.float32)
  layers = [CodedLayer(d, x, x)] * 100
  assert effective_atoms(layers).item() == pytest.approx(1e-300, rel=1e-4)
  rebuilt = layer_reconstructions(layers)
  np.testing.assert_allclose(rebuilt[-1], 1e-300 * np.asarray(x, float), rtol=1e-4)
  np.testing.assert_allclose(scaled_fit(x, rebuilt).error, 0, atol=1e-6)


def test_atoms_of_zeros_are_zeros():
  d = cscjax.ConvDictionary(jnp.zeros((3, 3, 1, 2)))
  layers = [CodedLayer(d, jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 4, 4, 2)))]
  assert not effective_atoms(layers).any()
  assert not layer_reconstructions(layers).any()


def test_scaled_fit_by_hand():
  x = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
  rebuilt = np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
  fit = scaled_fit(x, rebuilt)
  np.testing.assert_allclose(fit.scale, [1, 0, 0])
  np.testing.assert_allclose(fit.error, [0.8, 0, 1])
  fit = scaled_fit(x[:1], np.stack([rebuilt[:1], 1e-200 * rebuilt[:1], -x[:1]]))
  np.testing.assert_allclose(fit.error, [[0.8], [0.8], [0]], atol=1e-12)
  np.testing.assert_allclose(fit.scale, [[1], [1e200], [-1]])


def test_no_signals():
  fit = scaled_fit(np.zeros((0, 3)), np.zeros((2, 0, 3)))
  assert fit.scale.shape == fit.error.shape == (2, 0)


def test_fractions_are_of_new_coefficients():
  (d1, x, (a, z)), *_ = dense()
  z = jnp.zeros(z.shape).at[0, 0, 0, 0].set(-2.0)
  code = jnp.zeros((2, 6, 5, 4)).at[:, :3].set(1.0)
  fractions = nonzero_fraction([CodedLayer(d1, x, (a, z)), CodedLayer(d1, x, code)])
  np.testing.assert_allclose(fractions, [1 / (2 * 6 * 5 * 2), 0.5])


BAD = {
  "no layers": ("layers", lambda layers: effective_atoms([])),
  "no layers to count": ("layers", lambda layers: nonzero_fraction([])),
  "a channel too many": ("channels", lambda layers: effective_atoms(layers, [3])),
  "a negative channel": ("channels", lambda layers: effective_atoms(layers, [-1])),
  "no channels": ("channels", lambda layers: effective_atoms(layers, [])),
  "not the next": (r"layers\[1\]", lambda layers: effective_atoms([layers[1], layers[0]])),
  "no CodedLayer": (r"layers\[0\]", lambda layers: effective_atoms([tuple(layers[0])])),
  "a gap": (r"layers\[1\]", lambda layers: layer_reconstructions([layers[0], layers[2]])),
  "another image": (
    "reconstruction",
    lambda layers: scaled_fit(np.zeros((2, 3, 3)), np.zeros((2, 3, 4))),
  ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_names_the_argument(what):
  name, call = BAD[what]
  with pytest.raises(ValueError, match=f"^{name}: expected"):
    call(plain()[0])
