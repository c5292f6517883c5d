"""The precision of products and convolutions in float32."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])


def highest_precision(function: F) -> F:
  """Decorates a function whose products and convolutions have to be right to rounding in float32.

  Recent GPUs compute them in TF32 by default, with 10 bits of mantissa instead of 23. Solvers and
  whatever bounds or certifies something ask for all of them, whatever `jax.default_matmul_precision`
  the caller has set. Networks do not, and neither do the pursuits that they are made of.

  Derivatives of what is computed inside have the same precision. The rule of a custom derivative needs
  the decorator too, because JAX can apply it after the function has returned.

  Args:
    function: Any function of JAX arrays.

  Returns:
    The function, of the same signature.
  """
  return jax.default_matmul_precision("highest")(function)
