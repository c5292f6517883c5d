"""MSD-CSC and MSDNet against NumPy."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.models import MSDCSC, MSDCSCLayer
from tests.models import networks, references
from tests.references import conv_matrix, lasso_objective, lipschitz

SIZE, WIDTH, DILATIONS = 5, 2, (1, 2)
COLLECTIONS = ["batch_stats"]


def small(**fields):
  defaults = {"depth": 3, "width": WIDTH, "dilations": DILATIONS, "dtype": jnp.result_type(float)}
  return MSDCSC(num_classes=3, **{**defaults, **fields})


def images(count=2, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(count, SIZE, SIZE, 1)))


@functools.cache
def prepared(**fields):
  """Returns variables in float64; the test must use the fixture x64."""
  return networks.initialized(small(**fields), images())


def codes_of(model, variables, x):
  return jax.jit(lambda v, x: model.apply(v, x, return_codes=True)[1])(variables, x)


def shapes(model, shape=(1, SIZE, SIZE, 1)):
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), x)


@pytest.mark.parametrize(("depth", "filters"), [(6, 143_424), (9, 339_552), (12, 618_624)])
def test_filters_of_table_3(depth, filters):
  params = shapes(MSDCSC(10, depth), (1, 32, 32, 3))["params"]
  assert networks.size_of(params, "filters") == filters


@pytest.mark.parametrize("pursuit", ["layer", "multilayer"])
@pytest.mark.parametrize("step", ["bounded", "free"])
def test_parameters_do_not_grow_with_unfolding(pursuit, step):
  base = networks.leaf_names(shapes(small())["params"])
  for unfolding in (1, 3):
    variables = shapes(small(unfolding=unfolding, pursuit=pursuit, step=step))
    new = set(networks.leaf_names(variables["params"])) - set(base)
    name = {"bounded": "step_logit", "free": "step"}[step]
    assert new == {f"['layer_{i}']['{name}']" for i in range(3)}
    assert len(variables["batch_stats"]["layer_0"]) == unfolding + 1


def pooled(code):
  """Returns a joined and max-pooled code, the input of the next layer."""
  joined = np.concatenate(code, axis=-1)
  size = -(-joined.shape[0] // 2)
  padded = np.full((2 * size, 2 * size, joined.shape[-1]), -np.inf)
  padded[: joined.shape[0], : joined.shape[1]] = joined
  return padded.reshape(size, 2, size, 2, -1).max(axis=(1, 3))


def dense_layer(variables, index, shape, unfolding):
  """Returns F^T, the thresholds and the step of a layer for an input [H, W, C], for NumPy."""
  name, positions = f"layer_{index}", shape[0] * shape[1]
  params, stats = variables["params"][name], variables["batch_stats"][name]
  f = conv_matrix(params["filters"], shape[:2], dilation=DILATIONS[index % 2])
  new = networks.thresholds_of(params, stats, unfolding + 1)
  thresholds = references.msd_thresholds(new, positions, shape[2], signed=1)
  conv = cscjax.ConvDictionary(params["filters"], dilation=DILATIONS[index % 2])
  step = networks.step_of(params, cscjax.IdentityAugmented(conv), shape) if unfolding else 0
  return f, thresholds, step


def test_msdnet_is_layered_thresholding(x64):
  """Proposition 1 with the explicit matrix of [I, F^T], where the biases are -beta."""
  model = small(norm=False)
  variables, x = prepared(norm=False), images()
  codes = codes_of(model, variables, x)
  for index in range(len(x)):
    signal = np.asarray(x[index])
    for i, (a, z) in enumerate(codes):
      params, positions = variables["params"][f"layer_{i}"], signal.shape[0] * signal.shape[1]
      channels = signal.shape[2]
      f = conv_matrix(params["filters"], signal.shape[:2], dilation=DILATIONS[i % 2])
      d = references.interleaved(f, positions, channels, WIDTH)
      bias = np.tile(np.r_[np.zeros(channels), params["bias"]], positions)
      analysed = d.T @ signal.ravel()
      is_kept = np.tile(np.arange(channels + WIDTH) < channels, positions)  # where beta = 0
      expected = np.where(is_kept, analysed, references.relu(analysed + bias))
      joined = np.concatenate([a[index], z[index]], axis=-1)
      np.testing.assert_allclose(np.ravel(joined), expected, atol=1e-12)
      signal = pooled((a[index], z[index]))


def test_layer_is_layered_thresholding(x64):
  """Agrees with `layered_thresholding`; the input must be nonnegative, as that function's codes are."""
  x = jnp.abs(images())
  layer = MSDCSCLayer(WIDTH, norm=False, dtype=jnp.float64)
  variables = networks.initialized(layer, x)
  params = variables["params"]
  d = cscjax.IdentityAugmented(cscjax.ConvDictionary(params["filters"]))
  expected = cscjax.layered_thresholding(
    [d], x, [(0.0, -params["bias"])], steps=[1.0], nonnegative=True
  )[0]
  for part, other in zip(jax.jit(layer.apply)(variables, x), expected, strict=True):
    np.testing.assert_allclose(part, other, atol=1e-12)


@pytest.mark.parametrize(("solver", "unfolding"), [("ista", 1), ("fista", 3)])
def test_layers_against_numpy(x64, solver, unfolding):
  variables, x = prepared(unfolding=unfolding), images()
  codes = codes_of(small(unfolding=unfolding, solver=solver), variables, x)
  for index in range(len(x)):
    signal = np.asarray(x[index])
    for i, code in enumerate(codes):
      f, thresholds, step = dense_layer(variables, i, signal.shape, unfolding)
      d = np.hstack([np.eye(f.shape[0]), f])
      expected = references.pursue(d, d, signal.ravel(), thresholds, step, solver == "fista")
      code = tuple(np.asarray(part[index]) for part in code)
      result = np.concatenate([part.ravel() for part in code])
      np.testing.assert_allclose(result, expected, atol=1e-11)
      signal = pooled(code)


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "unfolding"), [("ista", 1), ("fista", 3)])
def test_multilayer_against_numpy(x64, solver, unfolding):
  """At depth 6 two layers are coded together; this checks the first two, with joined codes."""
  fields = {"depth": 6, "pursuit": "multilayer", "unfolding": unfolding}
  variables, x = prepared(**fields), images()
  codes = codes_of(small(**fields, solver=solver), variables, x)[:2]
  ds, thresholds, steps = [], [], []
  for i in range(2):
    channels, positions = 1 + i * WIDTH, SIZE * SIZE
    f, apart, step = dense_layer(variables, i, (SIZE, SIZE, channels), unfolding)
    ds.append(references.interleaved(f, positions, channels, WIDTH))
    steps.append(step)

    def joined(shrink, positions=positions, channels=channels):
      def apply(v):
        parts = shrink(np.concatenate(references.split(v, positions, channels)))
        size = positions * channels
        return references.concatenate(parts[:size], parts[size:], positions)

      return apply

    thresholds.append([joined(shrink) for shrink in apart])
  for index in range(len(x)):
    expected = references.pursue_together(
      ds, ds, np.ravel(x[index]), thresholds, steps, solver == "fista"
    )
    for code, dense in zip(codes, expected, strict=True):
      result = np.concatenate([part[index] for part in code], axis=-1)
      np.testing.assert_allclose(np.ravel(result), dense, atol=1e-11)


def test_pursuits_agree_without_unfolding(x64):
  variables, x = prepared(depth=6), images()
  results = [
    jax.jit(small(depth=6, pursuit=pursuit).apply)(variables, x) for pursuit in ("layer", "multilayer")
  ]
  np.testing.assert_array_equal(*results)


@pytest.mark.slow
@pytest.mark.parametrize("pursuit", ["layer", "multilayer"])
def test_fista_differs_from_ista_at_two_unfoldings(x64, pursuit):
  x = images()
  for unfolding in (1, 2):
    fields = {"depth": 2, "pursuit": pursuit, "unfolding": unfolding}
    variables = prepared(**fields)
    both = [jax.jit(small(**fields, solver=solver).apply)(variables, x) for solver in ("ista", "fista")]
    difference = np.max(np.abs(both[0] - both[1]))
    assert difference == 0 if unfolding == 1 else difference > 1e-4


@functools.cache
def unfolded_layers(count):
  """Returns (params, x) -> the codes of a layer without norm at unfolding 0, ..., count - 1."""

  def codes(params, x):
    return [
      MSDCSCLayer(WIDTH, k, dilation=2, signed=1, norm=False, dtype=jnp.float64).apply(
        {"params": params}, x
      )
      for k in range(count)
    ]

  return jax.jit(codes)


@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  scale=st.floats(0.1, 3.0),
  beta=st.floats(0.0, 1.0),
  logit=st.floats(-2.0, 6.0),
)
def test_each_unfolding_lowers_the_objective(x64, seed, scale, beta, logit):
  """The objective is 1/2 ||x - a - F^T z||^2 + beta ||z||_1, with the threshold beta * step."""
  rng = np.random.default_rng(seed)
  filters = rng.normal(scale=scale, size=(3, 3, 2, WIDTH))
  x = rng.normal(size=(1, 4, 4, 2))
  x[..., 1] = np.maximum(x[..., 1], 0)  # one channel is a code of the layer below, the other the image
  f = conv_matrix(filters, (4, 4), dilation=2)
  params = {"filters": jnp.asarray(filters), "step_logit": jnp.asarray(logit)}
  conv = cscjax.ConvDictionary(params["filters"], dilation=2)
  step = networks.step_of(params, cscjax.IdentityAugmented(conv), x.shape[1:])
  assert step < 2 / (1 + lipschitz(f))
  params["bias"] = jnp.full(WIDTH, -beta * step)
  codes = unfolded_layers(5)(params, jnp.asarray(x))
  d = np.hstack([np.eye(x.size), f])
  weights = np.r_[np.zeros(x.size), np.full(d.shape[1] - x.size, beta)]
  objectives = [
    lasso_objective(d, x.ravel(), np.concatenate([np.ravel(a), np.ravel(z)]), weights) for a, z in codes
  ]
  differences = np.diff(objectives)
  assert np.all(differences <= 1e-12 * objectives[0])
  assert objectives[0] < 1e-6 or differences[0] < 0


def test_statistics_of_each_unfolding(x64):
  """In evaluation each N_k uses the running statistics of its own iteration."""
  fields = {"depth": 1, "unfolding": 2}
  x, variables = images(5), prepared(**fields)
  model = small(**fields)
  update = jax.jit(lambda v: model.apply(v, x, train=True, mutable=COLLECTIONS)[1])(variables)
  means = [update["batch_stats"]["layer_0"][f"norm_{k}"]["mean"] for k in range(3)]
  olds = [variables["batch_stats"]["layer_0"][f"norm_{k}"]["mean"] for k in range(3)]
  collected = [new - 0.9 * old for new, old in zip(means, olds, strict=True)]
  for k in (1, 2):
    assert np.max(np.abs(collected[k] - collected[k - 1])) > 1e-5
  moved = jax.tree.map(lambda leaf: leaf, variables)
  moved["batch_stats"]["layer_0"]["norm_1"]["mean"] = olds[1] + 1
  run = jax.jit(model.apply)
  assert np.max(np.abs(run(moved, x) - run(variables, x))) > 1e-3


@pytest.mark.slow
def test_evaluation_does_not_depend_on_the_batch(x64):
  variables, x = prepared(unfolding=2), images(100)
  run = jax.jit(small(unfolding=2).apply)
  np.testing.assert_allclose(run(variables, x[7:8]), run(variables, x)[7:8], rtol=1e-10)


def test_bfloat16():
  x = images(4).astype(jnp.float32)
  fields = {"depth": 2, "unfolding": 1}
  variables = networks.initialized(small(**fields), x)
  logits = jax.jit(small(**fields, dtype=jnp.bfloat16).apply)(variables, x)
  expected = jax.jit(small(**fields).apply)(variables, x)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, expected, atol=0.1 * float(jnp.max(jnp.abs(expected))))


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("depth", 0),
    ("width", -1),
    ("dilations", ()),
    ("dilations", (1, 0)),
    ("unfolding", -1),
    ("solver", "omp"),
    ("pursuit", "lista"),
    ("step", "1/L"),
  ],
)
def test_fields(field, value):
  with pytest.raises(ValueError, match=field):
    MSDCSC(10, **{field: value})


def test_axes():
  with pytest.raises(ValueError, match="x: "):
    shapes(small(), (SIZE, SIZE))
