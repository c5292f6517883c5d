"""What the tests of the networks share: random variables, and a layer's parts for NumPy."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from cscjax.dictionaries import lipschitz_bound
from tests.models import references


def randomized(variables, seed=0):
  """All but the filters moved off their initial values, so that a mistake with them shows.

  In float64 where that is on: Flax makes running statistics in float32.
  """
  rng, dtype = np.random.default_rng(seed), jnp.result_type(float)

  def move(path, leaf):
    name = path[-1].key if isinstance(path[-1], jax.tree_util.DictKey) else None
    if name in ("scale", "var"):
      return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), dtype)
    if name in ("bias", "mean", "step_logit"):
      return jnp.asarray(0.2 * rng.normal(size=leaf.shape), dtype)
    return leaf.astype(dtype)

  return jax.tree_util.tree_map_with_path(move, variables)


def initialized(model, x, seed=0):
  """Randomized variables of a model."""
  return randomized(jax.jit(model.init)(jax.random.key(seed), x), seed)


def norm_of(params, stats, index=0):
  """N_index of a layer or `Norm`, for NumPy."""
  scale, bias = np.asarray(params["scale"]), np.asarray(params["bias"])
  stats = stats[f"norm_{index}"]
  return references.batch_norm(np.asarray(stats["mean"]), np.asarray(stats["var"]), scale, bias)


def thresholds_of(params, stats, count):
  """relu(N_k) for each iteration of a layer."""
  norms = [norm_of(params, stats, index) for index in range(count)]
  return [lambda v, norm=norm: references.relu(norm(v)) for norm in norms]


def step_of(params, dictionary, signal_shape):
  """2 sigmoid(k) / L."""
  bound = float(lipschitz_bound(dictionary, signal_shape))
  return 2 / (1 + np.exp(-float(params["step_logit"]))) / bound


def size_of(tree, part):
  """Number of scalars in the leaves whose name contains `part`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return sum(leaf.size for path, leaf in leaves if part in jax.tree_util.keystr(path))


def leaf_names(tree):
  return sorted(jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree))


def convolutions(function, *arguments):
  """The equations of the convolution primitives in a function, those inside its loops once."""

  def visit(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name.startswith("csc_conv"):
        yield equation
      for inner in jaxprs_in_params(equation.params):
        yield from visit(inner)

  return list(visit(jax.make_jaxpr(function)(*arguments).jaxpr))


def counted(function, *arguments):
  """How often each convolution primitive occurs in a function, inside its loops once."""
  return dict(collections.Counter(e.primitive.name for e in convolutions(function, *arguments)))


def gradient_for_a_gpu(model):
  """The program of a network's gradient for a GPU, as XLA gets it."""
  x = jnp.zeros((2, 8, 8, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), x)

  def loss(params, state):
    logits, _ = model.apply({"params": params, **state}, x, train=True, mutable=["batch_stats"])
    return jnp.sum(logits)

  traced = jax.jit(jax.grad(loss)).trace(variables.pop("params"), variables)
  return traced.lower(lowering_platforms=("cuda",)).as_text()
