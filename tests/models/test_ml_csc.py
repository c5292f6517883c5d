"""ML-CSC and its variants against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.dictionaries import ConvDictionary
from cscjax.models import MLCSC, CSCLayer, create_model
from tests.models import networks, references
from tests.references import conv_matrix, lasso_objective, lipschitz

SIZE, WIDTHS = 8, (2, 4, 8)  # image size, and widths of the unfolded layers


def small(**fields):
  return MLCSC(num_classes=3, width=2, **{"dtype": jnp.result_type(float), **fields})


def images(count=2, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(count, SIZE, SIZE, 1)))


@functools.cache
def prepared(**fields):
  """Returns variables in float64; the test must use the fixture x64."""
  return networks.initialized(small(**fields), images())


def codes_of(model, variables, x):
  return jax.jit(lambda v, x: model.apply(v, x, return_codes=True)[1])(variables, x)


def shapes(model, x):
  return jax.eval_shape(model.init, jax.random.key(0), x)


def test_filters_of_table_3():
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  params = shapes(MLCSC(10), x)["params"]
  assert networks.size_of(params, "filters") == 3_999_232
  codes = jax.eval_shape(
    lambda x: MLCSC(10).init_with_output(jax.random.key(0), x, return_codes=True)[0][1], x
  )
  assert [code.shape[1:] for code in codes] == [
    (16, 16, 32),
    (8, 8, 64),
    (4, 4, 128),
    (4, 4, 256),
    (4, 4, 512),
    (2, 2, 512),
  ]


@pytest.mark.parametrize("pursuit", ["multilayer", "layer"])
@pytest.mark.parametrize("step", ["bounded", "free"])
def test_parameters_do_not_grow_with_unfolding(pursuit, step):
  x = jnp.zeros((1, SIZE, SIZE, 1))
  base = networks.leaf_names(shapes(small(), x)["params"])
  for unfolding in (1, 3):
    variables = shapes(small(unfolding=unfolding, pursuit=pursuit, step=step), x)
    new = set(networks.leaf_names(variables["params"])) - set(base)
    name = {"bounded": "step_logit", "free": "step"}[step]
    assert new == {f"['layer_{i}']['{name}']" for i in range(3)}
    assert len(variables["batch_stats"]["layer_0"]) == unfolding + 1
    assert len(variables["batch_stats"]["layer_3"]) == 1


def dense_parts(variables, count, untied=False):
  """Returns D_i, the analysis, the thresholds and the step of each unfolded layer, for NumPy."""
  parts, spatial = [], SIZE
  for i in range(3):
    name = f"layer_{i}"
    params = variables["params"][name]
    geometry = {"stride": 2, "padding": ((1, 1), (1, 1))}
    d = conv_matrix(params["filters"], (spatial, spatial), **geometry)
    analysis = d
    if untied:
      analysis = conv_matrix(params["filters_analysis"], (spatial, spatial), **geometry)
    thresholds = networks.thresholds_of(params, variables["batch_stats"][name], count)
    dictionary = ConvDictionary(params["filters"], **geometry)
    shape = (spatial, spatial, params["filters"].shape[-2])
    step = networks.step_of(params, dictionary, shape) if count > 1 else 0
    parts.append((d, analysis, thresholds, step))
    spatial //= 2
  return tuple(zip(*parts, strict=True))


@pytest.mark.parametrize(
  ("pursuit", "solver", "unfolding"),
  [
    ("multilayer", "ista", 0),
    pytest.param("multilayer", "ista", 1, marks=pytest.mark.slow),
    ("multilayer", "fista", 3),
    pytest.param("layer", "ista", 1, marks=pytest.mark.slow),
    ("layer", "fista", 3),
    ("lista", "ista", 2),
  ],
)
def test_pursuits_against_numpy(x64, pursuit, solver, unfolding):
  model = small(pursuit=pursuit, solver=solver, unfolding=unfolding)
  x = images()
  variables = jax.tree.map(lambda leaf: leaf, prepared(pursuit=pursuit, unfolding=unfolding))
  if pursuit == "lista":
    key = jax.random.key(5)
    for i in range(3):
      encoder = variables["params"][f"layer_{i}"]["filters_analysis"]
      noise = 0.1 * jax.random.normal(key, encoder.shape)
      variables["params"][f"layer_{i}"]["filters_analysis"] = encoder + noise
  ds, analyses, thresholds, steps = dense_parts(variables, unfolding + 1, pursuit == "lista")
  accelerate = solver == "fista"
  codes = codes_of(model, variables, x)
  for index, image in enumerate(np.asarray(x)):
    if pursuit == "layer":
      expected, signal = [], image.ravel()
      for d, shrinks, step in zip(ds, thresholds, steps, strict=True):
        signal = references.pursue(d, d, signal, shrinks, step, accelerate)
        expected.append(signal)
    else:
      expected = references.pursue_together(ds, analyses, image.ravel(), thresholds, steps, accelerate)
    for code, dense in zip(codes[:3], expected, strict=True):
      np.testing.assert_allclose(np.ravel(code[index]), dense, atol=1e-11)


def test_feed_forward_against_numpy(x64):
  """Checks all layers and the classifier; the maps of the last layers are too small for pooling."""
  variables, x = prepared(), images()
  logits, codes = jax.jit(lambda v: small().apply(v, x, return_codes=True))(variables)
  params, stats = variables["params"], variables["batch_stats"]
  for index in range(len(x)):
    signal = np.ravel(codes[2][index])
    for i in (3, 4, 5):
      d = conv_matrix(params[f"layer_{i}"]["filters"], (1, 1))
      norm = networks.norm_of(params[f"layer_{i}"], stats[f"layer_{i}"])
      signal = references.relu(norm(d.T @ signal))
      np.testing.assert_allclose(np.ravel(codes[i][index]), signal, atol=1e-12)
    kernel, bias = params["classifier"]["kernel"], params["classifier"]["bias"]
    np.testing.assert_allclose(logits[index], signal @ np.asarray(kernel) + bias, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("pursuit", ["multilayer", "layer"])
def test_fista_differs_from_ista_at_two_unfoldings(x64, pursuit):
  x = images()
  for unfolding in (1, 2):
    variables = prepared(pursuit=pursuit, unfolding=unfolding)
    both = [
      codes_of(small(pursuit=pursuit, unfolding=unfolding, solver=s), variables, x)[2]
      for s in ("ista", "fista")
    ]
    difference = np.max(np.abs(both[0] - both[1]))
    assert difference == 0 if unfolding == 1 else difference > 1e-3


@pytest.mark.slow
def test_lista_starts_as_ista(x64):
  key, x = jax.random.key(0), images()
  variables = jax.jit(small(pursuit="lista", unfolding=2).init)(key, x)
  tied = jax.tree.map(lambda leaf: leaf, variables)
  for i in range(3):
    del tied["params"][f"layer_{i}"]["filters_analysis"]
  codes = codes_of(small(pursuit="lista", unfolding=2), variables, x)
  expected = codes_of(small(unfolding=2), tied, x)
  for code, other in zip(codes, expected, strict=True):
    np.testing.assert_allclose(code, other, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_each_unfolding_lowers_the_objective(x64, seed):
  """A single layer without norm, with a step of about 1/L and the threshold beta times the step."""
  rng = np.random.default_rng(seed)
  x, beta = jnp.asarray(rng.normal(size=(1, 6, 6, 2))), 0.3
  variables = jax.jit(CSCLayer(3, 1, norm=False, stride=2).init)(jax.random.key(seed), x)
  d = conv_matrix(variables["params"]["filters"], (6, 6), stride=2)
  dictionary = ConvDictionary(variables["params"]["filters"], stride=2)
  step = networks.step_of(variables["params"], dictionary, (6, 6, 2))
  assert step < 1 / lipschitz(d)
  variables["params"]["bias"] = jnp.full(3, -beta * step)
  objectives = []
  for unfolding in range(6):
    layer = CSCLayer(3, unfolding, norm=False, stride=2, dtype=jnp.float64)
    code = jax.jit(layer.apply)(variables, x)
    objectives.append(lasso_objective(d, np.ravel(x), np.ravel(code), beta))
  assert np.all(np.diff(objectives) < 0)


@pytest.mark.slow
def test_statistics_of_each_unfolding(x64):
  """Each iteration has its own running statistics, which move by a tenth towards those of the batch."""
  x = images(5)
  variables = prepared(pursuit="multilayer", unfolding=2)
  update = jax.jit(lambda v: small(unfolding=2).apply(v, x, train=True, mutable=["batch_stats"])[1])(
    variables
  )
  for i in range(3):
    means = [
      update["batch_stats"][f"layer_{i}"][f"norm_{k}"]["mean"]
      - 0.9 * variables["batch_stats"][f"layer_{i}"][f"norm_{k}"]["mean"]
      for k in range(3)
    ]
    for k in (1, 2):
      assert np.max(np.abs(means[k] - means[k - 1])) > 1e-5
  parameters = variables["params"]["layer_0"]["filters"]
  d = conv_matrix(parameters, (SIZE, SIZE), stride=2, padding=((1, 1), (1, 1)))
  first = (np.asarray(x).reshape(5, -1) @ d).reshape(-1, WIDTHS[0])
  old = variables["batch_stats"]["layer_0"]["norm_0"]
  new = update["batch_stats"]["layer_0"]["norm_0"]
  np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * first.mean(0), atol=1e-12)
  np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * first.var(0), atol=1e-12)


@pytest.mark.slow
def test_evaluation_does_not_depend_on_the_batch(x64):
  variables, x = prepared(pursuit="multilayer", unfolding=2), images(100)
  run = jax.jit(small(unfolding=2).apply)
  np.testing.assert_allclose(run(variables, x[7:8]), run(variables, x)[7:8], rtol=1e-10)


@pytest.mark.slow
def test_bfloat16():
  x = images(4).astype(jnp.float32)
  model = small(unfolding=1)
  variables = networks.initialized(model, x)
  logits = jax.jit(small(unfolding=1, dtype=jnp.bfloat16).apply)(variables, x)
  expected = jax.jit(model.apply)(variables, x)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, expected, atol=0.1 * float(jnp.max(jnp.abs(expected))))


def test_one_dimensional():
  x = jnp.zeros((2, 100, 1))
  logits = jax.eval_shape(lambda x: small(unfolding=1).init_with_output(jax.random.key(0), x)[0], x)
  assert logits.shape == (2, 3)


@pytest.mark.parametrize(
  ("field", "value"),
  [("width", 0), ("unfolding", -1), ("solver", "omp"), ("pursuit", "bp"), ("step", "0.1")],
)
def test_fields(field, value):
  with pytest.raises(ValueError, match=field):
    MLCSC(10, **{field: value})


def test_too_small():
  with pytest.raises(ValueError, match="x: "):
    shapes(small(), jnp.zeros((1, 7, 8, 1)))


@pytest.mark.slow
def test_gradient_where_values_are_computed_twice(x64):
  """Values that are computed twice can be rounded differently, but max-pooling must lose no gradient."""
  model = create_model("feed_forward", num_classes=5, width=2, dtype=jnp.float64)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(4, 16, 16, 3)))
  variables = networks.initialized(model, x)
  params, state = variables.pop("params"), variables

  @jax.jit
  def loss(params):
    logits, _ = model.apply({"params": params, **state}, x, train=True, mutable=list(state))
    return jnp.sum(jnp.sin(logits))

  direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
  gradient = jax.grad(loss)(params)
  along = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
  ahead, behind = (
    loss(jax.tree.map(lambda p, d, h=h: p + h * d, params, direction)) for h in (1e-6, -1e-6)
  )
  np.testing.assert_allclose(along, (ahead - behind) / 2e-6, rtol=1e-5)
