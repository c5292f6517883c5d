"""The layers as parts of users' own models: geometry, signed codes, types, initial filters and NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cscjax
from cscjax.models import MSDCSC, STEPS, CSCLayer, MSDCSCLayer, ResCSC
from tests.models import networks

X = np.random.default_rng(0).normal(size=(3, 9, 8, 2)).astype(np.float32)
GEOMETRIES = {
  "tuples": (X, {"kernel": (3, 4), "stride": (1, 2), "dilation": (2, 1)}, 9, 4),
  "signals": (X[:, :, 0], {"kernel": [5], "stride": 3, "dilation": [2]}, 3),
}


@pytest.mark.parametrize("name", ["tuples", pytest.param("signals", marks=pytest.mark.slow)])
def test_geometry_against_lax(name):
  """One unfolding, whose D is the transpose of lax's convolution."""
  x, fields, *sizes = GEOMETRIES[name]
  layer = CSCLayer(5, 1, norm=False, **fields)
  variables = networks.initialized(layer, x)
  params, rank = variables["params"], x.ndim - 2
  strides, dilations = (
    jnp.broadcast_to(jnp.asarray(fields[key]), rank).tolist() for key in ("stride", "dilation")
  )
  letters = "HW"[:rank]
  dictionary = cscjax.ConvDictionary(params["filters"], fields["stride"], fields["dilation"])
  step = networks.step_of(params, dictionary, x.shape[1:])

  def analysis(x):
    return jax.lax.conv_general_dilated(
      x,
      params["filters"],
      strides,
      "SAME",
      rhs_dilation=dilations,
      dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )

  def layer_of_lax(x):
    def threshold(z):
      return jax.nn.relu(z + jnp.expand_dims(params["bias"], range(rank + 1)))

    code, synthesis = threshold(analysis(x)), jax.linear_transpose(analysis, x)
    return threshold(code - step * analysis(synthesis(code)[0] - x))

  code = jax.jit(layer.apply)(variables, x)
  assert code.shape == (3, *sizes, 5)
  np.testing.assert_allclose(code, jax.jit(layer_of_lax)(x), atol=1e-4)


def test_a_dense_layer_has_a_kernel_too():
  layer = MSDCSCLayer(4, 1, kernel=(5, 2), dilation=(1, 2), signed=2)
  variables = jax.jit(layer.init)(jax.random.key(0), X)
  assert variables["params"]["filters"].shape == (5, 2, 2, 4)
  a, z = jax.jit(layer.apply)(variables, X)
  assert (a.shape, z.shape) == (X.shape, (*X.shape[:-1], 4))


@pytest.mark.parametrize("layer", [CSCLayer, MSDCSCLayer])
def test_signed_codes_are_soft_thresholds(layer):
  """With batch norm, of the normalized analysis; the reference is NumPy."""
  module = layer(4, nonnegative=False)
  variables = jax.jit(module.init)(jax.random.key(0), X)
  bias, scale = np.float32([0, -0.2, -0.5, -3]), np.float32([1, 2, 0.5, 1])
  params = {**variables["params"], "bias": bias, "scale": scale}
  apply = jax.jit(lambda v: module.apply(v, X, train=True, mutable=["batch_stats"])[0])
  code = jax.tree.leaves(apply({**variables, "params": params}))[-1]
  analysis = np.float64(cscjax.ConvDictionary(params["filters"]).analysis(X))
  axes = (0, 1, 2)
  n = scale * (analysis - analysis.mean(axes)) / np.sqrt(analysis.var(axes) + 1e-5)
  np.testing.assert_allclose(code, np.sign(n) * np.maximum(np.abs(n) + bias, 0), atol=1e-4)
  assert np.min(code) < 0


def test_a_signed_iteration_is_that_of_ista():
  variables = networks.initialized(CSCLayer(4, 1, norm=False, nonnegative=False), X)
  params = variables["params"] | {"bias": jnp.float32([-0.1, -0.2, -0.3, -0.1])}
  dictionary = cscjax.ConvDictionary(params["filters"])
  step = networks.step_of(params, dictionary, X.shape[1:])
  layers = [CSCLayer(4, unfolding, norm=False, nonnegative=False) for unfolding in (0, 1)]
  first, last = jax.jit(lambda p: [layer.apply({"params": p}, X) for layer in layers])(params)
  beta = -params["bias"] / step
  solved = cscjax.ista(dictionary, X, beta, step=step, iterations=1, init=first, record=())
  np.testing.assert_allclose(last, solved.code, atol=1e-4)
  assert np.min(last) < 0 < np.max(last)


def test_a_bias_of_zero_is_trained():
  """The threshold of signed codes starts at zero, where relu(-bias) would have no derivative."""
  layer = CSCLayer(4, norm=False, nonnegative=False)
  params = jax.jit(layer.init)(jax.random.key(0), X)["params"]

  def total(params):
    return jnp.sum(jnp.abs(layer.apply({"params": params}, X)))

  gradient = jax.jit(jax.grad(total))(params)["bias"]
  np.testing.assert_allclose(gradient, X[..., 0].size)  # each |code| grows with the bias


def test_a_bias_above_zero_leaves_no_jump():
  layer = CSCLayer(1, norm=False, nonnegative=False, kernel=1)
  params = {"filters": jnp.ones((1, 1, 1, 1)), "bias": jnp.ones(1)}
  x = jnp.linspace(-3, 3, 601).reshape(1, 601, 1, 1)
  code = np.ravel(jax.jit(layer.apply)({"params": params}, x))
  assert 0 < np.min(np.diff(code)) < np.max(np.diff(code)) < 0.021


@pytest.mark.parametrize("step", STEPS)
def test_types_of_parameters(step):
  layer = CSCLayer(4, 1, step=step, param_dtype=jnp.bfloat16, nonnegative=False)
  variables = jax.eval_shape(layer.init, jax.random.key(0), X)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype(jnp.bfloat16)}
  assert {leaf.dtype for leaf in jax.tree.leaves(variables["batch_stats"])} == {jnp.dtype(jnp.float32)}
  code, _ = jax.eval_shape(lambda v: layer.apply(v, X, train=True, mutable=["batch_stats"]), variables)
  assert code.dtype == jnp.float32


def test_types_of_parameters_with_64_bits(x64):
  def types(**fields):
    variables = jax.eval_shape(MSDCSCLayer(4, 1, **fields).init, jax.random.key(0), X)
    return {leaf.dtype.name for leaf in jax.tree.leaves(variables["params"])}

  assert types() == {"float64"}
  assert types(param_dtype=jnp.float32) == {"float32"}


def test_filters_start_from_a_learned_dictionary():
  filters = np.random.default_rng(1).normal(size=(3, 3, 2, 4))
  layer = CSCLayer(4, filters_init=lambda _, shape, dtype: jnp.asarray(filters, dtype).reshape(shape))
  found = jax.jit(layer.init)(jax.random.key(0), X)["params"]["filters"]
  np.testing.assert_array_equal(found, filters.astype(np.float32))


def test_a_layer_with_lists_is_static():
  """`jax.jit` hashes a module that it does not trace."""
  layers = [CSCLayer(4, kernel=[3, 1], stride=[1, 2], padding=[[1, 1], [0, 0]]) for _ in range(2)]
  assert hash(layers[0]) == hash(layers[1])


@pytest.mark.parametrize(
  ("message", "fields"),
  [
    ("kernel: expected an integer >= 1 and < 2^31, got 0", {"kernel": 0}),
    ("dilation: expected an integer >= 1 and < 2^31, got 1.5", {"dilation": 1.5}),
    ("stride: expected an integer >= 1 and < 2^31, got 0", {"stride": (1, 0)}),
    ("padding: expected one of SAME, CIRCULAR, VALID, got 'same'", {"padding": "same"}),
  ],
)
def test_bad_fields_are_named_when_a_layer_is_made(message, fields):
  with pytest.raises(ValueError, match=f"^{message[:40]}"):
    CSCLayer(4, **fields)


@pytest.mark.parametrize("name", ["kernel", "dilation", "stride"])
def test_one_value_for_each_axis_of_the_input(name):
  with pytest.raises(ValueError, match=rf"^{name}: expected one integer >= 1, or 2 of them, got \(3,\)"):
    jax.eval_shape(CSCLayer(4, **{name: (3,)}).init, jax.random.key(0), X)


@pytest.mark.parametrize(
  "model", [CSCLayer(4), MSDCSCLayer(4), MSDCSC(3, depth=1, width=2), ResCSC(3, depth=14, width=2)]
)
def test_a_forgotten_mutable_is_named(model):
  variables = jax.eval_shape(model.init, jax.random.key(0), X)
  with pytest.raises(ValueError, match=r'^mutable: expected \["batch_stats"\] with train=True, as in'):
    jax.eval_shape(lambda v: model.apply(v, X, train=True), variables)


def test_without_batch_norm_nothing_is_mutable():
  layer = CSCLayer(4, norm=False)
  variables = jax.jit(layer.init)(jax.random.key(0), X)
  assert jax.jit(lambda v: layer.apply(v, X, train=True))(variables).shape == (*X.shape[:-1], 4)


def test_a_layer_in_nnx_computes_and_updates_as_in_linen():
  linen = CSCLayer(4, 1)
  layer = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(0)).lazy_init(jnp.asarray(X))
  variables = {
    "params": nnx.to_pure_dict(nnx.state(layer, nnx.Param)),
    "batch_stats": nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat)),
  }
  options = {"train": True, "mutable": ["batch_stats"]}
  code, updates = jax.jit(lambda v: linen.apply(v, X, **options))(variables)
  found = nnx.jit(lambda layer: layer(X, **options))(layer)
  np.testing.assert_allclose(found, code, atol=1e-5)
  statistics = nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat))
  jax.tree.map(np.testing.assert_allclose, statistics, updates["batch_stats"])
  assert np.any(statistics["norm_0"]["mean"] != variables["batch_stats"]["norm_0"]["mean"])


@pytest.mark.slow
def test_a_layer_is_trained_in_an_nnx_model():
  class Model(nnx.Module):
    def __init__(self, rngs):
      self.csc = nnx.bridge.ToNNX(CSCLayer(4, 1), rngs=rngs).lazy_init(jnp.asarray(X))
      self.head = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
      code = self.csc(x, train=True, mutable=["batch_stats"])
      return self.head(jnp.mean(code, axis=(1, 2)))

  @nnx.jit
  def gradient(model):
    return nnx.value_and_grad(lambda model: jnp.mean(jnp.square(model(X) - 1)))(model)

  model = Model(nnx.Rngs(0))
  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # nnx promotes
    before, grads = gradient(model)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(model, nnx.Param), grads)
    nnx.update(model, params)
    after, _ = gradient(model)
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))
  assert after < 0.9 * before
