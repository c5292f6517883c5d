"""Sparsity of a code, as a whole and in its densest neighbourhood (Papyan, Sulam & Elad 2017)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.dictionaries import (
  Code,
  ConvDictionary,
  Dictionary,
  IdentityAugmented,
  MatrixDictionary,
  check_dictionary,
  check_signal_shape,
)
from cscjax.theory._windows import patch_sums, stripe_sums


def support_size(dictionary: Dictionary, code: Code) -> jax.Array:
  """||code||_0, the number of nonzeros in all parts of a code.

  Args:
    dictionary: Whose code it is; it tells the axes of one code from those of the batch.
    code: Codes, batch axes first.

  Returns:
    [batch...], int32.

  Raises:
    ValueError: If the code is none of this dictionary.
  """
  check_dictionary(dictionary)
  code = _as_code(code)
  jax.eval_shape(dictionary.synthesis, code)  # raises where they do not fit
  return nonzeros(dictionary, code)


def nonzeros(dictionary: Dictionary, code: Code) -> jax.Array:
  """`support_size` without its checks, also of codes whose own size makes no signal."""
  counts = [_sum(_nonzero(part), dictionary.signal_ndim) for part in jax.tree.leaves(code)]
  return functools.reduce(jnp.add, counts)


def stripe_sparsity(
  dictionary: Dictionary, code: Code, signal_shape: Sequence[int] | None = None
) -> jax.Array:
  """||code||^S_{0,inf}: the most nonzeros in a stripe, all coefficients whose atoms overlap one atom.

  An atom is taken from its first tap to its last, so the stripes of a dilated dictionary are those of
  its zero-filled filters. Around a circle they wrap; at other borders they end. Over `IdentityAugmented`
  the stripe of an atom of F holds the z of the atoms that overlap it and the `a` on the sites that it
  covers; that of a unit vector is part of one of these. The stripe of a dense dictionary is the whole
  code.

  Args:
    dictionary: One of this package's.
    code: Codes, batch axes first.
    signal_shape: Shape of one signal without batch; that of `synthesis` if None.

  Returns:
    [batch...], int32.

  Raises:
    ValueError: If the dictionary is another, or shapes do not fit.
  """
  if isinstance(dictionary, MatrixDictionary):
    return support_size(dictionary, code)
  code = _as_code(code)
  shape = _signal_shape(dictionary, code, signal_shape)
  conv, kept, new = _parts(dictionary, code)
  counts = stripe_sums(conv, jnp.sum(_nonzero(new), axis=-1), shape[:-1])
  if kept is not None:
    counts += patch_sums(conv, jnp.sum(_nonzero(kept), axis=-1))
  return _max(counts, conv.signal_ndim - 1)


def patch_sparsity(dictionary: Dictionary, signal: ArrayLike) -> jax.Array:
  """||signal||^P_{0,inf}: the most nonzeros of a signal in a patch, the sites that an atom covers.

  For a code of layer i the dictionary is that of layer i + 1, whose signal it is. A dense dictionary has
  one patch, the whole signal. Batch axes first; returns [batch...], int32. ValueError as
  `stripe_sparsity`.
  """
  return _patches(dictionary, _nonzero(checks.real_array("signal", signal)))


def patch_norm(dictionary: Dictionary, signal: ArrayLike) -> jax.Array:
  """||signal||^P_{2,inf}: the largest Euclidean norm of a patch of a signal, such as noise.

  Patches are those of `patch_sparsity`. Batch axes first; returns [batch...].
  """
  check_dictionary(dictionary)
  signal = checks.real_array("signal", signal).astype(float)
  axes = tuple(range(signal.ndim - dictionary.signal_ndim, signal.ndim))
  largest = jnp.max(jnp.abs(signal), axis=axes, keepdims=True, initial=0)
  unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)  # squares neither 0 nor infinite
  norms = jnp.sqrt(_patches(dictionary, jnp.square(signal / unit)))
  return norms * unit.reshape(norms.shape)


def _patches(dictionary, values):
  check_dictionary(dictionary)
  check_signal_shape(dictionary, values.shape[-dictionary.signal_ndim :])
  if isinstance(dictionary, MatrixDictionary):
    return _sum(values, 1)
  conv = _conv(dictionary)
  return _max(patch_sums(conv, jnp.sum(values, axis=-1)), conv.signal_ndim - 1)


def _conv(dictionary) -> ConvDictionary:
  if isinstance(dictionary, IdentityAugmented):
    return dictionary.conv
  if isinstance(dictionary, ConvDictionary):
    return dictionary
  expected = "a MatrixDictionary, ConvDictionary or IdentityAugmented"
  checks.fail("dictionary", type(dictionary).__name__, expected)


def _as_code(code):
  return jax.tree.map(lambda part: checks.real_array("code", part), code, is_leaf=lambda c: c is None)


def _parts(dictionary, code):
  """(F^T, a or None, z)."""
  kept, new = code if isinstance(dictionary, IdentityAugmented) else (None, code)
  return _conv(dictionary), kept, new


def _signal_shape(dictionary, code, signal_shape):
  """Checked against the code, too."""
  check_dictionary(dictionary)
  if signal_shape is None:
    signal = jax.eval_shape(dictionary.synthesis, code)
    return signal.shape[-dictionary.signal_ndim :]
  shape = check_signal_shape(dictionary, signal_shape)
  batch = jax.tree.leaves(code)[0].shape[: -dictionary.signal_ndim]
  jax.eval_shape(lambda c: dictionary.synthesis(c, (*batch, *shape)), code)
  return shape


def _nonzero(array):
  return (array != 0).astype(jnp.int32)


def _sum(array, ndim):
  return jnp.sum(array, axis=tuple(range(array.ndim - ndim, array.ndim)))


def _max(array, ndim):
  return jnp.max(array, axis=tuple(range(array.ndim - ndim, array.ndim)))
