"""Warnings about signals whose units or axes are probably not those that the caller meant."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import checks
from cscjax.solvers._penalty import RelativePenalty

COLOURS = (3, 4)
"""Numbers of channels of a colour image, without and with transparency."""


def warn_about_integers(name: str, x: Any, beta: Any) -> None:
  """Warns if a penalty that suits values in 0..1 meets integers, such as pixels in 0..255.

  Args:
    name: The name of the argument `x`.
    x: The signals. Only arrays can lead to a warning; tracers and lists do not.
    beta: The penalty. Only one between 0 and 1 that is not relative can lead to a warning.

  Example:
    >>> import warnings
    >>> import numpy as np
    >>> from cscjax import solvers
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...   solvers.warn_about_integers("x", np.zeros((8, 8, 1), np.uint8), 0.1)
    >>> print(caught[0].message)
    x: expected values in 0..1 for a penalty of 0.1, got integers (uint8); divide them by their
    largest value, or use a penalty that does not depend on units, such as cscjax.relative(0.1)
  """
  dtype = getattr(x, "dtype", None)
  if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or checks.is_traced((x, beta)):
    return
  if isinstance(beta, RelativePenalty):
    return
  largest = max((float(np.max(leaf, initial=0)) for leaf in jax.tree.leaves(beta)), default=0)
  if 0 < largest < 1:
    checks.warn(
      f"{name}: expected values in 0..1 for a penalty of {largest:g}, got integers ({dtype}); divide "
      "them by their largest value, or use a penalty that does not depend on units, such as "
      "cscjax.relative(0.1)"
    )


def looks_like_an_image(x: Any) -> bool:
  """Tests whether an array that is read as signals [N, L, C] looks like one colour image [H, W, C].

  Args:
    x: The array. Nothing is known about the purpose of a tracer, which does not look like an image.

  Returns:
    Whether the array has three axes, the last one of length 3 or 4, and the lengths of the others are at
    least 8 and at most three times each other.

  Example:
    >>> import numpy as np
    >>> from cscjax import solvers
    >>> shapes = [(48, 64, 3), (500, 64, 3), (48, 64, 1)]
    >>> [solvers.looks_like_an_image(np.zeros(shape)) for shape in shapes]
    [True, False, False]
  """
  shape = jnp.shape(x)
  if len(shape) != 3 or shape[-1] not in COLOURS or checks.is_traced(x):
    return False
  return min(shape[:2]) >= 8 and max(shape[:2]) <= 3 * min(shape[:2])


def warn_about_signals(x: Any, beta: Any, signal_ndim: int) -> None:
  """Warns about the argument `x` of a solver, if its units or its axes are probably not meant.

  Args:
    x: The signals as the caller gave them.
    beta: The penalty of the first layer.
    signal_ndim: Number of axes of one signal: 2 for [L, C].

  Example:
    >>> import warnings
    >>> import numpy as np
    >>> from cscjax import solvers
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...   solvers.warn_about_signals(np.zeros((48, 64, 3)), 0.1, signal_ndim=2)
    >>> print(caught[0].message)
    x: expected signals [N, L, C] for one-dimensional filters, got (48, 64, 3), which looks like one
    image [H, W, C]; use filters [kh, kw, C, m] for it, or pass signals as [1, N, L, C]
  """
  warn_about_integers("x", x, beta)
  if signal_ndim == 2 and looks_like_an_image(x):
    checks.warn(
      f"x: expected signals [N, L, C] for one-dimensional filters, got {jnp.shape(x)}, which looks like "
      "one image [H, W, C]; use filters [kh, kw, C, m] for it, or pass signals as [1, N, L, C]"
    )
