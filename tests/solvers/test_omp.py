"""Tests of OMP against scikit-learn, Tropp's recovery condition and difficult dictionaries."""

import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

import cscjax
from cscjax.solvers._lasso._omp import omp
from tests import references
from tests.solvers.problems import PROBLEMS, flat_batch


def _problem(seed, n=12, m=20, batch=()):
  rng = np.random.default_rng(seed)
  atoms = rng.normal(size=(n, m)) * np.exp(rng.normal(size=m))  # norms from 0.1 to 10
  return cscjax.MatrixDictionary(jnp.asarray(atoms)), atoms, rng.normal(size=(*batch, n))


def _reference(atoms, x, sparsity):
  """Returns the code of scikit-learn, which expects unit atoms."""
  norms = np.linalg.norm(atoms, axis=0)
  return sklearn.linear_model.orthogonal_mp(atoms / norms, x, n_nonzero_coefs=sparsity) / norms


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sparsity", [1, 12])
def test_against_scikit_learn(sparsity):
  dictionary, atoms, x = _problem(0, batch=(6,))
  result = omp(dictionary, x, sparsity=sparsity)
  expected = np.stack([_reference(atoms, signal, sparsity) for signal in x])
  np.testing.assert_allclose(result.code, expected, atol=1e-9)
  assert result.support.shape == (6, sparsity)
  for i in range(6):
    assert set(result.support[i].tolist()) == set(np.flatnonzero(expected[i]).tolist())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[] if name == "augmented" else pytest.mark.slow)
    for name in ("augmented", "circular", "same_strided", "valid_1d")
  ],
)
def test_dictionaries_that_are_not_dense_against_scikit_learn(name):
  """The atoms are all shifts of the filters, cut off by the boundary; two signals are a batch."""
  problem = PROBLEMS[name]()
  x = np.stack([problem.x, np.random.default_rng(1).normal(size=problem.x.shape)])
  result = omp(problem.dictionary, x, sparsity=5)
  codes = flat_batch(result.code)
  for i in range(2):
    expected = _reference(problem.d, x[i].ravel(), 5)
    np.testing.assert_allclose(codes[i], expected, atol=1e-9)
    assert set(result.support[i].tolist()) == set(np.flatnonzero(expected).tolist())
    assert result.residual_norm[-1, i] == pytest.approx(
      np.linalg.norm(x[i].ravel() - problem.d @ expected)
    )


@pytest.mark.usefixtures("x64")
def test_picks_and_norms_step_by_step():
  """The first j picks and the residual are those of a pursuit that ends after j picks."""
  dictionary, atoms, x = _problem(1)
  result = omp(dictionary, x, sparsity=6)
  assert result.residual_norm[0] == pytest.approx(np.linalg.norm(x))
  for j in range(1, 7):
    code = _reference(atoms, x, j)
    assert set(result.support[:j].tolist()) == set(np.flatnonzero(code).tolist())
    assert result.residual_norm[j] == pytest.approx(np.linalg.norm(x - atoms @ code))


@pytest.mark.usefixtures("x64")
def test_tolerance_stops_each_signal_on_its_own():
  dictionary, atoms, x = _problem(2, batch=(2, 3))
  tolerance = 1.0
  result = omp(dictionary, x, tolerance=tolerance)
  assert result.support.shape == (2, 3, 12)
  picks = np.sum(np.asarray(result.support) >= 0, axis=-1)
  assert len(np.unique(picks)) > 1
  np.testing.assert_array_equal(result.iterations, picks)
  assert result.residual_norm.shape == (13, 2, 3)
  assert np.all(result.converged)
  for index in np.ndindex(2, 3):
    k, norms = picks[index], np.asarray(result.residual_norm[:, *index])
    assert norms[k] <= tolerance < norms[k - 1]
    np.testing.assert_array_equal(norms[k:], norms[k])
    np.testing.assert_array_equal(result.support[index][k:], -1)
    np.testing.assert_allclose(result.code[index], _reference(atoms, x[index], k), atol=1e-9)
    assert norms[k] == pytest.approx(np.linalg.norm(x[index] - atoms @ result.code[index]))


@pytest.mark.usefixtures("x64")
@hypothesis.given(st.integers(0, 10**6))
def test_recovers_codes_within_tropps_bound(seed):
  """For the identity and a rotation in R^16, mu = 1/4: two nonzeros are below the bound of 2.5."""
  rng = np.random.default_rng(seed)
  hadamard = np.array([[1.0]])
  for _ in range(4):
    hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
  atoms = np.hstack([np.eye(16), hadamard / 4])
  assert references.coherence(atoms) == pytest.approx(0.25)
  code = np.zeros(32)
  code[rng.choice(32, 2, replace=False)] = rng.choice([-1, 1], 2) * rng.uniform(0.1, 2, 2)
  result = omp(cscjax.MatrixDictionary(jnp.asarray(atoms)), atoms @ code, sparsity=4)
  np.testing.assert_allclose(result.code, code, atol=1e-12)
  assert result.support.tolist()[2:] == [-1, -1]  # the residual is rounding error


def test_float32():
  dictionary, atoms, x = _problem(3, batch=(5,))
  result = omp(jax.tree.map(lambda a: a.astype(jnp.float32), dictionary), np.float32(x), sparsity=4)
  assert result.code.dtype == result.residual_norm.dtype == jnp.float32
  assert result.support.dtype == jnp.int32
  expected = np.stack([_reference(atoms, signal, 4) for signal in x])
  np.testing.assert_allclose(result.code, expected, rtol=1e-4, atol=1e-5)


def test_half_precision():
  """The factorization is that of float32: in bfloat16, 20 atoms would leave most of the signal."""
  rng = np.random.default_rng(0)
  atoms = jnp.asarray(rng.normal(size=(20, 40)), jnp.bfloat16)
  x = jnp.asarray(rng.normal(size=20), jnp.bfloat16)
  result = cscjax.omp(cscjax.MatrixDictionary(atoms), x, sparsity=20)
  assert result.code.dtype == result.residual_norm.dtype == jnp.bfloat16
  assert float(result.residual_norm[-1]) < 1e-4 * float(result.residual_norm[0])


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_dependent_and_zero_atoms(size):
  """With copies, multiples and sums of atoms, and zeros, there are no NaNs and no dependent picks."""
  rng = np.random.default_rng(4)
  a = rng.normal(size=(8, 3))
  atoms = np.hstack([np.zeros((8, 1)), a, a, -3 * a, a[:, :1] + a[:, 1:2]]) * size
  x = np.stack([a @ [1, 2, 3], rng.normal(size=8), np.zeros(8)])
  result = omp(cscjax.MatrixDictionary(jnp.asarray(atoms, jnp.float32)), np.float32(x), sparsity=8)
  assert np.all(np.isfinite(result.code))
  assert np.all(np.sum(np.asarray(result.support) >= 0, axis=-1) <= 3)
  best = np.stack([np.linalg.lstsq(a, signal)[0] @ a.T for signal in x])
  np.testing.assert_allclose(result.code @ atoms.T, best, atol=1e-4)
  assert result.support[2].tolist() == [-1] * 8


@pytest.mark.usefixtures("x64")
def test_nearly_dependent_atoms_stay_orthogonal():
  """The atoms are 1e-6 apart, where a single Gram-Schmidt would lose half of the digits."""
  rng = np.random.default_rng(5)
  atoms = rng.normal(size=(10, 1)) + 1e-6 * rng.normal(size=(10, 6))
  x = atoms @ rng.normal(size=6) + rng.normal(size=10)
  result = omp(cscjax.MatrixDictionary(jnp.asarray(atoms)), x, sparsity=6)
  residual = x - atoms @ np.asarray(result.code)
  best = x - atoms @ np.linalg.lstsq(atoms, x)[0]
  np.testing.assert_allclose(residual, best, atol=1e-7)
  assert result.residual_norm[-1] == pytest.approx(np.linalg.norm(best), rel=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_jit_vmap_and_empty_batch():
  dictionary, _, x = _problem(6, batch=(3,))
  expected = omp(dictionary, x, sparsity=4)
  for got in (
    jax.jit(lambda d, x: omp(d, x, sparsity=4))(dictionary, x),
    jax.vmap(lambda x: omp(dictionary, x, sparsity=4))(x),
  ):
    np.testing.assert_array_equal(got.support, expected.support)
    np.testing.assert_allclose(got.code, expected.code, atol=1e-12)
  assert omp(dictionary, x[:0], sparsity=4).code.shape == (0, 20)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_gradient_against_finite_differences():
  """This includes a stop: two of six atoms span the signal, and the other picks have no effect."""
  rng = np.random.default_rng(7)
  atoms = np.linalg.qr(rng.normal(size=(6, 6)))[0] * np.arange(1, 7)
  weights = rng.normal(size=6)

  def value(scale, shift):
    dictionary = cscjax.MatrixDictionary(scale * jnp.asarray(atoms))
    result = omp(dictionary, atoms[:, 1] + (2 + shift) * atoms[:, 4], sparsity=4)
    return result.code @ weights + 0 * jnp.sum(result.residual_norm)

  got = jax.grad(value, argnums=(0, 1))(1.0, 0.0)
  h = 1e-6
  np.testing.assert_allclose(got[0], (value(1 + h, 0) - value(1 - h, 0)) / (2 * h), rtol=1e-6)
  np.testing.assert_allclose(got[1], (value(1, h) - value(1, -h)) / (2 * h), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.optimized
def test_memory_does_not_grow_with_the_number_of_signals():
  """Beyond one block, only the arguments and the result grow."""

  def temporary(count):
    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (count, 64)))
    code = jax.jit(lambda atoms, x: omp(cscjax.MatrixDictionary(atoms), x, tolerance=0.1).code)
    return code.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

  assert temporary(20_000) < temporary(1_000) + 3 * 20_000 * 4 * (64 + 128)
  assert temporary(20_000) < 2**27


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_blocks_give_what_single_signals_give(monkeypatch):
  # Two blocks of three signals, and one signal.
  monkeypatch.setattr(sys.modules[omp.__module__], "BLOCK", 700)
  dictionary, _, x = _problem(8, n=13, batch=(7,))
  result = omp(dictionary, x, sparsity=11)
  for i, signal in enumerate(x):
    single = omp(dictionary, signal, sparsity=11)
    np.testing.assert_array_equal(result.support[i], single.support)
    np.testing.assert_allclose(result.code[i], single.code, atol=1e-11)


@pytest.mark.parametrize("atom_scale", [1e-25, 1e-10, 1e10, 1e18])
@pytest.mark.parametrize("signal_scale", [1e-20, 1.0, 1e18])
def test_any_scale(atom_scale, signal_scale):
  """The picks and the fit in float32 are those at scale 1."""
  _, atoms, x = _problem(9, batch=(3,))
  atoms, x = np.float32(atoms), np.float32(x)
  expected = omp(cscjax.MatrixDictionary(jnp.asarray(atoms)), x, tolerance=1.0)
  ratio = signal_scale / atom_scale
  if not 1e-35 < ratio < 1e35:
    pytest.skip("the code itself is not in the range of float32")
  result = omp(
    cscjax.MatrixDictionary(jnp.asarray(atoms * np.float32(atom_scale))),
    x * np.float32(signal_scale),
    tolerance=signal_scale,
  )
  np.testing.assert_array_equal(result.support, expected.support)
  np.testing.assert_allclose(result.code / np.float32(ratio), expected.code, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(
    result.residual_norm / np.float32(signal_scale), expected.residual_norm, rtol=1e-4
  )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_signal_that_is_not_finite_is_not_coded_as_0(value):
  dictionary, _, x = _problem(10, batch=(2,))
  x[0, 3] = value
  result = omp(dictionary, x, sparsity=3)
  assert np.all(np.isnan(result.code[0]))
  assert np.all(np.isnan(result.residual_norm[:, 0]))
  assert np.all(np.isfinite(result.code[1]))
  assert np.all(result.support[1] >= 0)
  broken = cscjax.MatrixDictionary(dictionary.atoms.at[2, 5].set(value))
  assert np.all(np.isnan(omp(broken, x, sparsity=3).code))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["zero signal", "zero atoms", "duplicates", "zero dictionary"])
def test_gradients_at_edges_are_finite(case):
  rng = np.random.default_rng(11)
  atoms, x = rng.normal(size=(5, 8)), rng.normal(size=5)
  if case == "zero signal":
    x = np.zeros(5)
  elif case == "duplicates":
    atoms[:, 4:] = atoms[:, :4]
  else:
    atoms[:, : 3 if case == "zero atoms" else 8] = 0

  def value(atoms, x):
    result = omp(cscjax.MatrixDictionary(atoms), x, tolerance=0.0)
    return jnp.sum(jnp.sin(result.code)) + jnp.sum(result.residual_norm)

  gradients = jax.grad(value, argnums=(0, 1))(jnp.asarray(atoms), jnp.asarray(x))
  for gradient in gradients:
    assert np.all(np.isfinite(gradient))


def _complex(rng, *shape):
  return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def _group_reference(atoms, x, groups, picks):
  """Returns the code and the picks of OMP with groups of columns of a real or complex matrix."""
  picked, residual = [], x
  for _ in range(picks):
    correlation = np.abs(atoms.conj().T @ residual) / np.linalg.norm(atoms, axis=0)
    strength = [np.linalg.norm(correlation[group]) for group in groups]
    picked.append(np.argmax(np.where(np.isin(range(len(groups)), picked), -1, strength)))
    columns = np.concatenate([groups[i] for i in picked])
    found = np.linalg.lstsq(atoms[:, columns], x)[0]
    residual = x - atoms[:, columns] @ found
  code = np.zeros(atoms.shape[1], atoms.dtype)
  code[columns] = found
  return code, picked


@pytest.mark.usefixtures("x64")
def test_complex_coefficients_against_complex_omp():
  """The phases vary, so that the real and the imaginary parts alone pick other atoms."""
  rng = np.random.default_rng(12)
  atoms = _complex(rng, 8, 15) * np.exp(rng.normal(size=15))
  x = _complex(rng, 6, 8)
  dictionary = cscjax.dictionaries.ComplexDictionary(
    *(cscjax.MatrixDictionary(jnp.asarray(part)) for part in (atoms.real, atoms.imag))
  )
  signals = np.stack([x.real, x.imag], axis=1)
  result = omp(dictionary, signals, sparsity=4, joint_axes=-2)
  assert (result.code.shape, result.support.shape) == ((6, 2, 15), (6, 8))
  np.testing.assert_array_equal(result.iterations, 4)
  codes = np.asarray(result.code)
  for i, signal in enumerate(x):
    code, picked = _group_reference(atoms, signal, np.arange(15)[:, None], 4)
    np.testing.assert_allclose(codes[i, 0] + 1j * codes[i, 1], code, atol=1e-9)
    support = np.unravel_index(result.support[i], (2, 15))
    np.testing.assert_array_equal(support, [[0, 1] * 4, np.repeat(picked, 2)])
    residual = np.linalg.norm(signal - atoms @ code)
    assert result.residual_norm[-1, i] == pytest.approx(residual)
  one_by_one = omp(dictionary, signals, sparsity=8)
  assert np.all(np.any(np.asarray(one_by_one.code != 0) != (codes != 0), axis=(1, 2)))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("axes", [-1, (-1, -2)])
def test_groups_of_a_convolutional_dictionary(axes):
  """All channels at one position, or in one row: atoms of a group are not orthogonal."""
  rng = np.random.default_rng(13)
  filters = rng.normal(size=(3, 2, 1, 2))
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters))
  matrix = references.conv_matrix(filters, (5, 4))
  x = rng.normal(size=(5, 4, 1))
  groups = np.arange(40).reshape((20, 2) if axes == -1 else (5, 8))
  result = omp(dictionary, x, sparsity=2, joint_axes=axes)
  code, picked = _group_reference(matrix, x.ravel(), groups, 2)
  np.testing.assert_allclose(result.code.ravel(), code, atol=1e-9)
  assert result.iterations == 2
  support = np.reshape(result.support, (2, -1))
  np.testing.assert_array_equal(np.sort(support), groups[picked])


def test_the_parts_of_a_code_need_groups_of_one_size():
  dictionary = cscjax.IdentityAugmented(cscjax.ConvDictionary(jnp.ones((3, 3, 2, 4))))
  with pytest.raises(ValueError, match=r"^joint_axes: expected groups of one size .*, not \[2, 4\]"):
    omp(dictionary, np.ones((5, 5, 2)), sparsity=1, joint_axes=-1)


def test_a_group_with_dependent_atoms_counts_them_once():
  rng = np.random.default_rng(14)
  a = np.float32(rng.normal(size=(8, 3)))
  atoms = jnp.asarray(np.concatenate([a, -2 * a, 0 * a], axis=1))
  x = a @ np.float32([1, 2, 3])
  result = omp(cscjax.MatrixDictionary(atoms), x, sparsity=1, joint_axes=-1)
  assert np.all(np.isfinite(result.code))
  np.testing.assert_allclose(atoms @ result.code, x, atol=1e-4)
  np.testing.assert_array_equal(result.code.reshape(3, 3)[1:], 0)
  assert (result.iterations, result.support.tolist()) == (1, list(range(9)))


@pytest.mark.parametrize(
  ("name", "arguments"),
  [
    ("sparsity", {}),
    ("sparsity", {"sparsity": 0}),
    ("sparsity", {"sparsity": 13}),
    ("sparsity", {"sparsity": 2.0}),
    ("tolerance", {"tolerance": -1.0}),
    ("tolerance", {"tolerance": np.nan}),
    ("tolerance", {"tolerance": np.ones(2)}),
    ("x", {"x": np.zeros(11), "sparsity": 2}),
    ("x", {"x": 1.0, "sparsity": 2}),
    ("joint_axes", {"sparsity": 2, "joint_axes": 0}),
    ("joint_axes", {"sparsity": 2, "joint_axes": (-1, -1)}),
    ("sparsity", {"sparsity": 2, "joint_axes": -1}),
    ("dictionary", {"dictionary": np.ones((12, 20)), "sparsity": 2}),
  ],
)
def test_bad_input_names_the_argument(name, arguments):
  dictionary, _, x = _problem(0)
  arguments = {"dictionary": dictionary, "x": x, **arguments}
  with pytest.raises(ValueError, match=f"^{name}: "):
    omp(**arguments)
