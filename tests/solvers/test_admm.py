"""Tests of ADMM's default penalty parameter and tolerance, and of the memory that the solvers plan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.dictionaries import circulant_embedding


def _unit_norm(rng, *shape):
  atoms = rng.standard_normal(shape)
  return atoms / np.linalg.norm(atoms.reshape(-1, shape[-1]), axis=0)


@pytest.mark.parametrize("scale", [1.0, pytest.param(1e-3, marks=pytest.mark.slow)])
def test_the_default_rho_compares_the_dual_variable_with_the_code(x64, scale):
  """It scales as the square of the dictionary, and each signal has its own."""
  rng = np.random.default_rng(0)
  atoms, x = _unit_norm(rng, 12, 20), rng.standard_normal((4, 12))
  x[2] *= 50
  x[3] = 0
  beta = 0.3
  dual = np.clip(x @ atoms, -beta, beta)
  expected = np.linalg.norm(dual[:3], axis=1) / np.linalg.norm(x[:3], axis=1)
  problem = cscjax.Lasso(cscjax.MatrixDictionary(scale * atoms), x, scale * beta)
  rho = cscjax.solvers.ADMM().init(problem).rho
  expected = np.append(np.maximum(expected, 0.1), 0.1)
  np.testing.assert_allclose(rho, scale**2 * expected, rtol=1e-12)
  assert np.min(rho[:3]) < 0.5 * np.max(rho[:3])


def test_the_default_rho_does_not_depend_on_the_sign_constraint(x64):
  """The dual variable of a nonnegative code is unbounded below, where it is large for the first code."""
  rng = np.random.default_rng(0)
  dictionary, x = cscjax.MatrixDictionary(_unit_norm(rng, 12, 20)), rng.standard_normal(12)
  solver = cscjax.solvers.ADMM()
  free, nonnegative = (
    solver.init(cscjax.Lasso(dictionary, x, 0.3, nonnegative=sign)).rho for sign in (False, True)
  )
  np.testing.assert_allclose(nonnegative, free, rtol=1e-12)


def test_the_default_rho_scales_with_the_weights_of_a_mask(x64):
  """Weights of 1/5 and a fifth of the penalty are a fifth of the objective, and so of rho."""
  rng = np.random.default_rng(0)
  dictionary, x = cscjax.MatrixDictionary(_unit_norm(rng, 12, 20)), rng.standard_normal(12)

  @jax.jit
  def rho(beta, mask=None):
    return cscjax.solvers.ADMM().init(cscjax.Lasso(dictionary, x, beta, mask=mask)).rho

  np.testing.assert_allclose(rho(0.2, np.full(12, 0.2)), 0.2 * rho(1.0), rtol=1e-12)


def test_the_gradient_at_a_zero_signal_is_finite():
  """The default rho divides norms, which are zero here."""
  dictionary, mask = cscjax.MatrixDictionary(jnp.eye(4)), jnp.array([1.0, 1.0, 0.0, 0.5])
  solver = cscjax.solvers.ADMM()

  def rho(x):
    return solver.init(cscjax.Lasso(dictionary, x, 0.1, mask=mask)).rho

  np.testing.assert_array_equal(jax.jit(jax.grad(rho))(jnp.zeros(4)), 0)


@pytest.mark.parametrize("fraction", [0.1, pytest.param(0.02, marks=pytest.mark.slow)])
def test_a_tolerance_means_the_same_with_a_mask(x64, fraction):
  """Where four fifths of the pixels are missing, the excess over the minimum is below the tolerance."""
  rng = np.random.default_rng(1)
  dictionary = cscjax.ConvDictionary(_unit_norm(rng, 5, 5, 1, 12), padding="SAME")
  x = np.cumsum(rng.standard_normal((24, 24, 1)), axis=0)
  problem = dictionary, x, cscjax.relative(fraction)
  mask = rng.random((24, 24)) < 0.2
  reference = cscjax.fista(*problem, mask=mask, tolerance=1e-4, stop="gap", max_iterations=20000)
  assert bool(reference.converged)
  for tolerance in (1e-2, 1e-3):
    result = cscjax.admm(*problem, mask=mask, tolerance=tolerance)
    assert bool(result.converged)
    assert result.objective[-1] < (1 + tolerance) * reference.objective[-1]


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("name", ["dense", "same", "mask", "nonnegative"])
def test_the_default_rho_is_near_the_best(x64, name, fraction):
  """Iterations to 1e-3 above the minimum, compared with the best of ten constant values."""
  rng = np.random.default_rng(1)
  mask = None
  if name == "dense":
    dictionary, x = cscjax.MatrixDictionary(_unit_norm(rng, 40, 120)), rng.standard_normal(40)
  else:
    dictionary = cscjax.ConvDictionary(_unit_norm(rng, 5, 5, 1, 12), padding="SAME")
    x = np.cumsum(rng.standard_normal((24, 24, 1)), axis=0)
    mask = rng.random((24, 24)) < 0.3 if name == "mask" else None

  def trace(rho=None):
    options = {"rho": rho, "mask": mask, "nonnegative": name == "nonnegative"}
    return cscjax.admm(dictionary, x, cscjax.relative(fraction), iterations=400, **options).objective

  default = np.asarray(trace())
  traces = np.asarray(jax.vmap(trace)(jnp.geomspace(0.05, 20, 10)))
  minimum = min(traces.min(), np.min(default))
  counts = [
    np.argmax(t <= minimum * (1 + 1e-3)) for t in (*traces, default) if t.min() <= 1.001 * minimum
  ]
  assert default[-1] <= 1.001 * minimum
  assert counts[-1] <= 1.4 * min(counts) + 3


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize(
  ("solver", "options", "codes"),
  [
    (cscjax.solvers.FISTA(0.01), {"iterations": 50}, 3.5),
    (cscjax.solvers.FISTA(0.01), {"tolerance": 1e-3}, 4.6),
    (cscjax.solvers.FISTA("adaptive"), {"tolerance": 1e-3}, 5.5),
    (cscjax.solvers.ADMM(), {"iterations": 50}, 4.6),
    (cscjax.solvers.ADMM(), {"tolerance": 1e-3}, 4.6),
  ],
)
def test_memory_in_sizes_of_the_code(solver, options, codes):
  """XLA's plan for a large image: what an iteration needs on top of the codes does not grow with it."""
  size, filters = 512, (8, 8, 1, 32)

  def solve(x, filters):
    dictionary = cscjax.ConvDictionary(filters, padding="SAME")
    return solver.run(cscjax.Lasso(dictionary, x, 0.1), **options, record=()).code

  shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((size, size, 1), filters)]
  plan = jax.jit(solve).lower(*shapes).compile().memory_analysis()
  total = plan.temp_size_in_bytes + plan.output_size_in_bytes + plan.argument_size_in_bytes
  assert total <= codes * size * size * filters[-1] * 4


@pytest.mark.parametrize("channels", [3, 17])  # sums and matrix products
def test_the_linear_system_is_solved(x64, channels):
  filters, x = jax.random.normal(jax.random.key(0), (4, channels, 20)), jnp.ones((2, 7, channels))
  conv = cscjax.ConvDictionary(filters, padding="CIRCULAR")
  signal, code = circulant_embedding(conv, x.shape[1:]).ridge_inverse(jnp.asarray(0.5))(x)
  np.testing.assert_allclose(0.5 * signal + conv.synthesis(conv.analysis(signal)), x, atol=1e-12)
  np.testing.assert_allclose(code, conv.analysis(signal), atol=1e-12)


def test_the_first_code_is_zero():
  """Rounding of the dual variable, which is clipped at beta, must not add tiny coefficients."""
  rng = np.random.default_rng(2)
  atoms, x = _unit_norm(rng, 30, 60).astype(np.float32), rng.standard_normal((8, 30)).astype(np.float32)
  problem = cscjax.Lasso(cscjax.MatrixDictionary(atoms), x, cscjax.relative(0.1))
  solver = cscjax.solvers.ADMM()
  code, reconstruction = solver.solution(problem, solver.init(problem))
  assert np.count_nonzero(code) == np.count_nonzero(reconstruction) == 0
