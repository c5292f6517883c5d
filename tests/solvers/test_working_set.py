"""Tests of what `WorkingSet` does unlike other solvers; the tests of all solvers iterate it, too."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet

import cscjax
from cscjax.solvers import FISTA, WorkingSet
from cscjax.solvers._lasso import _working_set
from tests.solvers.problems import convolutional, dense

BETA = 0.3


def solution(d, x, beta, ridge=0.0, nonnegative=False):
  """Returns the solution of the elastic net by scikit-learn, whose misfit is divided by n."""
  n, total = len(x), beta + ridge
  model = ElasticNet(
    total / n,
    l1_ratio=beta / total,
    fit_intercept=False,
    positive=nonnegative,
    tol=1e-14,
    max_iter=10**6,
  )
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scikit-learn warns if it does not reach 1e-14
    return model.fit(d, x).coef_


LASSO = {}
NONNEGATIVE = {"nonnegative": True}
ELASTIC_NET = {"ridge": 0.2, "nonnegative": True}


# Sizes of the working sets: the first one has all atoms; the code outgrows the first set of the second
# pair, and all others. Each case has its own number of atoms, because it is compiled anew.
@pytest.mark.parametrize(
  ("sizes", "m", "options"),
  [
    pytest.param((256, 1024), 60, LASSO, marks=pytest.mark.slow),
    pytest.param((16, 80), 61, LASSO, marks=pytest.mark.slow),
    pytest.param((40,), 62, LASSO, marks=pytest.mark.slow),
    pytest.param((256, 1024), 60, NONNEGATIVE, marks=pytest.mark.slow),
    ((16, 80), 61, ELASTIC_NET),
    pytest.param((9,), 63, LASSO, marks=pytest.mark.slow),
  ],
)
def test_agrees_with_scikit_learn(x64, monkeypatch, sizes, m, options):
  monkeypatch.setattr(_working_set, "SIZES", sizes)
  problem = dense(0, n=40, m=m)
  lasso = cscjax.Lasso(problem.dictionary, problem.x, BETA, **options)
  result = WorkingSet().run(lasso, tolerance=1e-10, record=("objective", "gap"))
  assert bool(result.converged)
  assert np.count_nonzero(result.code) > 9
  assert result.gap[-1] < 1e-8
  assert np.all(np.diff(result.objective) <= 1e-13 * result.objective[0])
  np.testing.assert_allclose(result.code, solution(problem.d, problem.x, BETA, **options), atol=1e-7)


def test_one_iteration_is_enough_for_a_sparse_code(x64):
  """The working set has the few atoms of the code among thousands; the criterion is tested at once."""
  rng = np.random.default_rng(0)
  atoms = rng.normal(size=(100, 2000)) / 10
  x = atoms[:, :3] @ [2.0, -3.0, 1.0]
  lasso = cscjax.Lasso(cscjax.MatrixDictionary(jnp.asarray(atoms)), x, cscjax.relative(0.5))
  history = []
  result = WorkingSet().run(lasso, tolerance=1e-10, callback=history.append)
  assert [stats.iteration for stats in history] == [1]
  assert int(result.iterations) == 1
  assert bool(result.converged)


@pytest.mark.slow
def test_a_dictionary_of_several_parts_and_an_atom_of_zeros(x64):
  """Each part has its own penalty. The initial coefficient of an atom that is zero is set to zero."""
  problem = dense(2, n=20, m=30)
  atoms = np.array(problem.d)
  atoms[:, 3] = 0
  parts = [cscjax.MatrixDictionary(jnp.asarray(a)) for a in (atoms[:, :12], atoms[:, 12:])]
  dictionary = cscjax.dictionaries.StackedDictionary(tuple(parts))
  init = (np.ones(12), np.zeros(18))
  lasso = cscjax.Lasso(dictionary, problem.x, (0.1, 0.2))
  result = WorkingSet().run(lasso, tolerance=1e-10, init=init)
  penalty = np.repeat([0.1, 0.2], [12, 18])
  expected = solution(atoms / penalty, problem.x, 1.0) / penalty
  assert expected[3] == 0
  np.testing.assert_allclose(np.concatenate(result.code), expected, atol=1e-7)


@pytest.mark.slow
def test_unrolled_derivatives(x64):
  """They are those of the solution, at which coordinate descent ends in a few iterations."""
  problem = dense(2, n=20, m=30)

  def loss(beta, x, solver, options):
    code = solver.run(cscjax.Lasso(problem.dictionary, x, beta), **options).code
    return jnp.sum(code**2)

  expected = jax.grad(loss, (0, 1))(0.2, problem.x, FISTA(), {"tolerance": 1e-10})
  unrolled = {"iterations": 8, "differentiate": "unrolled"}
  found = jax.grad(loss, (0, 1))(0.2, problem.x, WorkingSet(), unrolled)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_run_continues_from_its_state(x64, monkeypatch):
  """With sets that are smaller than the support, a run takes many iterations."""
  monkeypatch.setattr(_working_set, "SIZES", (5,))
  problem = dense(0, n=40, m=64)
  lasso = cscjax.Lasso(problem.dictionary, np.stack([problem.x, -2 * problem.x]), BETA)
  solver = WorkingSet()
  at_once = solver.run(lasso, iterations=40)
  first = solver.run(lasso, iterations=20)
  second = solver.run(lasso, iterations=20, state=first.state)
  assert np.max(np.abs(second.code - first.code)) > 1e-6
  np.testing.assert_allclose(second.code, at_once.code, atol=1e-13)
  step, state = jax.jit(solver.step), solver.init(lasso)
  for _ in range(40):
    state = step(lasso, state)
  code, reconstruction = solver.solution(lasso, state)
  np.testing.assert_allclose(code, at_once.code, atol=1e-13)
  np.testing.assert_allclose(reconstruction, code @ problem.d.T, atol=1e-13)


@pytest.mark.slow
def test_half_precision():
  """The descent is computed in float32."""
  problem = dense(0, n=20, m=30)
  dictionary = cscjax.MatrixDictionary(jnp.asarray(problem.d, jnp.float16))
  lasso = cscjax.Lasso(dictionary, jnp.asarray(problem.x, jnp.float16), 0.25)
  result = WorkingSet().run(lasso, iterations=5)
  assert result.code.dtype == jnp.float16
  np.testing.assert_allclose(result.code, solution(problem.d, problem.x, 0.25), atol=0.01)


def test_wrong_problems():
  conv = convolutional()
  with pytest.raises(ValueError, match=r"^dictionary: expected a dictionary whose signals are vectors"):
    WorkingSet().run(cscjax.Lasso(conv.dictionary, conv.x, BETA))
  problem = dense(0)
  with pytest.raises(ValueError, match=r"^joint_axes: expected None for WorkingSet, got \(-1,\)"):
    WorkingSet().run(cscjax.Lasso(problem.dictionary, problem.x, BETA, joint_axes=-1))
