"""The function that embeds a dictionary in a circular one."""

from collections.abc import Sequence

from cscjax.dictionaries._abstract import with_methods
from cscjax.dictionaries._base import Dictionary, check_signal_shape
from cscjax.dictionaries._embedding import CirculantEmbedding


def circulant_embedding(dictionary: Dictionary, signal_shape: Sequence[int]) -> CirculantEmbedding:
  """Embeds a dictionary in a circular one, which the Fourier transform block-diagonalizes.

  `admm` uses the embedding. To use `admm` with a dictionary of your own, derive it from
  `AbstractDictionary` and override its method `circulant_embedding`.

  Args:
    dictionary: A `MatrixDictionary`, a `ConvDictionary` of stride 1, an `IdentityAugmented`, a
      composition of these that has an embedding, or an `AbstractDictionary` of your own with the method
      `circulant_embedding`.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C).

  Returns:
    The embedding, which is trivial for dense and circular dictionaries.

  Raises:
    ValueError: If `dictionary` has no embedding, or if `signal_shape` does not fit it.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> from cscjax.dictionaries import AbstractDictionary, CirculantEmbedding, circulant_embedding
    >>> dictionary = cscjax.ConvDictionary(jnp.arange(1.0, 4.0).reshape(3, 1, 1))
    >>> embedding = circulant_embedding(dictionary, (8, 1))
    >>> code = jnp.arange(8.0)[:, None]
    >>> circular_signal = embedding.dictionary.synthesis(embedding.embed_code(code))
    >>> circular_signal.shape
    (10, 1)
    >>> bool(jnp.allclose(embedding.crop_signal(circular_signal), dictionary.synthesis(code)))
    True
    >>> def inverse(dictionary, ridge, x):
    ...   return x / (1 + ridge), dictionary.analysis(x) / (1 + ridge)
    >>> class Reversal(AbstractDictionary):  # D D^T = I
    ...   signal_ndim = 1
    ...   def analysis(self, x):
    ...     return x[..., ::-1]
    ...   def synthesis(self, code, signal_shape=None):
    ...     return code[..., ::-1]
    ...   def circulant_embedding(self, signal_shape, margins=None):
    ...     ridge_inverse = lambda ridge: jax.tree_util.Partial(inverse, self, ridge)
    ...     return CirculantEmbedding(self, signal_shape, ridge_inverse, squared_norm=1.0)
    >>> result = cscjax.admm(Reversal(), jnp.array([3.0, 0.2, 1.0]), beta=0.5, tolerance=1e-5)
    >>> [round(float(coefficient), 2) for coefficient in result.code]
    [0.5, 0.0, 2.5]
  """
  shape = check_signal_shape(dictionary, signal_shape)
  return with_methods(dictionary).circulant_embedding(shape)
