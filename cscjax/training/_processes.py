"""Several processes of one run: the first reads and writes for all, and all do the same steps."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
  """Whether this process prints and writes; true where it is the only one."""
  return jax.process_index() == 0


def largest(value: int) -> int:
  """The largest of the processes' values; every process has to call it at the same point.

  Args:
    value: In the range of int32.
  """
  return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def from_first(tree: Any) -> Any:
  """The first process's arrays, in host memory; every process has to call it at the same point.

  Args:
    tree: On the other processes one of the same structure, shapes and types.
  """
  return multihost_utils.broadcast_one_to_all(tree)
