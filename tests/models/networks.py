"""Helpers of the network tests: random variables, and the parts of a layer for NumPy references."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from cscjax.dictionaries import lipschitz_bound
from tests.models import references


def randomized(variables, seed=0):
  """Returns variables with random values for everything but the filters.

  Initial values such as zeros and ones would hide mistakes. The result is float64 if x64 is enabled,
  although Flax creates running statistics in float32.
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
  """Returns randomized variables of a model."""
  return randomized(jax.jit(model.init)(jax.random.key(seed), x), seed)


def norm_of(params, stats, index=0):
  """Returns the batch norm N_index of a layer or a `Norm` as a NumPy function."""
  scale, bias = np.asarray(params["scale"]), np.asarray(params["bias"])
  stats = stats[f"norm_{index}"]
  return references.batch_norm(np.asarray(stats["mean"]), np.asarray(stats["var"]), scale, bias)


def thresholds_of(params, stats, count):
  """Returns z -> relu(N_k(z)) for each iteration of a layer as NumPy functions."""
  norms = [norm_of(params, stats, index) for index in range(count)]
  return [lambda v, norm=norm: references.relu(norm(v)) for norm in norms]


def step_of(params, dictionary, signal_shape):
  """Returns the step 2 sigmoid(k) / L."""
  bound = float(lipschitz_bound(dictionary, signal_shape))
  return 2 / (1 + np.exp(-float(params["step_logit"]))) / bound


def size_of(tree, part):
  """Returns the number of scalars in the leaves whose name contains `part`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return sum(leaf.size for path, leaf in leaves if part in jax.tree_util.keystr(path))


def leaf_names(tree):
  return sorted(jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree))


def convolutions(function, *arguments):
  """Returns the equations of all convolution primitives in a function; those in loops occur once."""

  def visit(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name.startswith("csc_conv"):
        yield equation
      for inner in jaxprs_in_params(equation.params):
        yield from visit(inner)

  return list(visit(jax.make_jaxpr(function)(*arguments).jaxpr))


def counted(function, *arguments):
  """Returns the number of equations of each convolution primitive; those in loops count once."""
  return dict(collections.Counter(e.primitive.name for e in convolutions(function, *arguments)))


def gradient_for_a_gpu(model):
  """Returns the StableHLO program of a network's gradient, lowered for a GPU."""
  x = jnp.zeros((2, 8, 8, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), x)

  def loss(params, state):
    logits, _ = model.apply({"params": params, **state}, x, train=True, mutable=["batch_stats"])
    return jnp.sum(logits)

  traced = jax.jit(jax.grad(loss)).trace(variables.pop("params"), variables)
  return traced.lower(lowering_platforms=("cuda",)).as_text()
