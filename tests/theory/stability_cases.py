"""Problems of every kind that `stability` takes, as dictionaries and in dense algebra."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import cscjax
from tests import references
from tests.theory.group_reference import DenseGroupLasso
from tests.theory.lasso_reference import DenseLasso


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoParts:
  """A dictionary of a user: D (a, b) = atoms a + reversed b, with a code that is a dict."""

  atoms: jax.Array
  signal_ndim = 1

  def analysis(self, x):
    """Returns D^T x."""
    return {"a": x @ self.atoms, "b": x[..., ::-1]}

  def synthesis(self, code, signal_shape=None):
    """Returns D code."""
    return code["a"] @ self.atoms.T + code["b"][..., ::-1]

  def residual(self, code, x):
    """Returns D code - x."""
    return self.synthesis(code) - x


@dataclasses.dataclass(frozen=True)
class Case:
  """Problems with one dictionary, and the same in dense algebra."""

  dictionary: cscjax.Dictionary
  shape: tuple
  d: np.ndarray
  beta: object  # as given to `stability`, relative to the largest useful one
  dense_beta: np.ndarray
  options: dict
  one_sided: np.ndarray
  weights: np.ndarray
  ridge: np.ndarray
  groups: np.ndarray | None = None  # the group of each coefficient

  def signals(self, rng, count):
    """Returns noisy signals with sparse codes."""
    codes = rng.normal(size=(count, self.d.shape[1])) * (rng.random((count, self.d.shape[1])) < 0.15)
    codes = np.where(self.one_sided, np.abs(codes), codes)
    x = codes @ self.d.T
    return x + 0.05 * np.std(x) * rng.normal(size=x.shape)

  def problem(self, x):
    """Returns the dense problem of one signal, and beta as `stability` takes it."""
    correlation = self.d.T @ (self.weights * x)
    sizes = np.where(self.one_sided, np.maximum(correlation, 0), np.abs(correlation))
    if self.groups is None:
      beta = np.max(sizes) * self.dense_beta
      return DenseLasso(self.d, beta, self.one_sided, self.weights, self.ridge)
    beta = np.sqrt(np.max(np.bincount(self.groups, sizes**2))) * self.dense_beta
    return DenseGroupLasso(self.d, beta, self.one_sided, self.weights, self.ridge, self.groups)


def make_case(name, rng):
  """Returns a case of `CASES`."""
  filters, spatial, geometry, beta = rng.normal(size=(3, 2, 3)), (11,), {}, 0.2
  options, one_sided, weights, groups = {}, False, None, None
  match name:
    case "dense":
      d = rng.normal(size=(12, 20))
      return _of(cscjax.MatrixDictionary(jnp.asarray(d)), (12,), d, 0.2, {}, False, None)
    case "dense, nonnegative, equal norms":
      d = rng.normal(size=(10, 15))
      d /= np.linalg.norm(d, axis=0)
      nonnegative = {"nonnegative": True}
      return _of(cscjax.MatrixDictionary(jnp.asarray(d)), (10,), d, 0.1, nonnegative, True, None)
    case "user's":
      atoms = rng.normal(size=(8, 5))
      d = np.hstack([atoms, np.eye(8)[::-1]])
      return _of(TwoParts(jnp.asarray(atoms)), (8,), d, {"a": 0.1, "b": 0.25}, {}, False, None)
    case "stride and dilation":
      filters, spatial = rng.normal(size=(3, 2, 1, 4)), (7, 6)
      geometry = {"stride": 2, "dilation": (1, 2)}
    case "circular, a beta per channel":
      geometry, beta = {"padding": "CIRCULAR"}, np.array([0.1, 0.3, 0.2])
    case "circular, around itself":
      geometry, spatial = {"padding": "CIRCULAR", "dilation": 3}, (5,)
    case "valid, weights":
      geometry, weights = {"padding": "VALID"}, rng.uniform(size=(11, 2))
    case "pads, mask":
      geometry, weights = {"padding": ((3, 1),)}, (rng.random((11, 1)) < 0.7) * np.ones((11, 2))
    case "no penalty on a channel":
      beta = np.array([0.2, 0.0, 0.3])
    case "a beta per coefficient, nonnegative":
      beta, options, one_sided = rng.uniform(0.05, 0.4, (11, 3)), {"nonnegative": True}, True
    case "signs per channel":
      one_sided = np.array([True, False, True])
      options = {"nonnegative": jnp.asarray(one_sided)}
    case "augmented" | "augmented, only the image is signed":
      filters = rng.normal(size=(3, 3, 1, 3))
      conv = cscjax.ConvDictionary(jnp.asarray(filters))
      d = np.hstack([np.eye(30), references.conv_matrix(filters, (6, 5))])
      sides = (False, "only" in name)
      options = {"nonnegative": sides} if any(sides) else {}
      return _of(cscjax.IdentityAugmented(conv), (6, 5, 1), d, (0.3, 0.2), options, sides, None)
    case "three axes":
      filters, spatial = rng.normal(size=(2, 2, 2, 1, 2)), (4, 3, 3)
    case "ridge":
      beta, options = 0.05, {"ridge": 0.3}
    case "ridge of a channel, nonnegative, weights":
      options = {"ridge": jnp.array([0.5, 0.0, 2.0]), "nonnegative": True}
      one_sided, weights = True, rng.uniform(size=(11, 2))
    case "ridge alone on a channel":
      beta, options = np.array([0.1, 0.0, 0.3]), {"ridge": jnp.array([0.2, 1.0, 0.1])}
    case "groups of channels":
      beta, options, groups = 0.4, {"joint_axes": -1}, np.repeat(np.arange(11), 3)
    case "groups of positions, a beta per channel":
      geometry, filters, beta = {"stride": 4}, rng.normal(size=(3, 2, 5)), rng.uniform(0.4, 0.7, 5)
      options, groups = {"joint_axes": -2}, np.tile(np.arange(5), 3)
    case "groups, nonnegative, weights":
      beta, options, one_sided = 0.3, {"joint_axes": -1, "nonnegative": True}, True
      weights, groups = rng.uniform(size=(11, 2)), np.repeat(np.arange(11), 3)
    case "groups, signs per channel, no penalty at a position":
      beta, one_sided = 0.4 * (np.arange(11) != 4)[:, None], np.array([True, False, True])
      options = {"joint_axes": -1, "nonnegative": jnp.asarray(one_sided)}
      groups = np.repeat(np.arange(11), 3)
    case "groups, ridge of some":
      ridge = rng.uniform(0.1, 1, (11, 1)) * (np.arange(11) % 2)[:, None]
      options = {"joint_axes": -1, "ridge": jnp.asarray(ridge)}
      groups = np.repeat(np.arange(11), 3)
    case "groups, equal atoms":
      filters = np.concatenate([filters, filters[..., :1]], axis=-1)
      beta, options, groups = 0.4, {"joint_axes": -1}, np.repeat(np.arange(11), 4)
    case "groups, nonnegative, equal atoms":
      filters = np.concatenate([filters, filters[..., :1]], axis=-1)
      beta, options, one_sided = 0.4, {"joint_axes": -1, "nonnegative": True}, True
      groups = np.repeat(np.arange(11), 4)
    case "groups, more atoms than samples":
      filters, beta = rng.normal(size=(2, 2, 5)), 0.6
      options, groups = {"joint_axes": -1}, np.repeat(np.arange(11), 5)
    case "groups of different sizes":
      conv = cscjax.ConvDictionary(jnp.asarray(filters))
      d = np.hstack([np.eye(22), references.conv_matrix(filters, (11,))])
      groups = np.concatenate([np.repeat(np.arange(11), 2), 11 + np.repeat(np.arange(11), 3)])
      options = {"joint_axes": -1}
      return _of(
        cscjax.IdentityAugmented(conv), (11, 2), d, (0.3, 0.5), options, False, None, groups=groups
      )
    case "complex":
      parts = rng.normal(size=(2, 3, 2, 3))
      a, b = (references.conv_matrix(part, (8,)) for part in parts)
      dictionary = cscjax.dictionaries.ComplexDictionary(
        *(cscjax.ConvDictionary(jnp.asarray(p)) for p in parts)
      )
      d, groups = np.block([[a, -b], [b, a]]), np.tile(np.arange(24), 2)
      return _of(dictionary, (2, 8, 2), d, 0.3, {"joint_axes": -3}, False, None, groups=groups)
  d = references.conv_matrix(filters, spatial, **geometry)
  if weights is not None:
    options = {**options, "mask": jnp.asarray(weights)}
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters), **geometry)
  shape = (*spatial, filters.shape[-2])
  return _of(dictionary, shape, d, beta, options, one_sided, weights, groups=groups)


def _of(dictionary, shape, d, beta, options, one_sided, weights, groups=None):
  leaves, structure = jax.tree.flatten(jax.eval_shape(dictionary.analysis, jnp.zeros(shape)))

  def dense(value):
    parts = [value] * len(leaves)
    if jax.tree.structure(value) == structure:
      parts = jax.tree.leaves(value)
    return np.concatenate(
      [np.broadcast_to(v, leaf.shape).ravel() for v, leaf in zip(parts, leaves, strict=True)]
    )

  weights = np.ravel(np.ones(shape) if weights is None else weights)
  relative = cscjax.relative(jax.tree.map(jnp.asarray, beta))
  flat = (dense(beta), options, dense(one_sided), weights, dense(options.get("ridge", 0.0)))
  return Case(dictionary, shape, d, relative, *flat, groups)


CASES = (
  "dense",
  "dense, nonnegative, equal norms",
  "user's",
  "stride and dilation",
  "circular, a beta per channel",
  "circular, around itself",
  "valid, weights",
  "pads, mask",
  "no penalty on a channel",
  "a beta per coefficient, nonnegative",
  "signs per channel",
  "augmented",
  "augmented, only the image is signed",
  "three axes",
  "SAME",
  "ridge",
  "ridge of a channel, nonnegative, weights",
  "ridge alone on a channel",
  "groups of channels",
  "groups of positions, a beta per channel",
  "groups, nonnegative, weights",
  "groups, signs per channel, no penalty at a position",
  "groups, ridge of some",
  "groups, equal atoms",
  "groups of different sizes",
  "complex",
  "groups, nonnegative, equal atoms",
  "groups, more atoms than samples",
)
