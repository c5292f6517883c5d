"""The base class of dictionaries, whose methods compute everything from analysis and synthesis."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks, ops
from cscjax.dictionaries._atoms import (
  Entries,
  Representatives,
  code_shapes,
  code_size,
  entries_of_atoms,
  gram_coherence,
  norms_of_atoms,
  synthesized_atoms,
)
from cscjax.dictionaries._embedding import CirculantEmbedding
from cscjax.dictionaries._lipschitz_constant import certified_bound, dense_constant, is_small
from cscjax.dictionaries._protocol import (
  Code,
  Dictionary,
  check_signal_shape,
  floating_type,
  in_single_precision,
)


class AbstractDictionary(ops.PyTree):
  """The base class of the dictionaries of this package, and of dictionaries of your own.

  A subclass declares its fields like a dataclass and defines `signal_ndim`, `analysis` and `synthesis`
  as in the protocol `Dictionary`. It is a pytree; mark a static field with
  `flax.struct.field(pytree_node=False)`. All other methods follow from these three. A subclass overrides
  those that it can compute faster or more precisely: `compute_lipschitz`, `compute_atom_norms` and
  `compute_coherence`, which get checked arguments and leaves of at least float32, `atom`, which `omp`
  uses, `atom_entries` and `representative_atoms`, which `cscjax.theory` uses, `circulant_embedding`,
  which `admm` needs, and `stripe_sums` and `patch_sums`, which the local theory uses.
  `check_conformance` tests a subclass.

  An object that implements only the protocol `Dictionary` is treated like a subclass that overrides
  nothing.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> class Scaling(cscjax.dictionaries.AbstractDictionary):
    ...   factor: jax.Array
    ...   signal_ndim = 1
    ...   def analysis(self, x):
    ...     return self.factor * x
    ...   def synthesis(self, code, signal_shape=None):
    ...     return self.factor * code
    ...   def compute_lipschitz(self, shape, tolerance, key):
    ...     return jnp.square(self.factor)
    >>> float(Scaling(jnp.float32(2)).lipschitz((3,)))
    4.0
  """

  @property
  def signal_ndim(self) -> int:
    """Number of trailing axes that form one signal: 1 for vectors [n], 3 for images [H, W, C].

    Raises:
      NotImplementedError: If the subclass does not define this property.
    """
    raise NotImplementedError

  def analysis(self, x: jax.Array) -> Code:
    """Computes D^T x.

    Args:
      x: Signal, with any number of leading batch axes.

    Returns:
      The code, an array or a pytree of arrays that start with the batch axes.

    Raises:
      NotImplementedError: If the subclass does not define this method.
    """
    raise NotImplementedError

  def synthesis(self, code: Code, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes D code, the exact adjoint of `analysis`.

    Args:
      code: The code, with any number of leading batch axes.
      signal_shape: Shape of the signal, for dictionaries in which the code does not determine it. Batch
        axes are ignored.

    Returns:
      The signal, with the batch axes of the code.

    Raises:
      NotImplementedError: If the subclass does not define this method.
    """
    raise NotImplementedError

  def residual(self, code: Code, x: jax.Array) -> jax.Array:
    """Computes D code - x.

    Args:
      code: The code, with any number of leading batch axes.
      x: Signal, with the same batch axes.

    Returns:
      An array of the shape of `x`.
    """
    return self.synthesis(code, x.shape) - x

  @ops.highest_precision
  def lipschitz(
    self,
    signal_shape: Sequence[int],
    *,
    tolerance: float | None = None,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Computes L = lambda_max(D^T D) or an upper bound of it, as `cscjax.lipschitz` does.

    Args:
      signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).
      tolerance: Relative tolerance of the upper bound, in (0, 1). If None, zero-padded convolutions use
        the bound by the symbol, and the default is 0.01 for all others.
      key: Random key of the start of the Lanczos method. Default: `jax.random.key(0)`.

    Returns:
      A scalar of the floating-point type of the dictionary. In a type of lower precision than float32 it
      is rounded up.

    Raises:
      ValueError: If `signal_shape` does not fit the dictionary, if `tolerance` is not in (0, 1), or if
        `key` is not a random key.
    """
    shape = check_signal_shape(self, signal_shape)
    if key is not None:
      checks.prng_key("key", key)
    if tolerance is not None:
      tolerance = checks.in_range("tolerance", tolerance, 0, 1, low_open=True)
    dtype = floating_type(self, shape)
    bound = _lipschitz(in_single_precision(self), shape, tolerance, key)
    precise, rounded = bound.dtype, bound.astype(dtype)
    upward = rounded * (1 + jnp.finfo(dtype).eps)
    return jnp.where(rounded.astype(precise) < bound, upward, rounded)

  def atom(self, index: ArrayLike, signal_shape: Sequence[int]) -> jax.Array:
    """Returns one atom: the signal of a code with a single coefficient 1; may be overridden.

    Args:
      index: Position of the coefficient in a flattened code, whose parts are concatenated. It may be
        traced.
      signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

    Returns:
      The atom, of shape `signal_shape`.
    """
    return synthesized_atoms(self, tuple(signal_shape), jnp.asarray(index)[None])[0]

  @ops.highest_precision
  def atom_entries(self, indices: np.ndarray, signal_shape: Sequence[int]) -> Entries:
    """Returns atoms as the columns of a sparse matrix; may be overridden.

    The default synthesizes the atoms, one block at a time.

    Args:
      indices: Positions of k coefficients in a flattened code, a NumPy array of integers.
      signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

    Returns:
      The values, rows and columns of the entries of a matrix [n, k], which need not be sorted; entries
      of the same place add up. The values are float64.
    """
    return entries_of_atoms(self, indices, tuple(signal_shape))

  def representative_atoms(self, signal_shape: tuple[int, ...] | None) -> Representatives:
    """Returns atoms that have all neighborhoods that occur in the dictionary; may be overridden.

    `cscjax.theory.babel_function` takes its maximum over them. The default returns all atoms; for a
    convolution few are enough, because all positions but those near a border have the same neighbors.

    Args:
      signal_shape: Shape of one signal without batch axes, or None, which only convolutions, whose
        signals are then unbounded, and dense dictionaries accept.

    Returns:
      A dictionary, the shape of its signals and the positions of the atoms in a flattened code. The
      largest sum of k cosines between one of these atoms and others must be that of this dictionary, for
      each k.

    Raises:
      ValueError: If `signal_shape` is None although the dictionary requires a shape.
    """
    shape = self._required(signal_shape)
    return self, shape, np.arange(code_size(self, shape))

  @ops.highest_precision
  def atom_norms(self, signal_shape: Sequence[int]) -> Code:
    """Computes the norm of every atom, including those that are cut by a border.

    Args:
      signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

    Returns:
      The norms, as a code without batch axes.

    Raises:
      ValueError: If `signal_shape` does not fit the dictionary.
    """
    return self.compute_atom_norms(check_signal_shape(self, signal_shape))

  @ops.highest_precision
  def mutual_coherence(self, signal_shape: Sequence[int] | None = None) -> jax.Array:
    """Computes the largest absolute cosine between two atoms, as `cscjax.mutual_coherence` does.

    Args:
      signal_shape: Shape of one signal without batch axes. If None, all shifts of the atoms of a
        convolution on an unbounded grid; other dictionaries require a shape.

    Returns:
      A scalar in [0, 1] of the floating-point type of the dictionary.

    Raises:
      ValueError: If `signal_shape` does not fit the dictionary, or is missing although it is required.
    """
    if signal_shape is None:
      shape, dtype = None, ops.common_float(*jax.tree.leaves(self))
    else:
      shape = check_signal_shape(self, signal_shape)
      dtype = floating_type(self, shape)
    coherence = in_single_precision(self).compute_coherence(shape)
    return jnp.minimum(coherence, 1).astype(dtype)  # rounding can exceed 1

  def compute_lipschitz(
    self, shape: tuple[int, ...], tolerance: float | None, key: jax.Array | None
  ) -> jax.Array:
    """Computes `lipschitz` for checked arguments; meant to be overridden.

    The default uses the matrix of the dictionary if signals or codes have at most 256 entries, and the
    Lanczos method for larger ones.

    Args:
      shape: Shape of one signal.
      tolerance: Relative tolerance of an upper bound, or None for a cheap one.
      key: Random key for a method that needs one, or None.

    Returns:
      L or an upper bound of it, a scalar of at least float32.

    Raises:
      ValueError: If `shape` does not fit the dictionary.
    """
    if is_small(self, shape):
      return dense_constant(self, shape)
    return certified_bound(self, shape, 0.01 if tolerance is None else tolerance, key)

  def compute_lipschitz_bound(self, shape: tuple[int, ...]) -> jax.Array:
    """Computes `cscjax.dictionaries.lipschitz_bound` for checked arguments; meant to be overridden.

    Args:
      shape: Shape of one signal.

    Returns:
      An upper bound of L without a derivative, a scalar of at least float32.

    Raises:
      ValueError: In the default, because the dictionary is not a convolution.
    """
    checks.fail("dictionary", self.name, "a ConvDictionary or an IdentityAugmented")

  def compute_atom_norms(self, shape: tuple[int, ...]) -> Code:
    """Computes `atom_norms` for a checked shape; meant to be overridden.

    The default synthesizes all atoms, one block at a time.

    Args:
      shape: Shape of one signal.

    Returns:
      The norms, as a code without batch axes.
    """
    return norms_of_atoms(self, shape)

  def compute_coherence(self, shape: tuple[int, ...] | None) -> jax.Array:
    """Computes `mutual_coherence` for a checked shape; meant to be overridden.

    The default computes the Gram matrix, one block of columns at a time.

    Args:
      shape: Shape of one signal, or None.

    Returns:
      The coherence, a scalar; rounding errors may exceed 1.

    Raises:
      ValueError: If `shape` is None although the dictionary requires a shape.
    """
    shape = self._required(shape)
    return gram_coherence(self, shape, self.compute_atom_norms(shape))

  def circulant_embedding(
    self, signal_shape: Sequence[int], margins: Sequence[tuple[int, int]] | None = None
  ) -> CirculantEmbedding:
    """Embeds the dictionary in one with a fast ridge inverse, which `admm` needs; may be overridden.

    Args:
      signal_shape: Shape of one signal without batch axes.
      margins: Numbers of zeros (low, high) around the signal along each spatial axis. If None, the
        smallest ones are chosen.

    Returns:
      The embedding.

    Raises:
      ValueError: If the dictionary has no embedding, as in the default, or none with these margins.
    """
    checks.fail(
      "dictionary",
      self.name,
      "a dense dictionary, a convolution of stride 1, a composition of these that has a circulant "
      "embedding, or a class with a method circulant_embedding (use fista for other dictionaries)",
    )

  def stripe_sums(self, values: Code, signal_shape: Sequence[int]) -> jax.Array:
    """Sums values over the stripes of a code; may be overridden.

    The stripe of an atom holds the coefficients of all atoms that overlap it. The default has one
    stripe, the whole code.

    Args:
      values: One value per coefficient, batch axes first.
      signal_shape: Shape of one signal without batch axes.

    Returns:
      The sums, of shape [batch..., stripes].
    """
    single = code_shapes(self, tuple(signal_shape))
    sums = [
      jnp.sum(part, axis=tuple(range(part.ndim - one.ndim, part.ndim)))[..., None]
      for part, one in zip(jax.tree.leaves(values), jax.tree.leaves(single), strict=True)
    ]
    return functools.reduce(jnp.add, sums)

  def patch_sums(self, values: jax.Array) -> jax.Array:
    """Sums values over the patches of a signal; may be overridden.

    A patch holds the sites that one atom covers. The default has one patch, the whole signal.

    Args:
      values: One value per entry of the signal, batch axes first.

    Returns:
      The sums, of shape [batch..., patches].
    """
    return jnp.sum(values, axis=tuple(range(values.ndim - self.signal_ndim, values.ndim)))[..., None]

  @property
  def name(self) -> str:
    """Name of the class, for error messages."""
    return type(self).__name__

  def _required(self, signal_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Returns a shape; raises ValueError if there is none."""
    if signal_shape is None:
      checks.fail("signal_shape", None, f"the shape of a signal, which a {self.name} requires")
    return signal_shape


class _Wrapped(AbstractDictionary):
  """A dictionary that implements only the protocol, with the methods of the base class."""

  inner: Any

  @property
  def signal_ndim(self) -> int:
    return self.inner.signal_ndim

  def analysis(self, x: jax.Array) -> Code:
    return self.inner.analysis(x)

  def synthesis(self, code: Code, signal_shape: Sequence[int] | None = None) -> jax.Array:
    return self.inner.synthesis(code, signal_shape)

  def residual(self, code: Code, x: jax.Array) -> jax.Array:
    return self.inner.residual(code, x)

  @property
  def name(self) -> str:
    return type(self.inner).__name__


def with_methods(dictionary: Dictionary) -> AbstractDictionary:
  """Adds the methods of `AbstractDictionary` to a dictionary that implements only the protocol.

  Args:
    dictionary: Any dictionary.

  Returns:
    The dictionary itself if it derives from `AbstractDictionary`, else a wrapper of it.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import with_methods
    >>> dictionary = cscjax.MatrixDictionary(jnp.eye(2))
    >>> with_methods(dictionary) is dictionary
    True
  """
  return dictionary if isinstance(dictionary, AbstractDictionary) else _Wrapped(dictionary)


@functools.partial(jax.jit, static_argnames=("shape", "tolerance"))
def _lipschitz(
  dictionary: AbstractDictionary,
  shape: tuple[int, ...],
  tolerance: float | None,
  key: jax.Array | None,
) -> jax.Array:
  """Computes `AbstractDictionary.lipschitz` for checked arguments."""
  # Without the barrier, XLA's compiler would compute much of that of a constant, in seconds.
  return lax.optimization_barrier(dictionary).compute_lipschitz(shape, tolerance, key)
