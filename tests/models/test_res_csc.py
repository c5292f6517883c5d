"""The Res-CSC family against NumPy, and identities between its rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax.models import ResCSC, ResCSCBlock
from cscjax.models._res_csc_block import RULES, shortcut
from cscjax.solvers._unrolled import initialized_thresholding
from tests.models import networks, references
from tests.references import conv_matrix, lipschitz

WITHOUT_C = ("plain", "resnet")


def small(**fields):
  return ResCSC(num_classes=3, width=4, **{"depth": 20, "dtype": jnp.result_type(float), **fields})


def images(count=3, size=8, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(count, size, size, 2)))


@functools.cache
def prepared():
  """Returns variables of `small()` for `images()` in float64; the test must use the fixture x64."""
  return networks.initialized(small(), images())


@pytest.mark.parametrize(
  ("depth", "parameters"),
  [(20, 269722), (32, 464154), (44, 658586), (56, 853018), (110, 1727962), (218, 3477850)],
)
def test_parameters_of_table_2(depth, parameters):
  """All four rules have 0.27, ..., 3.5 million parameters, plus one scalar per block that trains c."""
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  for rule in RULES:
    params = jax.eval_shape(ResCSC(10, depth, rule=rule).init, jax.random.key(0), x)["params"]
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    scalars = networks.size_of(params, "step_logit")
    assert total - scalars == parameters
    assert scalars == (0 if rule in WITHOUT_C else (depth - 2) // 2)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stride", [1, 2])
def test_block_against_numpy(x64, rule, stride):
  channels, features, size = 3, 3 * stride, 6
  block = ResCSCBlock(features, stride, rule, dtype=jnp.float64)
  x = jnp.asarray(np.random.default_rng(1).normal(size=(2, size, size, channels)))
  variables = networks.initialized(block, x)
  params, stats = variables["params"], variables["batch_stats"]
  d1 = conv_matrix(params["filters_1"], (size, size), stride=stride, padding=((1, 1), (1, 1)))
  small_size = -(-size // stride)
  d2 = conv_matrix(params["filters_2"], (small_size, small_size))
  second = cscjax.ConvDictionary(params["filters_2"])
  shape = (small_size, small_size, features)
  c = 0.0 if rule in WITHOUT_C else -networks.step_of(params, second, shape)
  norms = [networks.norm_of(params[n], stats[n]) for n in ("norm_1", "norm_2")]
  result = jax.jit(block.apply)(variables, x)
  for image, code in zip(np.asarray(x), result, strict=True):
    skip = np.zeros((small_size, small_size, features))
    skip[:, :, :channels] = image[::stride, ::stride]
    keep = rule in ("resnet", "res_csc")
    expected = references.block(d1, d2, image.ravel(), skip.ravel(), norms, c, keep)
    np.testing.assert_allclose(np.ravel(code), expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "without"), [("res_csc", "resnet"), ("simplified", "plain")])
def test_without_the_correction(x64, rule, without):
  x = images()
  model = small(rule=without, depth=14)
  variables = networks.initialized(model, x)
  expected, codes = jax.jit(lambda v: model.apply(v, x, return_codes=True))(variables)
  other = small(rule=rule, c=0.0, depth=14)
  logits, other_codes = jax.jit(lambda v: other.apply(v, x, return_codes=True))(variables)
  np.testing.assert_allclose(logits, expected, rtol=1e-12)
  assert len(codes) == len(other_codes) == 6
  for code, other_code in zip(codes, other_codes, strict=True):
    np.testing.assert_allclose(other_code, code, rtol=1e-12, atol=1e-14)


def test_terms_of_the_rule(x64):
  """The full rule is an ISTA step; without X_prev it is "simplified", without both terms "plain"."""
  rng = np.random.default_rng(0)
  filters = jnp.asarray(rng.normal(size=(3, 3, 2, 2)))
  x, init = jnp.asarray(rng.normal(size=(2, 1, 6, 6, 2)))
  d = cscjax.ConvDictionary(filters)
  scale = lipschitz(conv_matrix(filters, (6, 6)))
  scaled = d.replace(filters=filters / scale)

  def code(**terms):
    return initialized_thresholding(scaled, x, init, lambda z: z - 0.1, **terms)

  full, simplified = code(c=-scale), code(c=-scale, keep=False)
  np.testing.assert_allclose(full - init, simplified, atol=1e-12)
  plain = initialized_thresholding(scaled, x, init, jax.nn.relu, keep=False)
  np.testing.assert_allclose(
    plain, cscjax.layered_thresholding([scaled], x, [0.0], steps=[1.0], nonnegative=True)[0], atol=1e-12
  )
  beta = 0.3
  step = initialized_thresholding(
    scaled, x, init, lambda z: cscjax.soft_threshold(z, beta / scale), c=-scale
  )
  ista = cscjax.ista(d, x, beta, iterations=1, step=1 / scale, init=init).code
  np.testing.assert_allclose(step, ista, atol=1e-12)


def test_one_synthesis_more_than_resnet():
  """The correction needs no second analysis, and L needs no convolution."""
  x = jnp.zeros((1, 8, 8, 4))
  counts = {}
  for rule in ("resnet", "res_csc"):
    block = ResCSCBlock(4, rule=rule)
    variables = jax.jit(block.init)(jax.random.key(0), x)
    counts[rule] = networks.counted(block.apply, variables, x)
  assert counts["resnet"] == {"csc_conv": 2}
  assert counts["res_csc"] == {"csc_conv": 2, "csc_conv_input_transpose": 1}


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("rule", RULES)
def test_transition_is_aligned_with_its_shortcut(rule, size):
  """An impulse at a pixel that the shortcut keeps has its response at the same output pixel."""
  block = ResCSCBlock(2, 2, rule, norm=False, c=-1.0 if RULES[rule].correct else None)
  for place in [(0, 0), (2, 4), (4, 2)]:
    x = jnp.zeros((1, size, size, 1)).at[(0, *place)].set(1.0)
    params = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(0), x)["params"])
    params["filters_1"] = params["filters_1"].at[1, 1].set(1.0)
    _, sown = block.apply({"params": params}, x, mutable=["intermediates"])
    (code,) = sown["intermediates"]["code"]
    kept = shortcut(x, 2, 2)
    assert kept[0, place[0] // 2, place[1] // 2, 0] == 1
    np.testing.assert_array_equal(code[..., 0], kept[..., 0])


def test_shortcut():
  x = jnp.arange(1.0, 1 + 2 * 5 * 5 * 3).reshape(2, 5, 5, 3)
  result = shortcut(x, 6, 2)
  np.testing.assert_array_equal(result[..., :3], x[:, ::2, ::2])
  assert result.shape == (2, 3, 3, 6)
  assert not np.any(result[..., 3:])
  np.testing.assert_array_equal(shortcut(x, 3, 1), x)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_scan_is_the_blocks_one_by_one(x64, train):
  model, x, variables = small(), images(), prepared()
  collections = ["batch_stats"]
  (_, codes), updates = jax.jit(
    lambda v: model.apply(v, x, train=train, return_codes=True, mutable=collections)
  )(variables)
  for stage, inputs, outputs in ((1, codes[3], codes[4:6]), (2, codes[6], codes[7:9])):
    name, features = f"stage_{stage}", 4 * 2**stage
    block = ResCSCBlock(features, dtype=jnp.float64)
    run = jax.jit(lambda v, z, block=block: block.apply(v, z, train=train, mutable=collections))
    for i, expected in enumerate(outputs):
      of_block = {k: jax.tree.map(lambda a, i=i: a[i], v[name]) for k, v in variables.items()}
      inputs, update = run(of_block, inputs)
      np.testing.assert_allclose(inputs, expected, rtol=1e-10, atol=1e-12)
      stacked = {k: jax.tree.map(lambda a, i=i: a[i], v[name]) for k, v in updates.items()}
      for new, old in zip(jax.tree.leaves(stacked), jax.tree.leaves(update), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-10, atol=1e-12)


def test_blocks_start_apart(x64):
  """Each block of a stage has its own random initialization."""
  filters = prepared()["params"]["stage_0"]["filters_2"]
  assert filters.shape[0] == 3
  assert np.max(np.abs(filters[0] - filters[1])) > 0.01
  np.testing.assert_allclose(np.std(filters), np.sqrt(2 / (9 * 4)), rtol=0.2)  # He-normal


def test_c_belongs_to_the_present_filters(x64):
  """c = -1/L with lambda_max <= L <= 1.3 lambda_max of the current filters, after any change of them."""
  block = ResCSCBlock(3, rule="simplified", norm=False, dtype=jnp.float64)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 5, 3)))
  params = jax.jit(block.init)(jax.random.key(0), x)["params"]
  corrected = jax.jit(lambda p: block.apply({"params": p}, x))
  params["norm_2"]["bias"] += 1e3  # so large that ReLU clips nothing
  for factor in (1.0, 7.0, 0.01):
    params["filters_2"] = factor * params["filters_2"]
    d1, d2 = (conv_matrix(params[name], (5, 5)) for name in ("filters_1", "filters_2"))
    correction = np.ravel(corrected(params)) - 1e3 - d2.T @ references.relu(d1.T @ x.ravel())
    direction = d2.T @ d2 @ x.ravel()
    c = direction @ correction / (direction @ direction)
    assert lipschitz(d2) <= -1 / c <= 1.3 * lipschitz(d2)


@pytest.mark.slow
def test_evaluation_does_not_depend_on_the_batch(x64):
  x, variables = images(100), prepared()
  run = jax.jit(small().apply)
  np.testing.assert_allclose(run(variables, x[7:8]), run(variables, x)[7:8], rtol=1e-10)


@pytest.mark.slow
def test_bfloat16():
  x = images(4).astype(jnp.float32)
  model = small(depth=8)
  variables = networks.initialized(model, x)
  half = small(dtype=jnp.bfloat16, depth=8)
  logits, codes = jax.jit(lambda v: half.apply(v, x, return_codes=True))(variables)
  expected = jax.jit(model.apply)(variables, x)
  assert logits.dtype == jnp.float32
  assert {code.dtype for code in codes} == {jnp.dtype(jnp.bfloat16)}
  np.testing.assert_allclose(logits, expected, atol=0.1 * float(jnp.max(jnp.abs(expected))))
  fresh = jax.eval_shape(half.init, jax.random.key(0), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype(jnp.float32)}


def test_one_dimensional_and_smallest():
  model = ResCSC(num_classes=2, depth=8, width=2)
  x = jnp.ones((3, 10, 1))
  logits, codes = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, return_codes=True)[0], x
  )
  assert logits.shape == (3, 2)
  assert [code.shape for code in codes] == [(3, 10, 2), (3, 5, 4), (3, 3, 8)]


@pytest.mark.parametrize("depth", [0, 2, 21, 20.0])
def test_depth(depth):
  with pytest.raises(ValueError, match="depth"):
    ResCSC(10, depth)


def test_fields():
  with pytest.raises(ValueError, match="rule"):
    ResCSC(10, rule="dense")
  for rule in WITHOUT_C:
    with pytest.raises(ValueError, match="c: "):
      ResCSC(10, rule=rule, c=-0.5)
  with pytest.raises(ValueError, match="x: "):
    ResCSC(10).init(jax.random.key(0), jnp.zeros((32, 32)))
