"""Mutual coherence and norms of the atoms, computed without the matrix of the dictionary."""

from collections.abc import Sequence

import jax

from cscjax.dictionaries._abstract import with_methods
from cscjax.dictionaries._base import Code, Dictionary, check_dictionary


def mutual_coherence(dictionary: Dictionary, signal_shape: Sequence[int] | None = None) -> jax.Array:
  """Computes the mutual coherence of a dictionary: the largest absolute cosine between two of its atoms.

  It is `mu(D) = max_{i != j} |<d_i, d_j>| / (||d_i|| ||d_j||)` (Lemma 1). Atoms that are zero are
  ignored. Neither the matrix of the dictionary nor its whole Gram matrix is stored.

  Without `signal_shape`, the atoms are all shifts of the filters on an unbounded grid, where no border
  cuts them. With dilation, two shifts have taps in common only if `stride * p = dilation * u`, where p
  is a shift of the code and u a shift of the taps. Hence mu depends on a stride s and a dilation t only
  through s / gcd(s, t): dilation does not change it at stride 1, and can only increase it at other
  strides.

  With `signal_shape`, the atoms are the columns of `to_matrix`. Atoms that are cut by a border and
  shifts around a circle are included; atoms that do not fit into the signal are not. In the example of
  Fig. S1 (mu is 0.47, and 0 with dilation 2) the dilated atoms that would overlap no longer fit into the
  image. Dilation can also increase mu, if it makes a border cut atoms or shifts around a circle overlap
  twice. For convolutions, the cost does not grow with signals beyond about twice the extent of a filter,
  because larger signals have the same pairs of overlapping atoms.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C). It is not needed for
      a `MatrixDictionary`, and required for dictionaries that are not of this package.

  Returns:
    A scalar in [0, 1] of the floating-point type of the dictionary, computed in at least float32. It is
    zero for a single atom.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if `signal_shape` does not fit it or is missing
      although it is required.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> filters = jnp.array([1.0, 2.0]).reshape(2, 1, 1)
    >>> round(float(cscjax.mutual_coherence(cscjax.ConvDictionary(filters))), 3)  # 2 / (1 + 4)
    0.4
  """
  check_dictionary(dictionary)
  return with_methods(dictionary).mutual_coherence(signal_shape)


def atom_norms(dictionary: Dictionary, signal_shape: Sequence[int]) -> Code:
  """Computes the norm of every atom, including those that are cut by a border.

  Args:
    dictionary: Any dictionary.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

  Returns:
    The norms, as a code without batch axes.

  Raises:
    ValueError: If `dictionary` is not a dictionary, or if `signal_shape` does not fit it.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import atom_norms
    >>> norms = atom_norms(cscjax.MatrixDictionary(jnp.array([[3.0, 0.0], [4.0, 1.0]])), (2,))
    >>> [round(float(norm), 3) for norm in norms]
    [5.0, 1.0]
  """
  check_dictionary(dictionary)
  return with_methods(dictionary).atom_norms(signal_shape)
