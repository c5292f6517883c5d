"""Compares the mutual coherence with the one that is computed pair by pair from the matrix."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import cscjax
from cscjax.dictionaries import _atoms, atom_norms
from tests import references

FIG_S1 = np.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None]  # the kernel of Fig. S1

_atom_norms = jax.jit(atom_norms, static_argnames="signal_shape")
_coherence = jax.jit(cscjax.mutual_coherence, static_argnames="signal_shape")


def _filters(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def _conv(filters, spatial, **geometry):
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters), **geometry)
  return dictionary, (*spatial, filters.shape[-2]), references.conv_matrix(filters, spatial, **geometry)


def _with_identity(dictionary, d):
  return cscjax.IdentityAugmented(dictionary), np.hstack([np.eye(d.shape[0]), d])


@pytest.mark.slow
@hypothesis.settings(max_examples=15)
@hypothesis.given(
  n=st.integers(1, 23),
  taps=st.integers(1, 4),
  stride=st.integers(1, 3),
  dilation=st.integers(1, 3),
  padding=st.sampled_from(["SAME", "VALID", "CIRCULAR", ((1, 2),), ((3, 0),)]),
  seed=st.integers(0, 100),
)
def test_1d_at_any_size(x64, n, taps, stride, dilation, padding, seed):
  """Sizes above twice the extent of the filters are reduced; below, atoms are wrapped or cut."""
  extent = (taps - 1) * dilation + 1
  slack = sum(padding[0]) if isinstance(padding, tuple) else 0
  hypothesis.assume(padding in ("SAME", "CIRCULAR") or n + slack >= extent)
  geometry = {"stride": stride, "dilation": dilation, "padding": padding}
  dictionary, shape, d = _conv(_filters(seed, taps, 2, 2), (n,), **geometry)
  found = _coherence(dictionary, signal_shape=shape)
  np.testing.assert_allclose(found, references.coherence(d), rtol=1e-9, atol=1e-12)
  norms = np.linalg.norm(d, axis=0)
  np.testing.assert_allclose(_atom_norms(dictionary, signal_shape=shape).ravel(), norms, atol=1e-12)


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", ((1, 1), (0, 2))])
@pytest.mark.parametrize(
  ("stride", "dilation"),
  [(1, 1), ((1, 2), (2, 1)), *(pytest.param(2, d, marks=pytest.mark.slow) for d in (1, 2))],
)
def test_2d(x64, padding, stride, dilation):
  geometry = {"stride": stride, "dilation": dilation, "padding": padding}
  dictionary, shape, d = _conv(_filters(1, 2, 3, 2, 2), (7, 8), **geometry)
  found = _coherence(dictionary, signal_shape=shape)
  np.testing.assert_allclose(found, references.coherence(d), rtol=1e-10)


def test_3d(x64):
  dictionary, shape, d = _conv(_filters(4, 2, 2, 3, 2, 2), (3, 4, 5), stride=(1, 2, 1))
  found = _coherence(dictionary, signal_shape=shape)
  np.testing.assert_allclose(found, references.coherence(d), rtol=1e-10)


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_beside_the_identity(x64, padding, dilation):
  filters = 0.1 * _filters(2, 3, 1, 4)
  conv, shape, d = _conv(filters, (13,), padding=padding, dilation=dilation)
  dictionary, d = _with_identity(conv, d)
  expected = references.coherence(d)
  np.testing.assert_allclose(_coherence(dictionary, signal_shape=shape), expected, rtol=1e-10)
  for found, part in zip(
    _atom_norms(dictionary, signal_shape=shape), np.split(d, [13], axis=1), strict=True
  ):
    np.testing.assert_allclose(found.ravel(), np.linalg.norm(part, axis=0), rtol=1e-12)
  if padding == "CIRCULAR":
    np.testing.assert_allclose(_coherence(dictionary), expected, rtol=1e-10)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 3), (2, 1), (2, 2), (4, 2), (3, 2)])
def test_all_shifts_have_the_coherence_of_a_large_circle(x64, stride, dilation):
  dictionary, shape, d = _conv(
    _filters(3, 4, 2, 2), (24,), stride=stride, dilation=dilation, padding="CIRCULAR"
  )
  found = _coherence(dictionary)
  np.testing.assert_allclose(found, references.coherence(d), rtol=1e-10)
  np.testing.assert_allclose(found, _coherence(dictionary, signal_shape=shape), rtol=1e-10)


def test_a_large_circle_costs_no_more_than_all_shifts():
  """Its program is the same if the stride divides the size, instead of a Gram matrix of all atoms."""
  dictionary = cscjax.ConvDictionary(jnp.ones((5, 1, 4)), padding="CIRCULAR", stride=2)

  def program(shape):
    return str(jax.make_jaxpr(lambda d: cscjax.mutual_coherence(d, shape))(dictionary))

  assert program((4096, 1)) == program(None)
  assert program((4097, 1)) != program(None)


def test_all_shifts_in_two_dimensions(x64):
  for stride, dilation in [(1, 1), ((2, 1), (1, 3)), (2, 2)]:
    geometry = {"stride": stride, "dilation": dilation, "padding": "CIRCULAR"}
    dictionary, _, d = _conv(_filters(4, 3, 2, 1, 3), (12, 8), **geometry)
    found = _coherence(dictionary)
    np.testing.assert_allclose(found, references.coherence(d), rtol=1e-10)


@pytest.mark.slow
def test_blocks(x64, monkeypatch):
  """There are more atoms than fit into a block, and the last block is not full."""
  whole = {}
  for block in (_atoms.BLOCK, 300):
    monkeypatch.setattr(_atoms, "BLOCK", block)
    conv, shape, d = _conv(_filters(5, 3, 3, 2, 7), (6, 5))
    dictionary, d = _with_identity(conv, d)
    np.testing.assert_allclose(
      cscjax.mutual_coherence(dictionary, shape), references.coherence(d), rtol=1e-10
    )
    whole[block] = cscjax.mutual_coherence(dictionary)
  assert len(set(map(float, whole.values()))) == 1


def test_another_dictionary_needs_a_shape(x64):
  class Twice:
    """A dictionary that is not of the package."""

    atoms = jnp.asarray(_filters(6, 4, 6))

    @property
    def signal_ndim(self):
      return 1

    def analysis(self, x):
      return 2 * x @ self.atoms

    def synthesis(self, code, signal_shape=None):
      return 2 * code @ self.atoms.T

    def residual(self, code, x):
      return self.synthesis(code) - x

  jax.tree_util.register_pytree_node(Twice, lambda _: ((Twice.atoms,), None), lambda *_: Twice())
  found = cscjax.mutual_coherence(Twice(), (4,))
  np.testing.assert_allclose(found, references.coherence(np.asarray(Twice.atoms)), rtol=1e-12)
  norms = np.linalg.norm(2 * Twice.atoms, axis=0)
  np.testing.assert_allclose(atom_norms(Twice(), (4,)), norms, rtol=1e-12)
  with pytest.raises(ValueError, match="signal_shape"):
    cscjax.mutual_coherence(Twice())


def test_dense_needs_no_shape_and_zero_atoms_do_not_count(x64):
  atoms = _filters(7, 5, 9)
  expected = references.coherence(atoms)
  atoms[:, 3] = 0
  for shape in ((5,), None):
    found = cscjax.mutual_coherence(cscjax.MatrixDictionary(jnp.asarray(atoms)), shape)
    np.testing.assert_allclose(found, references.coherence(atoms), rtol=1e-12)
  assert references.coherence(atoms) <= expected
  filters = _filters(8, 3, 1, 2)
  filters[..., 1] = 0
  dictionary, _, d = _conv(filters, (9,), padding="CIRCULAR")
  np.testing.assert_allclose(_coherence(dictionary), references.coherence(d), rtol=1e-12)


def test_one_atom():
  assert cscjax.mutual_coherence(cscjax.ConvDictionary(jnp.ones((1, 1, 3, 1)))) == 0
  assert (
    cscjax.mutual_coherence(cscjax.ConvDictionary(jnp.ones((3, 1, 1)), padding="VALID"), (3, 1)) == 0
  )


def test_half_precision_is_computed_in_float32():
  filters = jnp.asarray(_filters(9, 3, 3, 4, 8), jnp.bfloat16)
  found = cscjax.mutual_coherence(cscjax.ConvDictionary(filters))
  exact = cscjax.mutual_coherence(cscjax.ConvDictionary(filters.astype(jnp.float32)))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(float(found), exact, rtol=2**-8)


def test_under_jit_and_grad(x64):
  """Compares the gradient, as of a penalty on the coherence, with finite differences."""
  filters = jnp.asarray(_filters(10, 3, 1, 2))
  mu = jax.jit(lambda f: cscjax.mutual_coherence(cscjax.ConvDictionary(f)))
  gradient = jax.grad(mu)(filters)
  direction = jnp.asarray(_filters(11, 3, 1, 2))
  difference = (mu(filters + 1e-6 * direction) - mu(filters - 1e-6 * direction)) / 2e-6
  np.testing.assert_allclose(jnp.vdot(gradient, direction), difference, rtol=1e-6)


# Figure S1, and the effect of dilation in general.


@pytest.mark.parametrize("size", [3, 4])
def test_fig_s1(x64, size):
  """Reproduces the values of the paper, 0.47 and 0, on images of 3x3 and 4x4 without padding."""
  found = []
  for dilation in (1, 2):
    dictionary, shape, d = _conv(FIG_S1, (size, size), dilation=dilation, padding="VALID")
    found.append(float(_coherence(dictionary, signal_shape=shape)))
    np.testing.assert_allclose(found[-1], references.coherence(d), atol=1e-15)
  np.testing.assert_allclose(found, [14 / 30, 0], atol=1e-15)
  assert round(found[0], 2) == 0.47


@pytest.mark.slow
def test_dilation_has_no_effect_on_large_signals(x64):
  """At stride 1 it has no effect on an unbounded grid; in Fig. S1 an image of 5x5 has 0.47 again."""
  for filters in (FIG_S1, _filters(12, 3, 3, 2, 4)):
    found = [
      cscjax.mutual_coherence(cscjax.ConvDictionary(jnp.asarray(filters), dilation=dilation))
      for dilation in (1, 2, 5)
    ]
    np.testing.assert_allclose(found, found[0], rtol=1e-12)
  for dilation in (1, 2):
    dictionary, shape, _ = _conv(FIG_S1, (5, 5), dilation=dilation, padding="VALID")
    np.testing.assert_allclose(_coherence(dictionary, signal_shape=shape), 14 / 30, rtol=1e-12)


@pytest.mark.slow
def test_dilation_can_raise_coherence(x64):
  """On a circle of size 4, two shifts of a dilated filter overlap twice: 0.4 becomes 0.8.

  At stride 2, shifts of a filter with two taps overlap only with dilation: 0 becomes 0.5.
  """
  filters = np.array([1.0, 2.0])[:, None, None]
  found = []
  for dilation in (1, 2):
    dictionary, shape, d = _conv(filters, (4,), dilation=dilation, padding="CIRCULAR")
    found.append(_coherence(dictionary, signal_shape=shape))
    np.testing.assert_allclose(found[-1], references.coherence(d), rtol=1e-12)
  np.testing.assert_allclose(found, [2 / 5, 4 / 5], rtol=1e-12)
  found = [
    cscjax.mutual_coherence(cscjax.ConvDictionary(jnp.ones((2, 1, 1)), stride=2, dilation=dilation))
    for dilation in (1, 2)
  ]
  np.testing.assert_allclose(found, [0, 0.5], rtol=1e-12)
