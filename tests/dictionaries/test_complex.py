"""Tests of complex dictionaries against complex matrices."""

import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.dictionaries import ComplexDictionary, to_matrix
from tests import references

BETA = 0.3


def _complex(rng, *shape):
  return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def _dense():
  rng = np.random.default_rng(0)
  atoms = _complex(rng, 6, 9) / np.sqrt(12)
  parts = (cscjax.MatrixDictionary(jnp.asarray(part)) for part in (atoms.real, atoms.imag))
  return ComplexDictionary(*parts), atoms, _complex(rng, 6), -2


def _convolutional():
  rng = np.random.default_rng(1)
  filters = _complex(rng, 3, 2, 1, 3) / np.sqrt(12)
  matrices = [references.conv_matrix(part, (5, 4), stride=2) for part in (filters.real, filters.imag)]
  parts = (cscjax.ConvDictionary(jnp.asarray(p), stride=2) for p in (filters.real, filters.imag))
  return ComplexDictionary(*parts), matrices[0] + 1j * matrices[1], _complex(rng, 5, 4, 1), -4


def _real():
  rng = np.random.default_rng(2)
  atoms = rng.normal(size=(6, 9)) / np.sqrt(6)
  dictionary = ComplexDictionary(cscjax.MatrixDictionary(jnp.asarray(atoms)))
  return dictionary, atoms.astype(complex), _complex(rng, 6), -2


CASES = {"dense": _dense, "convolutional": _convolutional, "real": _real}


@pytest.mark.parametrize("name", CASES)
def test_against_a_complex_matrix(x64, name):
  dictionary, d, x, axis = CASES[name]()
  signals = np.stack([np.stack([z.real, z.imag]) for z in (x, 1j * x)])
  np.testing.assert_allclose(
    to_matrix(dictionary, signals.shape[1:]), np.block([[d.real, -d.imag], [d.imag, d.real]]), atol=1e-12
  )
  code = np.asarray(dictionary.analysis(jnp.asarray(signals)))
  for part, z in zip(code, (x, 1j * x), strict=True):
    np.testing.assert_allclose((part[0] + 1j * part[1]).ravel(), d.conj().T @ z.ravel(), atol=1e-12)
  image = np.asarray(dictionary.synthesis(jnp.asarray(code), signals.shape[1:]))
  expected = d @ (code[1, 0] + 1j * code[1, 1]).ravel()
  np.testing.assert_allclose((image[1, 0] + 1j * image[1, 1]).ravel(), expected, atol=1e-12)
  assert axis == 1 - code.ndim


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_penalty_is_the_modulus(x64, name):
  """On the support, the correlation has the phase of the code and the modulus beta."""
  dictionary, d, x, axis = CASES[name]()
  signal = np.stack([x.real, x.imag])
  result = cscjax.fista(
    dictionary, signal, BETA, joint_axes=axis, restart=True, tolerance=1e-10, max_iterations=20000
  )
  assert bool(result.converged)
  code = np.asarray(result.code)
  code = (code[0] + 1j * code[1]).ravel()
  correlation = d.conj().T @ (x.ravel() - d @ code)
  on = code != 0
  assert 1 < np.count_nonzero(on) < code.size
  np.testing.assert_allclose(correlation[on], BETA * code[on] / np.abs(code[on]), atol=1e-6)
  assert np.all(np.abs(correlation[~on]) <= BETA + 1e-6)
  turned = cscjax.fista(
    dictionary,
    np.stack([-x.imag, x.real]),  # i x
    BETA,
    joint_axes=axis,
    restart=True,
    tolerance=1e-10,
    max_iterations=20000,
  )
  turned = np.asarray(turned.code)
  np.testing.assert_allclose((turned[0] + 1j * turned[1]).ravel(), 1j * code, atol=1e-6)


def test_a_signal_without_parts_is_refused():
  dictionary, _, _, _ = _dense()
  with pytest.raises(ValueError, match=r"^x: "):
    cscjax.fista(dictionary, np.ones(6), 0.1, iterations=1)
  with pytest.raises(ValueError, match=r"^x: .*axis -2"):
    dictionary.analysis(jnp.ones((3, 6)))
