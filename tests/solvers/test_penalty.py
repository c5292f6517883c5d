"""Penalties relative to beta_max, and the shape of beta_max, against dense matrices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import cscjax
from tests import references
from tests.solvers.problems import PROBLEMS, dense, flat, working_set

D, _, X = dense(0)
SOLVERS = {"ista": cscjax.ista, "fista": cscjax.fista, "admm": cscjax.admm, "working_set": working_set}


def _largest(d, x, nonnegative=False):
  correlation = d.T @ np.ravel(x)
  return max(np.max(correlation), 0) if nonnegative else np.max(np.abs(correlation))


def _part(code, i):
  return flat(jax.tree.map(lambda part: part[i], code))


@pytest.mark.parametrize("name", PROBLEMS)
def test_beta_max_broadcasts_against_the_codes_of_a_batch(x64, name):
  """Also for as many signals as atoms, where a vector would be one value per atom."""
  problem = PROBLEMS[name]()
  atoms = jax.tree.leaves(problem.dictionary.analysis(problem.x))[-1].shape[-1]
  x = np.random.default_rng(0).normal(size=(2, atoms, *problem.x.shape)) * np.arange(
    1, atoms + 1
  ).reshape(-1, *(1,) * problem.x.ndim)
  largest = cscjax.beta_max(problem.dictionary, x)
  code = cscjax.fista(problem.dictionary, x, 0.3 * largest, iterations=4, step=problem.step).code
  for i in np.ndindex(x.shape[:2]):
    beta = _largest(problem.d, x[i])
    np.testing.assert_allclose(largest[i].item(), beta, rtol=1e-12)
    expected, _ = references.pursue(problem.d, x[i].ravel(), 0.3 * beta, 4, accelerate=True)
    np.testing.assert_allclose(_part(code, i), expected, atol=1e-11)


class _Parts(NamedTuple):
  vector: jax.Array
  square: jax.Array


class _TwoRanks(struct.PyTreeNode):
  """D = [I, I], whose code has a part of one axis and a part of two."""

  signal_ndim = 1

  def analysis(self, x):
    return _Parts(x, x.reshape(*x.shape[:-1], 2, 2))

  def synthesis(self, code, signal_shape=None):
    return code.vector + code.square.reshape(code.vector.shape)

  def residual(self, code, x):
    return self.synthesis(code) - x


@pytest.mark.slow
def test_parts_of_different_ranks():
  x = jnp.arange(1.0, 13).reshape(3, 4)
  largest = cscjax.beta_max(_TwoRanks(), x)
  assert isinstance(largest, _Parts)
  assert [part.shape for part in largest] == [(3, 1), (3, 1, 1)]
  np.testing.assert_array_equal(largest.vector[:, 0], [4, 8, 12])
  code = cscjax.fista(_TwoRanks(), x, cscjax.relative(0.5), tolerance=1e-6).code
  np.testing.assert_allclose(code.vector[0] + code.square[0].ravel(), [0, 0, 1, 2], atol=1e-5)


@pytest.mark.parametrize(
  ("name", "solver", "nonnegative"),
  [
    ("dense", "fista", True),
    pytest.param("circular", "ista", False, marks=pytest.mark.slow),
    pytest.param("circular", "admm", False, marks=pytest.mark.slow),
    pytest.param("dense", "working_set", True, marks=pytest.mark.slow),
    ("augmented", "fista", False),
  ],
)
def test_each_signal_has_the_penalty_that_it_has_alone(x64, name, solver, nonnegative):
  problem = PROBLEMS[name]()
  x = np.stack([problem.x, -30 * problem.x])
  mask = np.random.default_rng(1).choice([0.0, 0.5, 1.0], problem.x.shape)
  options = {"nonnegative": nonnegative, "mask": mask, "iterations": 5}
  result = SOLVERS[solver](problem.dictionary, x, cscjax.relative(0.2), **options)
  for i in range(2):
    beta = 0.2 * _largest(problem.d, mask * x[i], nonnegative)
    alone = SOLVERS[solver](problem.dictionary, x[i], beta, **options)
    np.testing.assert_allclose(_part(result.code, i), flat(alone.code), atol=1e-11)
    np.testing.assert_allclose(result.objective[:, i], alone.objective, rtol=1e-11)


def test_a_fraction_per_channel_and_per_part(x64):
  problem = PROBLEMS["circular"]()
  fractions = np.array([0.1, 0.5, 0.9])
  got = cscjax.fista(problem.dictionary, problem.x, cscjax.relative(fractions), iterations=5)
  beta = fractions * _largest(problem.d, problem.x)
  expected = cscjax.fista(problem.dictionary, problem.x, beta, iterations=5)
  np.testing.assert_allclose(got.code, expected.code, atol=1e-13)
  problem = PROBLEMS["augmented"]()
  got = cscjax.fista(problem.dictionary, problem.x, cscjax.relative((0.1, fractions)), iterations=5)
  beta = _largest(problem.d, problem.x)
  expected = cscjax.fista(problem.dictionary, problem.x, (0.1 * beta, fractions * beta), iterations=5)
  np.testing.assert_allclose(flat(got.code), flat(expected.code), atol=1e-13)


def test_a_fraction_of_one_gives_the_zero_code_and_less_does_not():
  problem = dense(0)
  for fraction, is_zero in ((1.001, True), (0.999, False)):
    code = cscjax.ista(problem.dictionary, problem.x, cscjax.relative(fraction), iterations=3).code
    assert np.all(np.asarray(code) == 0) == is_zero


def test_a_signal_without_correlation_converges_to_zero():
  problem = dense(0)
  x = np.stack([problem.x, 0 * problem.x])
  result = cscjax.fista(problem.dictionary, x, cscjax.relative(0.5), tolerance=1e-3, stop="gap")
  assert np.all(result.converged)
  assert np.any(result.code[0] != 0)
  assert not np.any(result.code[1])


@pytest.mark.parametrize("nonnegative", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_layers(x64, nonnegative):
  first, second = dense(0, 8, 12), dense(1, 12, 10)
  dictionaries = [first.dictionary, second.dictionary]
  x = np.stack([first.x, -5 * first.x])
  fractions = [0.3, 0.1]
  penalties = [cscjax.relative(fraction) for fraction in fractions]
  options = {"nonnegative": nonnegative}
  thresholded = cscjax.layered_thresholding(dictionaries, x, penalties, **options)
  layered = cscjax.layered_bp(dictionaries, x, penalties, iterations=4, **options).codes
  joint = cscjax.ml_fista(dictionaries, x, penalties, iterations=4, **options).codes
  for i in range(2):
    beta = 0.3 * _largest(first.d, x[i], nonnegative)
    for codes, encode, run in (
      (thresholded, cscjax.layered_thresholding, {}),
      (layered, lambda *a, **k: cscjax.layered_bp(*a, **k).codes, {"iterations": 4}),
    ):
      deep = 0.1 * _largest(second.d, codes[0][i], nonnegative)
      alone = encode(dictionaries, x[i], [beta, deep], **run, **options)
      np.testing.assert_allclose(codes[0][i], alone[0], atol=1e-12)
      np.testing.assert_allclose(codes[1][i], alone[1], atol=1e-12)
    deep = 0.1 * _largest(first.d @ second.d, x[i], nonnegative)
    alone = cscjax.ml_fista(dictionaries, x[i], [beta, deep], iterations=4, **options).codes
    np.testing.assert_allclose(joint[1][i], alone[1], atol=1e-12)


@pytest.mark.parametrize("layer", [0, 1])
def test_zero_codes_solve_a_problem_of_several_layers_with_one_fraction_of_one(x64, layer):
  """Along no direction of the deepest code does the objective fall from zero."""
  first, second = dense(0, 8, 12), dense(1, 12, 10)
  correlation = [first.d.T @ first.x, second.d.T @ first.d.T @ first.x]
  beta = np.max(np.abs(correlation[layer]))
  rng = np.random.default_rng(0)
  for _ in range(100):
    deepest = rng.normal(size=10) * 10 ** rng.uniform(-6, 0)
    codes = [second.d @ deepest, deepest]
    objective = 0.5 * np.sum((first.x - first.d @ codes[0]) ** 2) + beta * np.sum(np.abs(codes[layer]))
    assert objective > 0.5 * np.sum(first.x**2)


@pytest.mark.parametrize("options", [{"iterations": 8}, {"tolerance": 1e-10, "max_iterations": 5000}])
def test_derivatives_include_those_of_beta_max(x64, options):
  problem = dense(0)

  def energy(x, fraction, penalty):
    return jnp.sum(cscjax.fista(problem.dictionary, x, penalty(x, fraction), **options).code ** 2)

  relative = jax.grad(lambda x, f: energy(x, f, lambda _, f: cscjax.relative(f)), (0, 1))
  explicit = jax.grad(
    lambda x, f: energy(x, f, lambda x, f: f * cscjax.beta_max(problem.dictionary, x)), (0, 1)
  )
  x = jnp.asarray(problem.x)
  for got, expected in zip(relative(x, 0.2), explicit(x, 0.2), strict=True):
    assert np.any(expected != 0)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


def test_jit_and_vmap(x64):
  problem = dense(0)
  x = np.random.default_rng(2).normal(size=(3, 8))
  penalty = cscjax.relative(0.1)

  def run(x, penalty):
    return cscjax.fista(problem.dictionary, x, penalty, iterations=5).code

  expected = run(x, penalty)
  np.testing.assert_allclose(jax.jit(run)(x, penalty), expected, atol=1e-12)
  np.testing.assert_allclose(jax.vmap(run, (0, None))(x, penalty), expected, atol=1e-12)


def test_functions_of_a_code_take_the_penalty_of_the_solver(x64):
  problem = dense(0)
  penalty, beta = cscjax.relative(0.2), 0.2 * _largest(problem.d, problem.x)
  code = cscjax.fista(problem.dictionary, problem.x, penalty, tolerance=1e-6).code
  for function in (
    cscjax.duality_gap,
    lambda *arguments: cscjax.polished(*arguments).code,
    lambda d, x, code, beta: cscjax.failed_dimensions(d, 0 * code, x, beta),
  ):
    got, expected = (function(problem.dictionary, problem.x, code, b) for b in (penalty, beta))
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize(
  ("name", "call"),
  [
    ("fraction", lambda: cscjax.relative(-0.1)),
    ("fraction", lambda: cscjax.relative([0.1, np.nan])),
    ("fraction", lambda: cscjax.relative("0.1")),
    ("beta", lambda: cscjax.fista(D, X, cscjax.relative(np.ones(5)))),
    ("beta", lambda: cscjax.fista(D, X, cscjax.relative(0), stop="gap", tolerance=1)),
    ("betas", lambda: cscjax.layered_bp([D], X, cscjax.relative(0.1))),
    ("betas", lambda: cscjax.certify([D], X, 0.1, betas=[cscjax.relative(0.1)])),
  ],
)
def test_bad_input_names_the_argument(name, call):
  with pytest.raises(ValueError, match=f"^{name}: expected"):
    call()


def test_a_mask_without_channels_is_that_of_all_channels(x64):
  """Weights [H, W] of one image and of a batch, and [N, H, W]; a dense signal has no channels."""
  problem = PROBLEMS["circular"]()
  x = np.stack([problem.x, np.cos(problem.x)])
  masks = np.random.default_rng(0).choice([0.0, 0.5, 1.0], x.shape[:-1])
  expected = [_largest(problem.d, m[..., None] * s, False) for m, s in zip(masks, x, strict=True)]
  np.testing.assert_allclose(
    cscjax.beta_max(problem.dictionary, x, mask=masks).ravel(), expected, rtol=1e-12
  )
  for mask, signals in ((masks[0], x), (masks[0], x[0])):
    found = cscjax.beta_max(problem.dictionary, signals, mask=mask)
    np.testing.assert_allclose(np.ravel(found)[0], expected[0], rtol=1e-12)
  vector = PROBLEMS["dense"]()
  with pytest.raises(ValueError, match=r"^mask: expected a shape that broadcasts"):
    cscjax.beta_max(vector.dictionary, np.stack([vector.x] * 2), mask=np.ones(2))
