"""Lemma 1, Lemma 2, Definition 1 and Theorem 1 of the paper."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import cscjax
from cscjax import theory
from tests import references


def test_uniqueness_bound(x64):
  np.testing.assert_allclose(theory.uniqueness_bound(np.array([1, 0.5, 1 / 3])), [1, 1.5, 2], rtol=1e-15)
  assert theory.uniqueness_bound(0.0) == np.inf
  np.testing.assert_array_equal(theory.is_unique(np.arange(1, 4), 0.25), [True, True, False])


def test_codes_below_the_bound_are_the_sparsest(x64):
  """Tries all supports with as many nonzeros or fewer. At the bound, two codes give the same signal."""
  n = 4
  hadamard = np.kron([[1, 1], [1, -1]], [[1, 1], [1, -1]]) / 2
  d = np.hstack([np.eye(n), hadamard])
  mu = float(cscjax.mutual_coherence(cscjax.MatrixDictionary(jnp.asarray(d))))
  assert mu == pytest.approx(0.5)
  for j in range(2 * n):
    assert theory.is_unique(1, mu)
    others = [k for k in range(2 * n) if np.linalg.matrix_rank(d[:, [j, k]]) < 2]
    assert others == [j]
  assert not theory.is_unique(2, mu)
  np.testing.assert_allclose(d[:, 0] + d[:, 1], d[:, 4] + d[:, 6])  # e_1 + e_2, from two codes


@hypothesis.given(k=st.integers(1, 5), n=st.integers(1, 5), seed=st.integers(0, 50))
def test_lemma_2(x64, k, n, seed):
  a = np.random.default_rng(seed).normal(size=(k, n))
  b = np.vstack([np.eye(n), a])
  found = theory.msd_csc_spectrum(np.linalg.eigvalsh(a @ a.T), n)
  np.testing.assert_allclose(found, np.linalg.eigvalsh(b @ b.T), atol=1e-9)


def test_lemma_2_as_printed_counts_zeros_wrongly(x64):
  """For A = (1, 0), the paper counts two zeros, the number of columns; the spectrum has one."""
  a = np.array([[1.0, 0.0]])
  b = np.vstack([np.eye(2), a])
  np.testing.assert_allclose(np.linalg.eigvalsh(b @ b.T), [0, 1, 2], atol=1e-12)
  np.testing.assert_allclose(theory.msd_csc_spectrum(np.ones(1), 2), [0, 1, 2])


@pytest.mark.parametrize(
  ("name", "arguments"), [("eigenvalues", (np.ones((2, 2)), 2)), ("columns", (np.ones(2), 0))]
)
def test_lemma_2_bad_input(name, arguments):
  with pytest.raises(ValueError, match=name):
    theory.msd_csc_spectrum(*arguments)


@jax.jit
def _converged(dictionary, x, beta, step):
  return cscjax.fista(dictionary, x, beta, iterations=4000, step=step).code


def _augmented(seed, scale, dilation):
  rng = np.random.default_rng(seed)
  filters = scale * rng.normal(size=(3, 2, 2))
  conv = cscjax.ConvDictionary(jnp.asarray(filters), dilation=dilation)
  d = references.conv_matrix(filters, (6,), dilation=dilation)
  return cscjax.IdentityAugmented(conv), np.hstack([np.eye(12), d]), rng.normal(size=(6, 2))


@hypothesis.settings(max_examples=8)
@hypothesis.given(
  seed=st.integers(0, 1000),
  beta=st.floats(0.01, 2),
  scale=st.floats(0.1, 2),
  dilation=st.sampled_from([1, 2]),
)
def test_theorem_1(x64, seed, beta, scale, dilation):
  """With signed, converged codes no dimension fails, even with beta in place of 2 beta."""
  dictionary, d, x = _augmented(seed, scale, dilation)
  step = 1 / references.lipschitz(d)
  code = _converged(dictionary, jnp.asarray(x), beta, step)
  assert not np.any(theory.failed_dimensions(dictionary, code, x, beta))
  assert np.max(np.abs(dictionary.residual(code, jnp.asarray(x)))) <= beta * (1 + 1e-3)


@pytest.mark.parametrize("solver", ["fista", "ista"])
def test_theorem_1_needs_convergence(x64, solver):
  """Dimensions fail for the code 0 and after three iterations, but not after convergence."""
  dictionary, d, x = _augmented(3, 1.0, 1)
  step, x = 1 / references.lipschitz(d), jnp.asarray(10 * x)
  failures = []
  for iterations in (0, 3, 4000):
    code = getattr(cscjax, solver)(dictionary, x, 0.1, iterations=iterations, step=step).code
    failures.append(int(np.sum(theory.failed_dimensions(dictionary, code, x, 0.1))))
  assert failures[0] == 12
  assert failures[0] >= failures[1] > failures[2] == 0


def test_theorem_1_needs_signed_codes(x64):
  """A counterexample derived by hand: D = [I, f] with f = (10, 4), x = (10, 0) and beta = 1.

  The atom f has a large norm, so it explains the first dimension at a small penalty, but it adds 4 z to
  the second dimension, which only a negative coefficient of the identity could remove. For a_1, z > 0
  the optimality conditions on r = x - D code are r_1 = 1 and 10 r_1 + 4 r_2 = 1, so r_2 = -2.25.
  """
  atoms = np.array([[1.0, 0.0, 10.0], [0.0, 1.0, 4.0]])
  dictionary = cscjax.MatrixDictionary(jnp.asarray(atoms))
  x, step = jnp.array([10.0, 0.0]), 1 / references.lipschitz(atoms)
  code = cscjax.ista(dictionary, x, 1.0, iterations=50_000, step=step, nonnegative=True).code
  np.testing.assert_allclose(code, [3.375, 0, 0.5625], atol=1e-6)
  np.testing.assert_array_equal(theory.failed_dimensions(dictionary, code, x, 1.0), [False, True])
  assert np.all(x - dictionary.synthesis(code) <= 1 + 1e-6)  # the one-sided condition holds
  signed = cscjax.ista(dictionary, x, 1.0, iterations=50_000, step=step).code
  assert not np.any(theory.failed_dimensions(dictionary, signed, x, 1.0))


def test_ill_conditioned_example(x64):
  """The code is 0 and both dimensions fail; with the identity in the dictionary neither fails."""
  dictionary, x, beta = theory.ill_conditioned_example()
  code = cscjax.ista(dictionary, x, beta, iterations=200).code
  np.testing.assert_array_equal(code, 0)
  np.testing.assert_array_equal(theory.failed_dimensions(dictionary, code, x, beta), [True, True])
  atoms = jnp.hstack([jnp.eye(2), dictionary.atoms])
  dictionary = cscjax.MatrixDictionary(atoms)
  code = cscjax.ista(dictionary, x, beta, iterations=200).code
  assert not np.any(theory.failed_dimensions(dictionary, code, x, beta))


def test_failed_dimensions(x64):
  dictionary = cscjax.MatrixDictionary(jnp.eye(3))
  x, code = jnp.array([[1.0, 2, 3], [0, 0, 0]]), jnp.array([[1.0, 2.2, 2.7], [0.2, -0.3, 0.1]])
  expected = [[False, False, True], [False, True, False]]
  np.testing.assert_array_equal(theory.failed_dimensions(dictionary, code, x, 0.125), expected)
  with pytest.raises(ValueError, match="beta"):
    theory.failed_dimensions(dictionary, code, x, -1)
