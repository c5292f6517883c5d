"""The stability theorems on planted codes: measured errors are compared with the bounds, per layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import theory
from cscjax.dictionaries import CodedLayer, join

RULER = [0, 1, 4, 13, 28, 33, 47, 54, 64, 70, 72]  # a Golomb ruler: each distance occurs once
N = 480


def _taps(places):
  filters = np.zeros(max(places) + 1)
  filters[places] = 1 / np.sqrt(len(places))
  return filters[:, None, None]


def _chain(rng):
  """Two circular layers with mu = 1/11 and 1/3, well-separated nonzeros and code_1 = D_2 code_2."""
  dictionaries = [
    cscjax.ConvDictionary(jnp.asarray(_taps(places)), padding="CIRCULAR")
    for places in (RULER, RULER[:3])
  ]
  code = np.zeros((N, 1))
  code[rng.integers(20) + np.array([0, 160, 320])] = rng.choice([-1, 1], (3, 1)) * rng.uniform(
    0.95, 1.05, (3, 1)
  )
  codes = [dictionaries[1].synthesis(jnp.asarray(code)), jnp.asarray(code)]
  return dictionaries, dictionaries[0].synthesis(codes[0]), codes


def _dense(rng):
  """One layer with D = [I, Hadamard / 8], mu = 1/8."""
  hadamard = np.array([[1.0]])
  for _ in range(6):
    hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
  dictionary = cscjax.MatrixDictionary(jnp.asarray(np.hstack([np.eye(64), hadamard / 8])))
  code = np.zeros(128)
  code[rng.choice(128, 2, replace=False)] = rng.choice([-1, 1], 2) * rng.uniform(0.9, 1.1, 2)
  return [dictionary], dictionary.synthesis(jnp.asarray(code)), [jnp.asarray(code)]


def _noisy(rng, dictionary, x, level):
  noise = jnp.asarray(rng.normal(size=x.shape))
  return x + noise * (level / theory.patch_norm(dictionary, noise))


def _layers(dictionaries, x, codes):
  return list(map(CodedLayer, dictionaries, [x, *codes[:-1]], codes))


_stability = jax.jit(theory.layered_stability, static_argnames="solver")


def _check(bounds, dictionaries, found, codes, same_support):
  """Compares the errors of coefficients and of patches with the bounds."""
  for i, (bound, estimate, code) in enumerate(zip(bounds, found, codes, strict=True)):
    assert bound.recovery.holds
    error = estimate - code
    assert np.max(np.abs(error)) <= bound.recovery.error + 1e-9
    last = i + 1 == len(codes)
    local = jnp.linalg.norm(error) if last else theory.patch_norm(dictionaries[i + 1], error)
    assert local <= bound.error + 1e-9
    support = np.asarray(estimate != 0)
    assert not np.any(support & (code == 0))
    if same_support:
      np.testing.assert_array_equal(support, code != 0)


@jax.jit
def _threshold(dictionaries, x, betas):
  steps = [1.0] * len(betas)
  return cscjax.layered_thresholding(dictionaries, x, betas, steps=steps)


@pytest.mark.parametrize("make", [_chain, _dense])
@pytest.mark.parametrize("level", [0.0, 0.002, 0.01])
def test_thresholding(x64, make, level):
  for seed in range(3):
    rng = np.random.default_rng(seed)
    dictionaries, x, codes = make(rng)
    bounds = _stability(_layers(dictionaries, x, codes), level)
    bounds = bounds[:1]  # the error of the chain's first code is too large for its second layer
    beta = float(bounds[0].recovery.beta) * (1 + 1e-12)  # allows for rounding when there is no noise
    y = _noisy(rng, dictionaries[0], x, level)
    found = _threshold(dictionaries[:1], y, [beta])
    _check(bounds, dictionaries, found, codes[:1], same_support=True)


@pytest.mark.slow
def test_thresholding_through_two_layers(x64):
  """With orthogonal shifts the error is the threshold and the noise, small enough for two layers."""
  for seed in range(3):
    rng = np.random.default_rng(seed)
    dictionaries = [
      cscjax.ConvDictionary(jnp.asarray(_taps(places)), padding="CIRCULAR", stride=stride)
      for places, stride in (([0, 1, 2], 3), ([0, 2], 4))
    ]
    code = np.zeros((N // 12, 1))
    code[rng.choice(N // 12, 4, replace=False)] = rng.uniform(0.8, 1.2, (4, 1))
    codes = [dictionaries[1].synthesis(jnp.asarray(code)), jnp.asarray(code)]
    x = dictionaries[0].synthesis(codes[0])
    bounds = _stability(_layers(dictionaries, x, codes), 0.02)
    y = _noisy(rng, dictionaries[0], x, 0.02)
    found = _threshold(dictionaries, y, [bound.recovery.beta for bound in bounds])
    _check(bounds, dictionaries, found, codes, same_support=True)


@jax.jit
def _solve(dictionary, x, beta):
  return cscjax.fista(dictionary, x, beta, iterations=3000, step=1 / 12).code


@pytest.mark.slow
@pytest.mark.parametrize("make", [_chain, _dense])
@pytest.mark.parametrize("factor", [None, 3.0, 10.0])
def test_layered_bp(x64, make, factor):
  """beta = 4 eps as in the theorem, and other values >= 3 eps, which its proof allows."""
  for seed in range(3):
    rng = np.random.default_rng(seed)
    dictionaries, x, codes = make(rng)
    layers, level = _layers(dictionaries, x, codes), 0.004
    bounds = _stability(layers, level, solver="bp")
    np.testing.assert_allclose(bounds[0].recovery.error, 7.5 * level, rtol=1e-6)
    if factor is not None:
      betas = []
      for _ in layers:  # a layer's noise depends on the betas of the layers before it
        known = _stability(layers, level, solver="bp", betas=[*betas, *[1e9] * 2][: len(layers)])
        betas.append(factor * known[len(betas)].noise)
      bounds = _stability(layers, level, solver="bp", betas=betas)
    found, signal = [], _noisy(rng, dictionaries[0], x, level)
    for dictionary, bound in zip(dictionaries, bounds, strict=True):
      found.append(_solve(dictionary, signal, bound.recovery.beta))
      signal = found[-1]
    _check(bounds, dictionaries, found, codes, same_support=False)


def test_the_thresholding_bound_is_attained(x64):
  """For D = I, noise of the opposite sign and the threshold add up to the bound."""
  dictionary, code = cscjax.MatrixDictionary(jnp.eye(3)), jnp.array([1.0, 0, 0])
  (bound,) = _stability([CodedLayer(dictionary, code, code)], 0.1)
  noise = jnp.array([-0.1, 0, 0])
  found = cscjax.soft_threshold(code + noise, bound.recovery.beta)
  np.testing.assert_allclose(jnp.abs(found - code)[0], bound.recovery.error, rtol=1e-12)
  np.testing.assert_allclose(bound.recovery.error, 0.2, rtol=1e-12)


def test_conditions(x64):
  """Values just inside and outside the conditions, which give 0.5 <= beta < 0.7 for thresholding."""
  for beta, holds in [(0.49, False), (0.5, True), (0.69, True), (0.71, False), (None, True)]:
    found = theory.thresholding_recovery(0.1, 2, 1.0, 2.0, 0.1, beta)
    assert found.holds == holds
    assert np.isfinite(found.error) == holds
  np.testing.assert_allclose(theory.thresholding_recovery(0.1, 2, 1.0, 2.0, 0.1, 0.6).error, 0.9)
  for sparsity, holds in [(1, True), (2, True), (3, False)]:  # (1 + 1 / 0.15) / 3 = 2.56
    assert theory.bp_recovery(0.15, sparsity, 0.1).holds == holds
  assert not theory.bp_recovery(0.15, 2, 0.1, 0.29).holds
  assert theory.bp_recovery(0.0, 100, 0.1).holds


def test_bounds_are_invariant_to_scale(x64):
  """Multiplying the filters of layer 1 by 4 divides the codes, and so the errors of layer 2, by 4."""
  errors = []
  for scale in (1.0, 4.0):
    dictionaries, x, codes = _chain(np.random.default_rng(0))
    dictionaries[0] = dictionaries[0].replace(filters=scale * dictionaries[0].filters)
    layers = _layers(dictionaries, x, [code / scale for code in codes])
    for solver in ("bp", "thresholding"):
      bounds = _stability(layers, 0.004, solver=solver)
      errors.append(
        [float(b.recovery.error) * factor for b, factor in zip(bounds, (1, scale), strict=True)]
      )
  np.testing.assert_allclose(errors[:2], errors[2:], rtol=1e-6)


def test_misfit_is_noise(x64):
  """A difference of 0.003 between a signal and D code counts as that much noise."""
  rng = np.random.default_rng(1)
  dictionaries, x, codes = _chain(rng)
  off = _noisy(rng, dictionaries[0], x, 0.003)
  exact, inexact = (
    _stability(_layers(dictionaries, signal, codes), level, solver="bp")
    for signal, level in ((x, 0.005), (off, 0.002))
  )
  np.testing.assert_allclose(inexact[0].misfit, 0.003, rtol=1e-6)
  np.testing.assert_allclose(inexact[1].recovery.error, exact[1].recovery.error, rtol=1e-6)


@pytest.mark.slow
def test_batch_and_pooling(x64):
  """A batch gives the bounds of its signals. With pooling, each site counts its largest error."""
  rng = np.random.default_rng(2)
  first = cscjax.ConvDictionary(jnp.ones((1, 1, 1)))
  code = jnp.asarray((rng.random((2, 8, 1)) < 0.4) * 1.0).at[:, 0].set(1)
  pooled = code.reshape(2, 4, 2, 1).max(axis=2)
  second = cscjax.ConvDictionary(jnp.ones((2, 1, 1)))
  layers = [CodedLayer(first, code, code), CodedLayer(second, pooled, pooled)]
  found = _stability(layers, 0.01)
  for i in range(2):
    alone = _stability([CodedLayer(d, s[i], c[i]) for d, s, c in layers], 0.01)
    np.testing.assert_allclose(found[0].error[i], alone[0].error, rtol=1e-12)
    sites = max(np.count_nonzero(pooled[i, j : j + 2]) for j in range(4))
    np.testing.assert_allclose(alone[0].error, 0.02 * np.sqrt(sites), rtol=1e-12)


def test_augmented_dictionary(x64):
  """The bounds treat the parts of a code (a, z) over D = [I, F^T] as one code."""
  rng = np.random.default_rng(3)
  conv = cscjax.ConvDictionary(jnp.asarray(_taps(RULER)), padding="CIRCULAR")
  dictionary = cscjax.IdentityAugmented(conv)
  a, z = np.zeros((N, 1)), np.zeros((N, 1))
  a[130], z[[10, 250]] = 1.0, [[1.0], [-1.1]]
  code = (jnp.asarray(a), jnp.asarray(z))
  x = dictionary.synthesis(code)
  (bound,) = _stability([CodedLayer(dictionary, x, code)], 0.01, solver="bp")
  np.testing.assert_allclose(bound.coherence, 1 / np.sqrt(11), rtol=1e-12)
  assert bound.sparsity == 1
  found = _solve(dictionary, _noisy(rng, dictionary, x, 0.01), bound.recovery.beta)
  error = jax.tree.map(lambda f, c: f - c, found, code)
  assert np.max(np.abs(join(error))) <= bound.recovery.error
  assert np.linalg.norm(join(error)) <= bound.error


@pytest.mark.parametrize(
  ("name", "changes"),
  [
    ("solver", {"solver": "omp"}),
    ("noise", {"noise": -1.0}),
    ("noise", {"noise": np.ones(7)}),
    ("betas", {"betas": [1.0]}),
    ("betas", {"betas": 1.0}),
    ("betas", {"betas": [-1.0, 1.0]}),
    ("coherences", {"coherences": [np.ones(7), 1.0]}),
    ("coherences", {"coherences": ["word", 1.0]}),
  ],
)
def test_bad_input(name, changes):
  layers = _layers(*_chain(np.random.default_rng(0)))
  with pytest.raises(ValueError, match=name):
    theory.layered_stability(layers, **{"noise": 0.1, **changes})


def test_codes_with_another_batch_shape_are_rejected():
  dictionary = cscjax.MatrixDictionary(jnp.eye(3))
  with pytest.raises(ValueError, match="codes"):
    theory.layered_stability([CodedLayer(dictionary, jnp.ones((2, 3)), jnp.ones((1, 3)))], 0.1)


@pytest.mark.parametrize("name", ["coherence", "sparsity", "smallest", "largest", "noise", "beta"])
@pytest.mark.parametrize("value", ["word", np.ones(3)])
def test_recovery_names_the_argument_that_is_invalid(name, value):
  given = {"coherence": np.full(2, 0.1), "sparsity": np.ones(2), "smallest": 1.0, "largest": 1.0}
  given |= {"noise": 0.1, "beta": np.full(2, 0.2), name: value}
  named = "sparsity" if name == "coherence" and np.ndim(value) else name
  with pytest.raises(ValueError, match=f"^{named}: expected"):
    theory.thresholding_recovery(**given)
