"""The exact multi-layer basis pursuit against a dense interior-point method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from tests import references
from tests.solvers.interior_point import multilayer_bp
from tests.solvers.problems import flat
from tests.solvers.test_multilayer import convolutional, dense

FRACTIONS = (0.08, 0.05, 0.1)


def penalties(ds, x, fractions=FRACTIONS):
  """Returns fractions of the largest magnitudes in D_i^T ... D_1^T x."""
  betas, signal = [], np.ravel(x)
  for d, fraction in zip(ds, fractions, strict=True):
    signal = d.T @ signal
    betas.append(fraction * np.abs(signal).max())
  return betas


def feasible():
  """Returns a problem with nonnegative codes, in which constraints of the first layers are active."""
  _, ds, _ = dense()
  ds = [ds[0], *(d + 0.2 for d in ds[1:])]
  rng = np.random.default_rng(2)
  x = ds[0] @ ds[1] @ ds[2] @ np.where(rng.random(9) < 0.4, 1, 0) + rng.normal(size=8)
  return [cscjax.MatrixDictionary(jnp.asarray(d)) for d in ds], ds, jnp.asarray(x)


PROBLEMS = {"dense": dense, "convolutional": convolutional, "nonnegative": feasible}


@functools.cache
def reference(name):
  dictionaries, ds, x = PROBLEMS[name]()
  betas = penalties(ds, x)
  return dictionaries, ds, x, betas, *multilayer_bp(ds, np.ravel(x), betas, name == "nonnegative")


@pytest.mark.parametrize(
  "name", ["dense", *(pytest.param(n, marks=pytest.mark.slow) for n in list(PROBLEMS)[1:])]
)
def test_against_an_interior_point_method(x64, name):
  dictionaries, ds, x, betas, code, minimum = reference(name)
  options = {"nonnegative": name == "nonnegative", "max_iterations": 20000}
  result = cscjax.ml_bp(dictionaries, x, betas, tolerance=1e-7, **options)
  assert result.converged
  np.testing.assert_allclose(result.objective[-1], minimum, rtol=2e-7)
  assert minimum < 0.99 * float(result.objective[0])
  implied = [code]
  for d in reversed(ds[1:]):
    implied.insert(0, d @ implied[0])
  for found, expected in zip(result.codes, implied, strict=True):
    np.testing.assert_allclose(np.ravel(found), expected, atol=2e-4)
    assert np.all(found >= 0) or name != "nonnegative"
  np.testing.assert_array_equal(result.support_sizes, [np.count_nonzero(c) for c in result.codes])
  assert int(result.support_sizes[-1]) == np.sum(np.abs(code) > 1e-5) > 0
  fit = np.linalg.norm(np.ravel(x) - ds[0] @ implied[0]) / np.linalg.norm(x)
  np.testing.assert_allclose(result.residuals, [fit, 0, 0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "convolutional"])
def test_the_gap_bounds_the_excess_in_each_iteration(x64, name):
  dictionaries, _, x, betas, _, minimum = reference(name)
  result = cscjax.ml_bp(dictionaries, x, betas, iterations=300)
  excess = (result.objective[1:] - minimum) / result.objective[1:]
  assert np.all(excess >= -1e-9)
  assert np.all(excess <= result.gap + 1e-9)
  assert result.gap[-1] < 0.01
  assert result.converged is None


@pytest.mark.slow
def test_one_layer_is_the_lasso(x64):
  dictionaries, _, x = dense()
  exact = cscjax.fista(dictionaries[0], x, 0.1, tolerance=1e-10, stop="gap", max_iterations=10**5)
  result = cscjax.ml_bp(dictionaries[:1], x, [0.1], tolerance=1e-10, max_iterations=10**5)
  np.testing.assert_allclose(result.codes[0], exact.code, atol=1e-4)
  np.testing.assert_allclose(result.objective[-1], exact.objective[-1], rtol=1e-9)


@pytest.mark.slow
def test_masked_samples_are_ignored(x64):
  dictionaries, ds, x = dense()
  mask = np.array([1, 0, 1, 0.5, 1, 1, 0, 1])
  betas = penalties(ds, mask * x)
  _, minimum = multilayer_bp(ds, np.asarray(x), betas, mask=mask)
  result = cscjax.ml_bp(
    dictionaries, jnp.where(mask > 0, x, jnp.nan), betas, mask=mask, tolerance=1e-7, max_iterations=20000
  )
  assert result.converged
  np.testing.assert_allclose(result.objective[-1], minimum, rtol=2e-7)


@pytest.mark.slow
def test_ml_fista_ends_near_the_minimum(x64):
  """With steps of 1/L, its fixed point is 0.01 % to 10 % above the minimum, with short steps less."""
  dictionaries, ds, x, betas, _, minimum = reference("dense")
  steps = [1 / references.lipschitz(d) for d in ds]
  excesses = []
  for scale in (1.0, 0.3):
    short = [scale * step for step in steps]
    options = {"steps": short, "tolerance": 1e-6, "max_iterations": 50000}
    result = cscjax.ml_fista(dictionaries, x, betas, **options)
    assert result.converged
    excesses.append(float(result.objective[-1]) / minimum - 1)
  assert 1e-4 < excesses[1] < 0.5 * excesses[0] < 0.05


@pytest.mark.slow
def test_codes_of_several_parts(x64):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 4, 1)))
  filters = [rng.normal(size=(3, 3, c, 2)) / 3 for c in (1, 3)]
  dictionaries = [cscjax.IdentityAugmented(cscjax.ConvDictionary(jnp.asarray(f))) for f in filters]
  first, second = (
    np.hstack([np.eye(16 * c), references.conv_matrix(f, (4, 4))])
    for c, f in zip((1, 3), filters, strict=True)
  )
  # The parts of the first code, [16] and [4, 4, 2], are the channels of the second signal, [4, 4, 3].
  order = np.concatenate([np.arange(16)[:, None], 16 + np.arange(32).reshape(16, 2)], axis=1).ravel()
  betas = [0.1, 0.05]
  code, minimum = multilayer_bp([first[:, order], second], np.ravel(x), betas)
  result = cscjax.ml_bp(dictionaries, x, betas, tolerance=1e-7, max_iterations=20000)
  assert result.converged
  np.testing.assert_allclose(result.objective[-1], minimum, rtol=2e-7)
  np.testing.assert_allclose(flat(result.codes[1]), code, atol=1e-3)


@pytest.mark.slow
def test_batches_jit_and_vmap(x64):
  dictionaries, _, x = dense()
  x = jnp.stack([x, 1e-3 * x[::-1]])
  betas = [cscjax.relative(fraction) for fraction in FRACTIONS]

  def solve(x):
    return cscjax.ml_bp(dictionaries, x, betas, iterations=25)

  together, mapped = solve(x), jax.jit(jax.vmap(solve))(x)
  assert together.gap.shape == (25, 2)
  np.testing.assert_allclose(mapped.codes[2], together.codes[2], atol=1e-12)
  alone = solve(x[1])
  np.testing.assert_allclose(together.codes[0][1], alone.codes[0], atol=1e-12)
  np.testing.assert_allclose(together.objective[:, 1], alone.objective, rtol=1e-9)


@pytest.mark.slow
def test_float32_at_any_scale():
  dictionaries, _, x = dense()
  betas = [cscjax.relative(fraction) for fraction in FRACTIONS]
  x = jnp.asarray(x, jnp.float32)[None] * jnp.array([[1e-30], [1], [1e18], [0]])
  result = cscjax.ml_bp(dictionaries, x, betas, tolerance=1e-4)
  assert np.all(result.converged)
  codes = np.asarray(result.codes[2], np.float64)
  np.testing.assert_allclose(codes[0] * 1e30, codes[1], rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(codes[2] / 1e18, codes[1], rtol=1e-3, atol=1e-3)
  assert not np.any(codes[3])
  assert len(result.objective) == int(result.iterations) + 1 < 1000


@pytest.mark.slow
def test_zero_codes(x64):
  dictionaries, _, x = dense()
  betas = [cscjax.relative(fraction) for fraction in (0.1, 1.0, 0.1)]
  result = cscjax.ml_bp(dictionaries, x, betas, tolerance=1e-6)
  assert result.converged
  assert not any(np.any(code) for code in result.codes)
  np.testing.assert_array_equal(result.support_sizes, 0)


@pytest.mark.slow
def test_gradient_through_the_iterations(x64):
  dictionaries, _, x = dense()

  def loss(x):
    return jnp.sum(cscjax.ml_bp(dictionaries, x, (0.05, 0.08, 0.03), iterations=200).codes[1] ** 2)

  gradient = jax.grad(loss)(x)
  direction = np.random.default_rng(0).normal(size=x.shape)
  ends = [loss(x + h * direction) for h in (1e-5, -1e-5)]
  np.testing.assert_allclose(gradient @ direction, (ends[0] - ends[1]) / 2e-5, rtol=1e-3)


def test_errors():
  dictionaries = [cscjax.MatrixDictionary(jnp.eye(3))] * 2
  for match, options in {
    r"betas: .*positive": {"betas": [0.1, 0]},
    r"betas: expected one value for each": {"betas": [0.1]},
    r"iterations: .*max_iterations": {"iterations": 3, "tolerance": 0.1},
    r"max_iterations: .*use iterations": {"max_iterations": 3},
    r"tolerance: .*a scalar": {"tolerance": jnp.ones(2)},
    r"mask: ": {"mask": jnp.ones(4)},
  }.items():
    with pytest.raises(ValueError, match=match):
      cscjax.ml_bp(dictionaries, jnp.ones(3), **({"betas": [0.1, 0.1]} | options))
