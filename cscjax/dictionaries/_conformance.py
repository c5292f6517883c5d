"""A test of any dictionary: whether it is what solvers and theory rely on."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import ops
from cscjax.dictionaries._abstract import AbstractDictionary, with_methods
from cscjax.dictionaries._atoms import flatten, unflatten
from cscjax.dictionaries._protocol import Code, Dictionary, check_signal_shape, floating_type, to_matrix


@ops.highest_precision
def check_conformance(dictionary: Dictionary, signal_shape: Sequence[int]) -> None:
  """Checks that an object is a dictionary that solvers and theory can rely on.

  The reference is the matrix [D d_1, ..., D d_p] of the synthesis of all unit codes, in float64. The
  function checks that `analysis` is the adjoint of `synthesis`, that both are linear and treat batch
  axes alike, `residual`, types, `jax.jit`, `jax.vmap`, gradients with respect to the signal and the
  leaves, and that the dictionary is a pytree with hashable static fields. The Lipschitz constant must be
  an upper bound of lambda_max(D^T D), also with a tolerance; an atom, and the norms and the coherence of
  all atoms, must be those of the matrix. If the dictionary has a circulant embedding, it must reproduce
  D code, and its ridge inverse must solve the linear system. Use this function in the tests of your own
  dictionary.

  Args:
    dictionary: Any object.
    signal_shape: Shape of one small signal without batch axes; the matrix of the dictionary should have
      at most about a million entries.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if `signal_shape` does not fit it.
    AssertionError: If a check fails; the message names the check and the largest difference.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import check_conformance
    >>> check_conformance(cscjax.ConvDictionary(jnp.ones((3, 1, 2)), stride=2), (8, 1))
    >>> class Wrong(cscjax.MatrixDictionary):
    ...   def analysis(self, x):
    ...     return 2 * super().analysis(x)
    >>> check_conformance(Wrong(jnp.eye(3)), (3,))
    Traceback (most recent call last):
      ...
    AssertionError: Wrong: analysis is not the adjoint of synthesis (largest difference ...)
  """
  shape = check_signal_shape(dictionary, signal_shape)
  _Suite(with_methods(dictionary), shape).run()


class _Suite:
  """The checks of one dictionary."""

  def __init__(self, dictionary: AbstractDictionary, shape: tuple[int, ...]) -> None:
    self.dictionary, self.shape = dictionary, shape
    self.dtype = floating_type(dictionary, shape)
    self.codes = jax.eval_shape(dictionary.analysis, jax.ShapeDtypeStruct(shape, self.dtype))
    self.size = sum(math.prod(part.shape) for part in jax.tree.leaves(self.codes))
    self.rtol = float(jnp.finfo(self.dtype).eps) ** 0.6
    self.rng = np.random.default_rng(0)
    self.jitted_analysis = jax.jit(lambda d, x: d.analysis(x))
    self.jitted_synthesis = jax.jit(lambda d, code: d.synthesis(code, shape))
    columns = [np.ravel(self._synthesis(unit)) for unit in np.eye(self.size)]
    self.d = np.stack(columns, axis=1)

  def run(self) -> None:
    self.check_types()
    self.check_adjoint_and_linear()
    self.check_batches()
    self.check_transformations()
    self.check_pytree()
    self.check_properties()
    self.check_atom()
    self.check_representative_atoms()
    self.check_embedding()

  def check_adjoint_and_linear(self) -> None:
    x, g = self._signals(2)
    u, v = self._flat_codes(2)
    for signal in (x, g):
      self._equal(
        self._analysis(signal), self.d.T @ np.ravel(signal), "analysis is not the adjoint of synthesis"
      )
    self._equal(
      self._analysis(2 * x - g), 2 * self._analysis(x) - self._analysis(g), "analysis is not linear"
    )
    combined = 2 * self._synthesis(u) - self._synthesis(v)
    self._equal(self._synthesis(2 * u - v), combined, "synthesis is not linear")
    residual = self.dictionary.residual(self._code(u), self._array(x))
    self._equal(residual, (self.d @ u).reshape(self.shape) - x, "residual is not D code - x")

  def check_batches(self) -> None:
    x, flat = self._signals(2, 3), self._flat_codes(2, 3)
    code = self.dictionary.analysis(self._array(x))
    for part, one in zip(jax.tree.leaves(code), jax.tree.leaves(self.codes), strict=True):
      self._require(part.shape == (2, 3, *one.shape), "analysis does not keep the batch axes of x")
    expected = x.reshape(6, -1) @ self.d
    self._equal(self._as_batch(code, 6), expected, "analysis of a batch is not that of its signals")
    signals = self.dictionary.synthesis(self._code(flat), x.shape)
    self._require(signals.shape == x.shape, "synthesis does not keep the batch axes of the code")
    expected = flat.reshape(6, -1) @ self.d.T
    self._equal(np.reshape(signals, (6, -1)), expected, "synthesis of a batch is not that of its codes")
    residual = self.dictionary.residual(self._code(flat), self._array(x))
    self._equal(
      np.reshape(residual, (6, -1)), expected - x.reshape(6, -1), "residual of a batch is wrong"
    )

  def check_types(self) -> None:
    (x,) = self._signals(1)
    code = self.dictionary.analysis(self._array(x))
    types = {part.dtype for part in jax.tree.leaves(code)}
    self._require(types == {self.dtype}, f"analysis returns {types} instead of {self.dtype}")
    dtype = self.dictionary.synthesis(code, self.shape).dtype
    self._require(dtype == self.dtype, f"synthesis returns {dtype} instead of {self.dtype}")

  def check_transformations(self) -> None:
    x, batch = self._array(self._signals(1)[0]), self._array(self._signals(3))
    code = self._code(self._flat_codes(1)[0])
    self._equal(self._flat(self.dictionary.analysis(x)), self._analysis(x), "jax.jit changes analysis")
    found = self.dictionary.synthesis(code, self.shape)
    self._equal(found, self._synthesis(self._flat(code)), "jax.jit changes synthesis")
    mapped = self._as_batch(jax.jit(jax.vmap(self.dictionary.analysis))(batch), 3)
    expected = self._as_batch(self.jitted_analysis(self.dictionary, batch), 3)
    self._equal(mapped, expected, "jax.vmap changes analysis")

    def energy(dictionary: AbstractDictionary, x: jax.Array) -> jax.Array:
      parts = jax.tree.leaves(dictionary.analysis(x))
      misfit = dictionary.residual(code, x)
      squares = [jnp.sum(jnp.square(part)) for part in (*parts, misfit)]
      return sum(squares[1:], squares[0]) / 2

    gradients = jax.jit(jax.grad(energy, argnums=(0, 1), allow_int=True))(self.dictionary, x)
    flat = np.ravel(np.asarray(x, np.float64))
    expected = self.d @ (self.d.T @ flat) + flat - self.d @ self._flat(code)
    self._equal(np.ravel(gradients[1]), expected, "the gradient with respect to x is wrong")
    leaves = jax.tree.leaves(gradients[0])
    real = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in real)
    self._require(finite, "the gradient with respect to a leaf is not finite")

  def check_pytree(self) -> None:
    leaves, structure = jax.tree.flatten(self.dictionary)
    again = jax.tree.unflatten(structure, leaves)
    (x,) = self._signals(1)
    found = self._flat(again.analysis(self._array(x)))
    self._equal(found, self._analysis(x), "flattening and unflattening changes analysis")
    self._require(structure == jax.tree.structure(again), "unflattening changes the static fields")

  def check_properties(self) -> None:
    def properties(dictionary: AbstractDictionary) -> tuple[Any, ...]:
      bounds = [dictionary.lipschitz(self.shape, tolerance=tolerance) for tolerance in (None, 0.01)]
      return (*bounds, dictionary.atom_norms(self.shape), dictionary.mutual_coherence(self.shape))

    bound, tight, norms, coherence = jax.jit(properties)(self.dictionary)
    largest = np.linalg.norm(self.d, 2) ** 2
    self._require(bound >= largest * (1 - self.rtol), f"lipschitz is {bound} but L is {largest}")
    is_tight = largest * (1 - self.rtol) <= tight <= largest / 0.99 * (1 + self.rtol)
    self._require(bool(is_tight), f"lipschitz(tolerance=0.01) is {tight} but L is {largest}")
    expected = np.linalg.norm(self.d, axis=0)
    self._equal(self._flat(norms), expected, "atom_norms are not those of the atoms")
    unit = self.d[:, expected > 0] / expected[expected > 0]
    gram = np.abs(unit.T @ unit)
    np.fill_diagonal(gram, 0)
    message = "mutual_coherence is not that of the atoms"
    self._equal(coherence, np.max(gram, initial=0), message)

  def check_atom(self) -> None:
    index = self.size // 2
    atom = jax.jit(lambda dictionary, index: dictionary.atom(index, self.shape))(self.dictionary, index)
    self._equal(np.ravel(atom), self.d[:, index], "atom is not the signal of a unit code")
    indices, atoms = np.arange(self.size - 1, -1, -2), np.zeros(self.d.shape)
    values, rows, columns = self.dictionary.atom_entries(indices, self.shape)
    np.add.at(atoms, (rows, indices[columns]), values)
    expected = np.where(np.isin(np.arange(self.size), indices), self.d, 0)
    self._equal(atoms, expected, "atom_entries are not those of the atoms")

  def check_representative_atoms(self) -> None:
    dictionary, shape, indices = self.dictionary.representative_atoms(self.shape)
    sums = _sums_of_cosines(self.d)
    found = np.max(_sums_of_cosines(np.asarray(to_matrix(dictionary, shape)))[indices], axis=0)
    found = np.pad(found, (0, max(0, sums.shape[1] - len(found))), mode="edge")[: sums.shape[1]]
    message = "representative_atoms have other cosines than all atoms"
    self._equal(found, np.max(sums, axis=0), message)

  def check_embedding(self) -> None:
    try:
      size = self.dictionary.circulant_embedding(self.shape).signal_shape
    except ValueError:  # an embedding is optional
      return
    flat, x, ridge = self._flat_codes(1)[0], self._signals(1)[0], 0.7
    y = self._array(self.rng.normal(size=size))

    def computed(dictionary: AbstractDictionary, code: Code, x: jax.Array) -> tuple[Any, ...]:
      embedding = dictionary.circulant_embedding(self.shape)
      embedded = embedding.embed_code(code)
      larger = embedding.dictionary.synthesis(embedded, embedding.signal_shape)
      there = embedding.crop_code(embedded), embedding.crop_signal(embedding.embed_signal(x))
      ridges = jnp.asarray(ridge, ops.at_least_float32(self.dtype))
      signal, solved = embedding.ridge_inverse(ridges)(y)
      correlation = embedding.dictionary.analysis(signal)
      product = ridge * signal + embedding.dictionary.synthesis(correlation, y.shape)
      return embedding.crop_signal(larger), *there, product, solved, correlation

    found = jax.jit(computed)(self.dictionary, self._code(flat), self._array(x))
    cropped, code, signal, product, solved, correlation = found
    expected = (self.d @ flat).reshape(self.shape)
    self._equal(cropped, expected, "the embedding does not reproduce D code")
    self._equal(self._flat(code), flat, "crop_code does not undo embed_code")
    self._equal(signal, x, "crop_signal does not undo embed_signal")
    self._equal(product, y, "ridge_inverse does not solve the linear system")
    expected = self._flat(correlation)
    self._equal(self._flat(solved), expected, "the code of ridge_inverse is not E^T of its signal")

  def _signals(self, *batch: int) -> np.ndarray:
    return self._rounded(self.rng.normal(size=(*batch, *self.shape)))

  def _flat_codes(self, *batch: int) -> np.ndarray:
    return self._rounded(self.rng.normal(size=(*batch, self.size)))

  def _rounded(self, array: np.ndarray) -> np.ndarray:
    return np.asarray(self._array(array), np.float64)

  def _array(self, array: Any) -> jax.Array:
    return jnp.asarray(array, self.dtype)

  def _code(self, flat: np.ndarray) -> Code:
    return unflatten(self._array(flat), self.codes)

  def _flat(self, code: Code) -> np.ndarray:
    return self._as_batch(code, 1)[0]

  def _as_batch(self, code: Code, count: int) -> np.ndarray:
    return np.asarray(flatten(code, count), np.float64)

  def _analysis(self, x: Any) -> np.ndarray:
    return self._flat(self.jitted_analysis(self.dictionary, self._array(x)))

  def _synthesis(self, flat: np.ndarray) -> np.ndarray:
    return np.asarray(self.jitted_synthesis(self.dictionary, self._code(flat)), np.float64)

  def _equal(self, found: Any, expected: Any, message: str) -> None:
    """Raises AssertionError unless two arrays are equal up to rounding errors."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    self._require(
      found.shape == expected.shape, f"{message} (shape {found.shape}, expected {expected.shape})"
    )
    difference = np.max(np.abs(found - expected), initial=0)
    scale = max(1.0, np.max(np.abs(expected), initial=0))
    self._require(difference <= self.rtol * scale, f"{message} (largest difference {difference:.3g})")

  def _require(self, condition: bool, message: str) -> None:
    if not condition:
      raise AssertionError(f"{self.dictionary.name}: {message}")


def _sums_of_cosines(d: np.ndarray) -> np.ndarray:
  """Returns the sums of the k largest cosines between each atom and others, k = 0, 1, ...: [p, p]."""
  norms = np.linalg.norm(d, axis=0)
  unit = d / np.where(norms > 0, norms, 1)
  gram = np.abs(unit.T @ unit)
  np.fill_diagonal(gram, np.inf)  # sorted first, and replaced by the empty sum
  gram = np.sort(gram, axis=1)[:, ::-1]
  gram[:, 0] = 0
  return np.cumsum(gram, axis=1)
