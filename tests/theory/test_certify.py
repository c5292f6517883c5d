"""Certificates of dictionaries and of networks: values, printed table and errors."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import theory
from cscjax.dictionaries import CodedLayer
from tests import references
from tests.theory.lasso_reference import SMALL, DenseLasso

D = np.hstack(
  [np.eye(16), np.kron(*[np.kron([[1, 1], [1, -1]], [[1, 1], [1, -1]])] * 2) / 4]
)  # mu = 1/4


def _two_layers():
  dictionaries = [cscjax.MatrixDictionary(jnp.asarray(d)) for d in (D, np.eye(32))]
  code = jnp.zeros((2, 32)).at[0, 3].set(2.0).at[1, [3, 4]].set(1.0)
  return dictionaries, dictionaries[0].synthesis(code), [code, code]


def test_rows(x64):
  dictionaries, x, codes = _two_layers()
  certificate = theory.certify(dictionaries, x, 0.01, codes=codes)
  first, second = certificate.rows
  np.testing.assert_allclose(first.coherence, references.coherence(D), rtol=1e-12)
  assert (first.layer, first.sparsity, first.unique) == (1, 2, True)  # the denser of the two signals
  np.testing.assert_allclose(first.uniqueness_bound, 2.5, rtol=1e-12)
  np.testing.assert_allclose(first.misfit, 0, atol=1e-12)
  # Two coefficients 1: beta = 2 / 4 + 0.01, and the other coefficient and noise add 1 / 4 + 0.01.
  # One coefficient 2: beta = 2 / 4 + 0.01, and noise adds 0.01.
  errors = [0.5 + 0.01 + 0.25 + 0.01, 0.5 + 0.01 + 0.01]
  np.testing.assert_allclose(first.thresholding_error, max(errors[0] * np.sqrt(2), errors[1]), rtol=1e-9)
  assert first.bp_error == np.inf  # 2 >= (1 + 4) / 3
  assert first.failed == ("bp",)
  assert second.failed == ("thresholding", "bp")  # the error of the first layer is too large
  assert (second.coherence, second.uniqueness_bound) == (0, np.inf)


def test_table(x64):
  dictionaries, x, codes = _two_layers()
  certificate = theory.certify(dictionaries, x, 0.01, codes=codes)
  lines = str(certificate).splitlines()
  assert repr(certificate) == str(certificate)
  assert lines[0] == "noise 0.01"
  assert len({len(line) for line in lines[1:4]}) == 1
  assert lines[1].split()[:5] == ["layer", "mu", "stripe", "bound", "unique"]
  assert lines[2].split()[:5] == ["1", "0.250", "2", "2.50", "yes"]
  assert lines[4:] == [
    "layer 1: strongest condition for recovery: exact recovery",
    "layer 2: strongest condition for recovery: coherence",
    "layer 1: bp needs 3 s mu < 1 + mu: 1.5 vs 1.25",
    "layer 2: thresholding needs beta < |code|_min - (s - 1) mu |code|_max - noise: 1.09 vs -0.0889",
    "layer 2: bp needs noise < inf: inf vs inf",
  ]


def test_the_planted_code_is_certified_at_given_penalties(x64):
  """At the same penalty, codes computed by a pursuit are not: their residual counts as noise."""
  dictionaries, x, codes = _two_layers()
  first, x, code = dictionaries[:1], x[1:], codes[0][1:].at[0, 4].set(0)
  x = first[0].synthesis(code)
  planted = theory.certify(first, x, 0.01, betas=[0.3], codes=[code])
  assert planted.rows[0].failed == ()
  assert planted.rows[0].conditions == ()
  np.testing.assert_allclose(planted.rows[0].bp_error, 1.5 * 0.31, rtol=1e-12)
  np.testing.assert_allclose(planted.rows[0].thresholding_error, 0.31, rtol=1e-12)
  for solver in ("thresholding", "bp"):
    made = theory.certify(first, x, 0.01, betas=[0.3], solver=solver).rows[0]
    assert made.failed == ("thresholding", "bp")
    (leak, noise) = made.conditions
    assert (leak.statement, noise.statement) == ("thresholding", "bp")
    np.testing.assert_allclose(
      noise.left, 3 * (0.3 + 0.01), rtol=1e-6
    )  # the residual of x has norm beta
    np.testing.assert_allclose([noise.right, leak.right], 0.3, rtol=1e-12)
    np.testing.assert_allclose(leak.left, 0.7 / 4 + 0.31, rtol=1e-6)


def test_failed_conditions_show_the_worst_signal(x64):
  """Of codes with one, two and three nonzeros, the last one misses its bounds by most."""
  dictionary = cscjax.MatrixDictionary(jnp.asarray(D))
  code = jnp.zeros((3, 32)).at[0, 1].set(1).at[1, :2].set(1).at[2, :3].set(1)
  row = theory.certify([dictionary], dictionary.synthesis(code), 0.01, codes=[code]).rows[0]
  sides = {(c.statement, c.text): (c.left, c.right) for c in row.conditions}
  np.testing.assert_allclose(sides["uniqueness", "stripe < bound"], (3, 2.5))
  np.testing.assert_allclose(sides["bp", "3 s mu < 1 + mu"], (2.25, 1.25))


def test_computes_missing_codes(x64):
  dictionaries, x, _ = _two_layers()
  betas = [0.1, 0.2]
  codes = cscjax.layered_thresholding(dictionaries, x, betas, steps=[1.0, 1.0])
  made = theory.certify(dictionaries, x, 0.0, betas=betas)
  assert made == theory.certify(dictionaries, x, 0.0, betas=betas, codes=codes)
  assert all(row.stability_error is None for row in made.rows)
  assert made.rows[0].misfit > 0


@pytest.mark.slow
def test_missing_codes_of_layered_bp_are_exact(x64):
  """The reference is dense; 100 iterations of FISTA in each layer are far from it."""
  rng = np.random.default_rng(0)
  matrices, betas = [rng.normal(size=(16, 24)), rng.normal(size=(24, 36))], [0.5, 0.2]
  dictionaries = [cscjax.MatrixDictionary(jnp.asarray(d)) for d in matrices]
  x = matrices[0] @ (rng.normal(size=24) * (rng.random(24) < 0.3))
  signal, misfits = x, []
  for d, beta in zip(matrices, betas, strict=True):
    problem = DenseLasso(
      d, np.full(d.shape[1], beta), np.zeros(d.shape[1], bool), np.ones(len(d)), np.zeros(d.shape[1])
    )
    code, violation = problem.solve(signal)
    assert violation <= SMALL
    misfits.append(np.linalg.norm(signal - d @ code))
    signal = code
  rows = theory.certify(dictionaries, x, 1e-6, betas=betas, solver="bp").rows
  np.testing.assert_allclose([row.misfit for row in rows], misfits, rtol=1e-8)
  codes = cscjax.layered_bp(dictionaries, x, betas).codes
  given = theory.certify(dictionaries, x, 1e-6, betas=betas, codes=codes, solver="bp").rows
  for row, other in zip(rows, given, strict=True):
    assert row.stability_error < 1e-3
    assert other.stability_error > row.stability_error + np.abs(other.misfit - row.misfit) / 10


def _solved(u, beta, x):
  """The solution of the Lasso over unit atoms."""
  count = u.shape[1]
  problem = DenseLasso(u, np.full(count, beta), np.zeros(count, bool), np.ones(len(x)), np.zeros(count))
  code, violation = problem.solve(x)
  return code if violation <= SMALL else None


@pytest.mark.slow
def test_planted_codes_are_recovered_by_layered_bp(x64):
  """For atoms of any norm and noise in the directions of coefficients, by dense algebra."""
  pair = np.array([[1.0, 0.6], [0.0, 0.8]])
  units, names, tried = (D, np.kron(np.eye(16), pair)), set(), 0
  for seed in range(40):
    rng = np.random.default_rng(seed)
    norms = rng.uniform(0.5, 2, (2, 32))
    dictionaries = [
      cscjax.MatrixDictionary(jnp.asarray(u * n)) for u, n in zip(units, norms, strict=True)
    ]
    second = np.zeros(32)
    second[rng.choice(32, rng.integers(1, 3), replace=False)] = rng.uniform(1, 2)
    codes = [units[1] @ (norms[1] * second), second]
    x, noise, betas = D @ (norms[0] * codes[0]), 10 ** rng.uniform(-4, -2), rng.uniform(0.01, 0.2, 2)
    rows = theory.certify(dictionaries, x, noise, betas=betas, codes=list(map(jnp.asarray, codes))).rows
    alone = theory.recovery(dictionaries[0], jnp.asarray(codes[0]), noise=noise, beta=betas[0])
    assert rows[0].recovery == alone.strongest
    for direction in (*np.linalg.pinv(D[:, codes[0] != 0]), rng.normal(size=16)):
      signal = x + noise * direction / np.linalg.norm(direction)
      for u, n, beta, code, row in zip(units, norms, betas, codes, rows, strict=True):
        found = _solved(u, beta, signal)
        if found is None or row.recovery is None:
          assert row.recovery_error == np.inf or found is None
          break
        assert np.linalg.norm(found / n - code) <= row.recovery_error + 1e-8
        tried += row.layer == 2
        names.add(row.recovery)
        signal = found / n
  assert tried >= 40
  assert {"exact recovery", "dual certificate"} <= names


def test_why_a_planted_code_is_not_recovered(x64):
  """The condition that fails, for one code; codes that do not explain the signal are not planted."""
  atoms = [[1.0, 0.0, 0.0, 0.6], [0.0, 1.0, 0.0, 0.6], [0.0, 0.0, 1.0, np.sqrt(0.28)]]
  first, code = [cscjax.MatrixDictionary(jnp.asarray(atoms))], jnp.array([2.0, -1.0, 0.0, 0.0])
  x = first[0].synthesis(code)
  for beta, text, sides in (
    (0.0, "0 < beta", (0, 0)),
    (0.04, "smallest beta of the signs < beta", (0.1, 0.04)),
    (1.05, "beta < largest beta of the signs", (1.05, 0.9)),
  ):
    row = theory.certify(first, x, 0.1, betas=[beta], codes=[code]).rows[0]
    assert (row.recovery, row.recovery_error) == (None, np.inf)
    (failed,) = [c for c in row.conditions if c.statement == "recovery"]
    assert failed.text == text
    np.testing.assert_allclose((failed.left, failed.right), sides)
  dependent = cscjax.MatrixDictionary(jnp.asarray([[1.0, 1.0], [0.0, 0.0]]))
  row = theory.certify([dependent], [2.0, 0.0], 0.1, codes=[jnp.ones(2)]).rows[0]
  assert row.conditions[-1].text == "max |u_j^T (U_S^+)^T sign| < 1"
  second = [*first, cscjax.MatrixDictionary(jnp.eye(4))]
  rows = theory.certify(second, x, 10.0, codes=[code, code]).rows
  assert rows[0].conditions[-1].text == "smallest beta < largest beta of the signs"
  assert rows[1].conditions[-1].text == "noise < inf"
  other = theory.certify(first, x + 0.1, 0.1, codes=[code]).rows[0]
  assert other.recovery_error is None
  assert "recovery" not in other.held + other.failed


def test_a_network(x64):
  dictionaries, x, codes = _two_layers()

  class Network:
    def pursuit_layers(self, x):
      return list(map(CodedLayer, dictionaries, [x, codes[0]], codes))

  assert isinstance(Network(), theory.Pursuable)
  found = theory.certify(Network(), x, 0.01).rows  # the codes of a network are not planted
  rows = theory.certify(dictionaries, x, 0.01, codes=codes).rows
  unknown = {"recovery": None, "recovery_error": None}
  assert found == tuple(dataclasses.replace(row, **unknown) for row in rows)
  with pytest.raises(ValueError, match="codes"):
    theory.certify(Network(), x, 0.01, codes=codes)


@pytest.mark.parametrize(
  ("name", "changes"),
  [
    ("codes", {"codes": None}),
    ("codes", {"codes": [jnp.zeros((2, 32))]}),
    ("betas", {"betas": [0.1]}),
    ("noise", {"noise": -1.0}),
    ("solver", {"solver": "omp"}),
    ("betas", {"betas": [jnp.ones(32), 0.1]}),
    ("betas", {"betas": [-1.0, 0.1]}),
    ("betas", {"betas": [float("nan"), 0.1]}),
    ("betas", {"betas": 0.1}),
    ("betas", {"betas": ["a", "b"]}),
    ("betas", {"betas": [cscjax.relative(0.1), 0.1], "codes": None, "solver": "bp"}),
    ("betas: expected one number", {"betas": [jnp.ones(32), 0.1], "codes": None, "solver": "bp"}),
    ("noise", {"noise": float("nan")}),
    ("code", {"codes": [None, None]}),
    ("code", {"codes": [(jnp.zeros((2, 16)), jnp.zeros((2, 32)))] * 2}),
    ("code", {"codes": [[0.0] * 32, [0.0] * 32]}),
    ("dictionary", {"dictionaries": [None, None]}),
    ("x", {"x": jnp.ones((0, 16)), "codes": [jnp.ones((0, 32))] * 2}),
  ],
)
def test_bad_input(name, changes):
  dictionaries, x, codes = _two_layers()
  given = {"dictionaries": dictionaries, "x": x, "noise": 0.1, "codes": codes}
  with pytest.raises(ValueError, match=name):
    theory.certify(**{**given, **changes})
