"""Callbacks that follow the iterations of a solver, and the progress bar, which is one of them."""

import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.extras import needs

TEST_PERIOD = 10  # a test costs as much as half an iteration
"""Number of iterations between two tests of a tolerance, and between two calls of a callback."""


class IterationStats(NamedTuple):
  """Statistics of an iteration: the argument of a `callback`, with NumPy values.

  The solvers call it after every 10 iterations and after the last one, `learn_dictionary` after each
  step. The calls are made by `jax.debug.callback`, from a thread of JAX and, on one device, in the order
  of the iterations. Outside transformations, all calls have been made when the function returns. Under
  `jax.jit`, `jax.effects_barrier()` waits for them.

  Under `jax.vmap`, there is one call for each element, also for one that has stopped while others go on.
  Pass a batch instead to get one call with the values of all signals. Under `jax.grad`, the callback
  follows the forward pass; with `differentiate="remat"`, it is called again for iterations that the
  backward pass recomputes. Inside `jax.shard_map`, each device calls it with its own signals.

  An exception in a callback ends the solver with a `jax.errors.JaxRuntimeError` that quotes it.

  Attributes:
    iteration: Number of iterations (steps of `learn_dictionary`) done so far by this call, from 1.
    objective: Objective of each signal, [batch...], equal to the value of the trace. In
      `learn_dictionary`, the mean over the minibatch.
    residual: What is compared with the tolerance, for each signal, [batch...]: the relative gradient
      mapping or, with `stop="gap"`, the relative duality gap; the fixed-point residual of `ml_ista` and
      `ml_fista`; the gap or the largest violation of `ml_bp`. None for `learn_dictionary`, which has no
      stopping criterion.
    is_last: Whether this is the last iteration.
  """

  iteration: int
  objective: np.ndarray
  residual: np.ndarray | None
  is_last: bool


Callback = Callable[[IterationStats], Any]
"""A function that is called with the statistics of some iterations; its result is not used."""


def as_callbacks(
  callback: Callback | None,
  progress: bool | str,
  name: str,
  iterations: int,
  period: int = TEST_PERIOD,
) -> tuple[Callback, ...]:
  """Checks the arguments `callback` and `progress`, and returns the functions to call.

  Args:
    callback: The function of the caller, or None.
    progress: Whether to add a progress bar on stderr; a string is its title.
    name: The title of the bar if `progress` is True.
    iterations: The largest number of iterations.
    period: Number of iterations between two calls.

  Returns:
    A tuple of functions: a hashable value, which can be a static argument of a compiled function. Equal
    arguments give equal tuples.

  Raises:
    ValueError: If `callback` is not a hashable function, or `progress` is neither a boolean nor a
      string.
    MissingExtraError: If a bar is to be shown and tqdm is not installed.

  Example:
    >>> from cscjax.solvers import as_callbacks
    >>> as_callbacks(None, False, "fista", 100)
    ()
    >>> as_callbacks(print, False, "fista", 100)
    (<built-in function print>,)
  """
  callbacks = ()
  title = progress if isinstance(progress, str) else checks.boolean("progress", progress) and name
  if title:
    callbacks = (_bar(title, iterations, min(period, iterations)),)
  if callback is None:
    return callbacks
  if not callable(callback):
    checks.fail("callback", callback, "a function of one argument, or None")
  try:
    hash(callback)
  except TypeError:
    checks.fail("callback", callback, "a function that is hashable")
  return (*callbacks, callback)


def report(
  callbacks: tuple[Callback, ...],
  iteration: ArrayLike,
  objective: jax.Array,
  residual: jax.Array | None,
  is_last: ArrayLike,
) -> None:
  """Calls functions with the statistics of an iteration, from within a compiled loop.

  Args:
    callbacks: The functions, as returned by `as_callbacks`.
    iteration: Number of iterations so far.
    objective: Objective of each signal.
    residual: The stopping criterion of each signal, or None.
    is_last: Whether this is the last iteration.

  Returns:
    None.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cscjax.solvers import report
    >>> stats = []
    >>> jax.jit(lambda x: report((stats.append,), 1, x, None, True))(jnp.float32(0.5))
    >>> jax.effects_barrier()
    >>> stats[0].iteration, float(stats[0].objective), stats[0].is_last
    (1, 0.5, True)
  """

  def call(iteration: Any, objective: Any, residual: Any, is_last: Any) -> None:
    objective, residual = jax.tree.map(lambda value: np.asarray(value)[()], (objective, residual))
    stats = IterationStats(int(iteration), objective, residual, bool(is_last))
    for callback in callbacks:
      callback(stats)

  # Not ordered, since ordered effects work neither under `vmap` nor on several devices.
  jax.debug.callback(call, *lax.stop_gradient((iteration, objective, residual, is_last)))


def iteration_numbers(callbacks: tuple[Callback, ...], iterations: int) -> jax.Array | None:
  """Returns 1, ..., `iterations` to scan over, and None without callbacks, where nothing is counted."""
  return jnp.arange(1, iterations + 1, dtype=jnp.int32) if callbacks else None


def report_periodically(
  callbacks: tuple[Callback, ...],
  iteration: jax.Array,
  iterations: int,
  measure: Callable[[], tuple[jax.Array, jax.Array | None]],
) -> None:
  """Calls `report` after every `TEST_PERIOD` iterations and after the last one.

  `measure` returns the objective and the residual; its computations are done only for these iterations.
  """
  is_last = iteration == iterations
  lax.cond(
    is_last | (iteration % TEST_PERIOD == 0),
    lambda: report(callbacks, iteration, *measure(), is_last),
    lambda: None,
  )


@functools.cache  # one object for equal arguments, so that calls share a compiled loop
def _bar(title: str, iterations: int, first: int) -> Callback:
  """Returns a callback that shows a tqdm bar for each run; `first` is the first iteration reported."""
  with needs("progress", "progress=True needs tqdm"):
    from tqdm import tqdm
  lock = threading.Lock()
  bars = []  # the bar of the run in progress

  def show(stats: IterationStats) -> None:
    with lock:
      bar = bars.pop() if bars else None
      if stats.iteration == first and (bar is None or bar.n > first):
        if bar is not None:  # the bar of a run that was interrupted
          bar.close()
        bar = tqdm(desc=title, total=iterations, initial=first, dynamic_ncols=True)
      if bar is None:  # an element of `vmap` that goes on after another has stopped
        return
      if np.size(stats.objective):  # a batch may have no signals
        residual = "" if stats.residual is None else f", residual {np.max(stats.residual):.1e}"
        mean = np.mean(np.asarray(stats.objective, np.float64))
        bar.set_postfix_str(f"objective {mean:.4g}{residual}", refresh=stats.is_last)
      bar.update(stats.iteration - bar.n)
      if stats.is_last:
        bar.close()
      else:
        bars.append(bar)

  return show
