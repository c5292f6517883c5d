"""Convolutional dictionary learning in one call."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import optax
from jax.typing import ArrayLike

from cscjax import checks
from cscjax.learning._learner import DEFAULT_OPTIMIZER, DictionaryLearner
from cscjax.learning._loop import LearningResult
from cscjax.learning._steps import LearningState
from cscjax.solvers import Callback, RelativePenalty


def learn_dictionary(
  images: ArrayLike | Sequence[ArrayLike],
  beta: ArrayLike | RelativePenalty,
  *,
  kernel: Sequence,
  steps: int | None = None,
  batch_size: int | None = None,
  tolerance: ArrayLike | None = None,
  max_steps: int | None = None,
  mask: Any = None,
  coding_iterations: int = 20,
  padding: Literal["CIRCULAR", "SAME"] = "CIRCULAR",
  nonnegative: bool = False,
  rank1: bool = False,
  replace_unused: int | None = 10,
  optimizer: optax.GradientTransformation = DEFAULT_OPTIMIZER,
  init: ArrayLike | Literal["patches"] | None = None,
  key: jax.Array | None = None,
  state: LearningState | None = None,
  callback: Callback | None = None,
  progress: bool = False,
) -> LearningResult:
  """Learns the filters of a convolutional dictionary from images, one-dimensional signals or volumes.

      min over D and codes: mean over images of 1/2 ||x - D code||^2 + beta ||code||_1,   ||d_j|| = 1

  Each step encodes a minibatch with `fista` (from the zero code, with an adaptive step), takes one step
  of the optimizer along the gradient of the data term for these codes, and projects each atom onto its
  support and the unit sphere (and onto rank 1 if `rank1` is True). The gradient is divided by the
  largest mean ||code_j||^2 of an atom, which is the curvature along an atom whose copies do not overlap.
  Hence learning rates do not depend on the scale of the images, and a plain gradient step with a rate
  above 1 overshoots.

  Subtract the low-pass component of the images first (`x - cscjax.tikhonov_lowpass(x, 5)`, with
  `spatial_axes=1` for signals), because small atoms cannot represent it.

  To continue, pass `state=result.state` with the same images and arguments: on one device, the result is
  then equal, bit for bit, to that of a single call with all steps.

  `cscjax.learning.DictionaryLearner` does the same in single steps, for loops of your own over data that
  do not fit into memory. If the images are a JAX array that is sharded over several devices or
  processes along its first axis, each device encodes its own part of a minibatch, and the result is that
  of a single device up to rounding. For several processes, call `jax.distributed.initialize` first and
  make the array with `jax.make_array_from_process_local_data`. Under `jax.jit`, the sharding of a
  minibatch is known only on explicit mesh axes.

  Args:
    images: Images [N, H, W, C], signals [N, L, C] or volumes [N, D, H, W, C]; integers are converted to
      floating point. Or a list of images [H, W, C], signals [L, C] or volumes, whose sizes may differ.
      They are not padded: each is encoded at its own size. Part of the program is compiled for each
      size, and minibatches of images of different sizes are encoded one image at a time, so that a few
      different sizes are faster than many.
    beta: Penalty, nonnegative: a scalar, or one value per atom [m]. A penalty as large as the standard
      deviation of the images leaves few nonzero coefficients; a smaller one gives better reconstructions
      and needs more `coding_iterations`. `cscjax.relative(0.1)` is a tenth of `beta_max` for each image
      and the atoms of each step.
    kernel: Pairs (size, count) of atoms, such as ((8, 16), (12, 8)) for 16 atoms of 8x8 and 8 atoms of
      12x12. A size is one integer for all axes, or one per axis. Smaller atoms are centred in an array
      of the largest size and padded with zeros.
    steps: Number of steps, positive; 200 by default. None with a tolerance.
    batch_size: Number of images in the minibatch of a step, 1 to N; all images if None. Minibatches are
      drawn without replacement in each epoch, and the last N mod `batch_size` images of an epoch are
      left out.
    tolerance: If given, nonnegative: stops when the objective has converged. After every period, the
      mean objective of its steps is compared with that of the period before; learning has converged if
      they differ by at most this fraction of the objective. A period consists of as many whole epochs as
      contain at least 10 steps, so that all images contribute equally to the mean. The atoms keep moving
      by the noise of the minibatches, whose size the learning rate determines; a tolerance below that
      noise needs a decaying learning rate. 1e-3 is a typical value.
    max_steps: Largest number of steps with a tolerance, positive; 1000 by default.
    mask: Weights in 0..1 that broadcast against the images, zero for missing values (which may be NaN),
      as in the solvers: codes and atoms minimize 1/2 sum mask (x - D code)^2 + beta ||code||_1. A mask
      without the channel axis is the same for all channels. For a list of images, a list of masks.
    coding_iterations: Number of FISTA iterations in each step, positive.
    padding: `"CIRCULAR"` (images are periodic) or `"SAME"` (zero beyond the border).
    nonnegative: Whether the codes are constrained to be nonnegative.
    rank1: Whether each atom is constrained to be one pattern over its taps times one weight per channel.
      A source that reaches all sensors at once, as in EEG, has such atoms: a waveform in time, and a
      spatial pattern. `cscjax.learning.rank1_factors` returns both.
    replace_unused: Number of successive steps, positive, after which an atom whose codes were all zero
      is replaced by the patch of the minibatch with the largest squared error. At most one atom is
      replaced in each step, so that several atoms do not become the same patch. Nothing is random, and
      so a run that is continued stays the same. None keeps unused atoms.
    optimizer: An Optax optimizer; by default SGD with learning rate 0.3 and momentum 0.9. Adam moves
      each filter tap by about the same amount, which leaves noise in the atoms. Calls with the same
      optimizer object share their compilation.
    init: Initial filters, of the shape of the result, which are projected first. `"patches"` takes
      patches at random positions of the images, in which missing values are zero. Gaussian noise if
      None, and for each atom that is zero.
    key: Random key of the initial atoms and the minibatches; `jax.random.key(0)` if None.
    state: The state of an earlier result from which to continue. It replaces `init` and `key`.
    callback: A function that is called with a `cscjax.IterationStats` after each step: the number of
      steps of this call and the objective of the step's minibatch (the residual is None). It is called
      by `jax.debug.callback`, also under `jax.jit`; `IterationStats` describes the other
      transformations. Calls with the same function object share their compilation. None costs nothing.
    progress: Whether to show a progress bar on stderr, with the objective. This needs tqdm, which the
      extra `progress` installs.

  Returns:
    A `LearningResult`: the dictionary, the objective and the support sizes of each step, and the state.

  Raises:
    ValueError: If images are empty or not finite, atoms are larger than images, shapes do not fit, or an
      argument is out of range or does not fit `state`.
    MissingExtraError: If `progress` is True and tqdm is not installed.

  Example:
    >>> import jax
    >>> import cscjax
    >>> images = jax.random.normal(jax.random.key(0), (4, 12, 12, 1))
    >>> arguments = {"kernel": [(5, 6), (3, 2)], "steps": 10}
    >>> history = []
    >>> result = cscjax.learn_dictionary(images, 0.5, callback=history.append, **arguments)
    >>> result.dictionary.filters.shape, result.objective.shape
    ((5, 5, 1, 8), (10,))
    >>> bool(history[-1].objective < history[0].objective), history[-1].iteration
    (True, 10)
    >>> more = cscjax.learn_dictionary(
    ...   images, 0.5, callback=history.append, state=result.state, **arguments
    ... )
    >>> int(more.state.step)
    20
  """
  learner = DictionaryLearner(
    kernel=kernel,
    beta=beta,
    coding_iterations=coding_iterations,
    padding=padding,
    nonnegative=nonnegative,
    rank1=rank1,
    replace_unused=replace_unused,
    optimizer=optimizer,
  )
  return learner.run(
    images,
    steps=steps,
    batch_size=batch_size,
    tolerance=tolerance,
    max_steps=max_steps,
    mask=mask,
    init=init,
    key=key,
    state=state,
    callback=callback,
    progress=checks.boolean("progress", progress) and "learn_dictionary",
  )
