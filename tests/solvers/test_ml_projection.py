"""The greedy projection onto the multi-layer model against a dense NumPy implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from tests import references


def sparse_problem(seed=0):
  """Returns a two-layer model whose second dictionary has atoms of 2x2 pixels, and a noisy signal."""
  rng = np.random.default_rng(seed)
  filters = [rng.normal(size=(3, 3, 1, 4)), rng.normal(size=(2, 2, 4, 3))]
  filters[1] *= rng.random((2, 2, 4, 3)) < 0.4
  dictionaries = [cscjax.ConvDictionary(jnp.asarray(f)) for f in filters]
  ds = [references.conv_matrix(f, (7, 6)) for f in filters]
  code = np.zeros(ds[1].shape[1])
  code[rng.choice(code.size, 4, replace=False)] = 1 + rng.random(4)
  x = ds[0] @ ds[1] @ code
  return dictionaries, ds, x + 0.01 * np.abs(x).max() * rng.normal(size=x.shape)


def project(ds, x, sparsities):
  """Returns the deepest code and the objective after each atom."""
  effective = ds[0] @ ds[1]
  norms = np.linalg.norm(effective, axis=0)
  code, support, trace = np.zeros(len(norms)), [], [0.5 * x @ x]
  for _ in range(sparsities[1]):
    correlation = np.abs(effective.T @ (x - effective @ code)) / np.where(norms > 0, norms, np.inf)
    support.append(int(np.argmax(correlation)))
    new = np.zeros_like(code)
    new[support] = np.linalg.lstsq(effective[:, support], x, rcond=None)[0]
    if np.count_nonzero(ds[1] @ new) > sparsities[0]:
      break
    code = new
    trace.append(0.5 * np.sum((x - effective @ code) ** 2))
  return code, trace


def test_what_is_not_finite_is_not_coded_as_zero():
  dictionaries, _, x = sparse_problem()
  x = np.stack([x, x]).reshape(2, 7, 6, 1)
  x[0, 3, 2] = np.nan
  result = cscjax.ml_projection(dictionaries, x, (1000, 2))
  assert result.diverged.tolist() == [True, False]
  for code in result.codes:
    assert np.all(np.isnan(code[0]))
    assert np.all(np.isfinite(code[1]))
  filters = dictionaries[0].filters.at[0, 0, 0, 0].set(jnp.nan)
  codes = cscjax.ml_projection([cscjax.ConvDictionary(filters)], x, (2,)).codes[0]
  assert np.all(np.isnan(codes))


@pytest.mark.parametrize("sparsities", [(1000, 6), pytest.param((12, 6), marks=pytest.mark.slow)])
def test_against_numpy(x64, sparsities):
  dictionaries, ds, x = sparse_problem()
  result = cscjax.ml_projection(dictionaries, x.reshape(7, 6, 1), sparsities)
  code, trace = project(ds, x, sparsities)
  count = len(trace) - 1
  assert (count < 6) == (sparsities[0] < 1000)
  np.testing.assert_allclose(np.ravel(result.codes[1]), code, atol=1e-10)
  np.testing.assert_allclose(np.ravel(result.codes[0]), ds[1] @ code, atol=1e-10)
  np.testing.assert_allclose(result.objective, trace + [trace[-1]] * (6 - count), rtol=1e-9)
  assert int(result.iterations) == count
  sizes = [np.count_nonzero(ds[1] @ code), np.count_nonzero(code)]
  assert result.support_sizes.tolist() == sizes
  assert all(size <= limit for size, limit in zip(sizes, sparsities, strict=True))
  assert float(result.residuals[1]) < 1e-14
  np.testing.assert_allclose(result.residuals[0] ** 2, trace[-1] / trace[0], rtol=1e-9)


@pytest.mark.slow
def test_an_infeasible_atom_leaves_zero_codes_and_a_batch_is_projected_one_by_one(x64):
  dictionaries, ds, x = sparse_problem()
  x = np.stack([x, -3 * x[::-1], 0 * x]).reshape(3, 7, 6, 1)
  assert not np.any(cscjax.ml_projection(dictionaries, x, (1, 3)).codes[1])
  result = jax.jit(lambda x: cscjax.ml_projection(dictionaries, x, (30, 3)))(x)
  for i in range(2):
    code, _ = project(ds, np.ravel(x[i]), (30, 3))
    np.testing.assert_allclose(np.ravel(result.codes[1][i]), code, atol=1e-10)
  assert result.iterations[2] == 0
  assert not np.any(result.codes[0][2])
  mapped = jax.vmap(lambda x: cscjax.ml_projection(dictionaries, x, (30, 3)))(x)
  np.testing.assert_allclose(mapped.codes[1], result.codes[1], atol=1e-12)


def test_errors():
  dictionaries = [cscjax.MatrixDictionary(jnp.eye(3))] * 2
  for sparsities in ([1], [0, 1], [1.5, 1], 3):
    with pytest.raises(ValueError, match=r"^sparsities: "):
      cscjax.ml_projection(dictionaries, jnp.ones(3), sparsities)
