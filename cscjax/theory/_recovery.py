"""Conditions under which the Lasso, basis pursuit and OMP recover a planted code."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cscjax import checks
from cscjax.dictionaries import (
  Code,
  Dictionary,
  check_dictionary,
  check_signal_shape,
)
from cscjax.ops import highest_precision
from cscjax.theory._float64 import as_float64, check_known, flatten, float64_on_host
from cscjax.theory._lemmas import uniqueness_bound
from cscjax.theory._recovery_conditions import RecoveryBounds, RecoveryCondition
from cscjax.theory._sparsity import stripe_sparsity
from cscjax.theory._table import table


@dataclasses.dataclass(frozen=True, repr=False)
class PlantedRecovery:
  """The result of `recovery`. Its printed form is a table with one row per condition.

  Attributes:
    nonzeros: k, the number of nonzeros of the planted code.
    noise: The bound on the Euclidean norm of the noise.
    beta: The penalty, or None.
    conditions: The conditions, keyed by "coherence", "stripe coherence", "Babel function", "exact
      recovery", "dual certificate" and "encoder gap".

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> found = cscjax.theory.recovery(D, jnp.array([2.0, -1.0, 0.0]))
    >>> found.strongest, found.error
    ('dual certificate', 0.0)
  """

  nonzeros: int
  noise: float
  beta: float | None
  conditions: dict[str, RecoveryCondition]

  @property
  def strongest(self) -> str | None:
    """The name of the condition with the smallest error, of those that hold; None if none holds.

    Of conditions with the same error, it is the first, which concerns most codes.
    """
    holding = [name for name, condition in self.conditions.items() if condition.holds]
    return min(holding, key=lambda name: self.conditions[name].error, default=None)

  @property
  def error(self) -> float:
    """The smallest error of the conditions that hold; inf if none holds."""
    return min(condition.error for condition in self.conditions.values())

  def __repr__(self) -> str:
    rows = [("", "value", "limit", "betas", "holds", "error")]
    width = max(map(len, self.conditions))
    for name, row in self.conditions.items():
      low, high = row.betas
      numbers = (f"{row.value:.3g}", f"{row.limit:.3g}")
      betas = f"{low:.3g}..{high:.3g}" if low < high else "none"
      rows.append((name.ljust(width), *numbers, betas, "yes" if row.holds else "no", f"{row.error:.3g}"))
    beta = "" if self.beta is None else f", beta {self.beta:.3g}"
    head = f"{self.nonzeros} nonzeros, noise {self.noise:.3g}{beta}"
    return "\n".join([head, table(rows), f"strongest: {self.strongest or 'none holds'}"])


@highest_precision
def recovery(
  dictionary: Dictionary,
  code: Code,
  signal_shape: Sequence[int] | None = None,
  *,
  noise: float = 0.0,
  beta: float | None = None,
) -> PlantedRecovery:
  """Tests the conditions under which a planted code can be recovered from its signal with noise.

  The signal is x = D code + e with ||e||_2 <= noise. Let S be the support of the code, k its size, sign
  its signs, and u_j = d_j / ||d_j|| the unit atoms, whose coefficients are c_j = ||d_j|| code_j. U_S^+
  is the pseudoinverse of the unit atoms in S. The Lasso over unit atoms,

      min 1/2 ||x - D code||^2 + beta sum_j ||d_j|| |code_j|,

  is that of the solvers with the penalty `beta * atom_norms(dictionary, signal_shape)`. In the order of
  the table, each condition implies the next, except for those in parentheses:

  - "coherence": k < (1 + 1 / mu) / 2, the bound `uniqueness_bound`. It holds for all codes with k
    nonzeros.
  - ("stripe coherence": 3 s mu < 1 + mu, where s is the stripe sparsity, the condition of
    `bp_recovery`. Its conclusion requires beta >= 3 noise.)
  - "Babel function": mu_1(k - 1) + mu_1(k) < 1, also for all codes with k nonzeros; see
    `babel_function`.
  - "exact recovery": max over j outside S of ||U_S^+ u_j||_1 < 1. It holds for all codes with this
    support; see `exact_recovery_coefficient`.
  - "dual certificate": max over j outside S of |u_j^T (U_S^+)^T sign| < 1. It holds for all codes with
    this support and these signs, if there is no noise.
  - ("encoder gap": eta_s < 1 and tau_s > noise. The encoder gap tau_s is the (s + 1)-th smallest
    value of beta - |u_j^T r|, where r is the residual of the solution without noise, which the dual
    certificate provides; it is beta (1 - |...|) with the largest |...| of the certificate if s = k. The
    constant eta_s of restricted isometry is bounded by mu_1(s - 1), which is the value in the table.
    With `beta`, s is the smallest number >= k with a sufficient gap; else s = k. Sulam et al. require
    tau_s >= 2 noise; `encoder_gap`, which is for any signal, proves that half of it suffices.)

  What follows, for all noise of this norm and each beta in the interval `betas`:

  - The first four: the solution of the Lasso is unique, and zero outside S. Without noise, basis pursuit
    (min sum_j ||d_j|| |code_j| for D code = x) finds the code. By the first, third and fourth, so does
    OMP in k steps.
  - "dual certificate": the solution of the Lasso is unique and has the support and signs of the code.
    Up to the ends of the interval, no other penalties have this property. Without noise, basis pursuit
    finds the code.
  - "encoder gap": the code moves by at most noise / sqrt(1 - eta_s) from the solution without noise.
  - All: the distance from the planted code is at most `error`.

  Unlike `stability`, these are statements about a code that is known. They are computed on the CPU in
  float64, with an allowance for rounding, and cannot be compiled by `jax.jit`. The cost is k analyses
  and a k x k linear system per atom that overlaps the support, and for the Babel function an analysis
  per atom; for convolutions, that of a signal of three times the extent of the filters.

  Args:
    dictionary: The dictionary D, of any kind.
    code: The planted code of one signal, of the shape of `dictionary.analysis(x)`.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C). By default the shape
      of `dictionary.synthesis(code)`, which can differ from that of the signal at strides above 1.
    noise: The bound on ||e||_2, >= 0.
    beta: The penalty of the Lasso over unit atoms, > 0. By default, each condition is reported for the
      smallest penalties that it allows.

  Returns:
    A `PlantedRecovery`. If the atoms in S are linearly dependent, or one of them is zero, nothing holds.

  Raises:
    ValueError: If shapes do not fit, the code is not that of one signal, a value is out of range or not
      finite, or an argument is traced by `jax.jit` or another transformation.

  References:
    Tropp, Greed is good: algorithmic results for sparse approximation, IEEE Transactions on Information
    Theory 2004 (Babel function, exact recovery).
    Fuchs, On sparse representations in arbitrary redundant bases, IEEE Transactions on Information
    Theory 2004 (dual certificate).
    Tropp, Just relax: convex programming methods for identifying sparse signals in noise, IEEE
    Transactions on Information Theory 2006 (noise).
    Papyan, Romano & Elad, Convolutional neural networks analyzed via convolutional sparse coding, JMLR
    2017 (stripes).
    Sulam, Muthukumar & Arora, Adversarial robustness of supervised sparse coding, NeurIPS 2020 (encoder
    gap).

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> atoms = jnp.array([[1.0, 0.0, 0.0, 0.36], [0.0, 1.0, 0.0, 0.48], [0.0, 0.0, 1.0, 0.8]])
    >>> cscjax.theory.recovery(cscjax.MatrixDictionary(atoms), jnp.array([2.0, -1, 0, 0]), noise=0.01)
    2 nonzeros, noise 0.01
                      value  limit       betas  holds   error
    coherence             2   1.12        none     no     inf
    stripe coherence    4.8    1.8        none     no     inf
    Babel function     2.08      1        none     no     inf
    exact recovery     0.84      1   0.05..inf    yes  0.0807
    dual certificate   0.12      1  0.01..0.99    yes  0.0241
    encoder gap         0.8      1   0.0114..1    yes  0.0384
    strongest: dual certificate
  """
  check_known("recovery", dictionary, code)
  noise = checks.in_range("noise", noise, 0)
  if beta is not None:
    beta = checks.in_range("beta", beta, 0, low_open=True)
  from cscjax.theory._planted import PlantedSupport, UnitAtoms, babel, representative_atoms

  with float64_on_host():
    dictionary, code, shape = _prepared(dictionary, code, signal_shape)
    sparsity = int(stripe_sparsity(dictionary, code, shape))
    neighborhoods = representative_atoms(dictionary, shape)
  atoms = UnitAtoms.of(dictionary, shape)
  flat = flatten(code)
  support = np.flatnonzero(flat)
  signs, sizes = np.sign(flat[support]), np.abs(flat[support]) * atoms.norms[support]
  planted = PlantedSupport.of(atoms, support, signs)
  k = len(support)
  width = k  # s of the encoder gap
  if beta is not None and planted.smallest > 0:
    width += int(np.count_nonzero(beta * (1 - planted.dual) <= noise))
  mu_1 = babel(*neighborhoods, max(1, k, width - 1))
  coherence = float(mu_1[1])
  with float64_on_host():
    bound = float(uniqueness_bound(coherence))
  bounds = RecoveryBounds(k, noise, beta, usable=bool(np.all(atoms.norms[support] > 0)))
  before = max(k - 1, 0)
  conditions = {
    "coherence": bounds.by_cosines("k < (1 + 1 / mu) / 2", k, bound, before * coherence, k * coherence),
    "stripe coherence": bounds.by_stripes(3 * sparsity * coherence, 1 + coherence),
    "Babel function": bounds.by_cosines(
      "mu_1(k - 1) + mu_1(k) < 1",
      float(mu_1[before] + mu_1[k]),
      1.0,
      float(mu_1[before]),
      float(mu_1[k]),
    ),
    "exact recovery": bounds.by_support(planted),
    "dual certificate": bounds.by_signs(planted, sizes),
    "encoder gap": bounds.by_encoder_gap(planted, sizes, width, float(mu_1[max(width - 1, 0)])),
  }
  return PlantedRecovery(k, noise, beta, conditions)


@highest_precision
def exact_recovery_coefficient(
  dictionary: Dictionary, code: Code, signal_shape: Sequence[int] | None = None
) -> float:
  """Computes the exact recovery coefficient of the support S of a code.

  It is max over j outside S of ||U_S^+ u_j||_1, where u_j = d_j / ||d_j|| are the unit atoms. If it is
  below 1, OMP recovers each code with this support in as many steps as the code has nonzeros, and so
  does basis pursuit; `recovery` adds what holds with noise.

  Args:
    dictionary: The dictionary D, of any kind. Atoms that are zero are ignored outside S.
    code: The code of one signal, of the shape of `dictionary.analysis(x)`; only its support matters.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C). By default the shape
      of `dictionary.synthesis(code)`, which can differ from that of the signal at strides above 1.

  Returns:
    The coefficient, computed on the CPU in float64: 0 if S is empty or its atoms are orthogonal to all
    others, and inf if its atoms are linearly dependent or one of them is zero.

  Raises:
    ValueError: If shapes do not fit, the code is not that of one signal or not finite, or an argument is
      traced by `jax.jit` or another transformation.

  References:
    Tropp, Greed is good: algorithmic results for sparse approximation, IEEE Transactions on Information
    Theory 2004.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> D = cscjax.MatrixDictionary(jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]))
    >>> codes = jnp.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    >>> [round(cscjax.theory.exact_recovery_coefficient(D, code), 3) for code in codes]
    [0.6, 1.4]
  """
  check_known("exact_recovery_coefficient", dictionary, code)
  from cscjax.theory._planted import PlantedSupport, UnitAtoms

  with float64_on_host():
    dictionary, code, shape = _prepared(dictionary, code, signal_shape)
  support = np.flatnonzero(flatten(code))
  planted = PlantedSupport.of(UnitAtoms.of(dictionary, shape), support, np.ones(len(support)))
  return planted.largest(planted.exact)


@highest_precision
def babel_function(dictionary: Dictionary, k: int, signal_shape: Sequence[int] | None = None) -> float:
  """Computes the Babel function mu_1(k), the largest sum of k cosines between an atom and k others.

  It is max over j of the sum of the k largest |<u_i, u_j>| with i != j, where u_j = d_j / ||d_j|| are
  the unit atoms. Atoms that are zero are ignored. mu_1(1) is the mutual coherence mu, and
  mu_1(k) <= k mu; for convolutions, most atoms do not overlap, and mu_1 is much smaller.

  If mu_1(k - 1) + mu_1(k) < 1, OMP and basis pursuit recover every code with k nonzeros. The eigenvalues
  of the Gram matrix of any k unit atoms are in 1 - mu_1(k - 1)..1 + mu_1(k - 1).

  Args:
    dictionary: The dictionary D, of any kind.
    k: The number of other atoms, >= 0. If there are fewer, the sum is over all of them.
    signal_shape: Shape of one signal without batch axes: (n,), (L, C) or (H, W, C). Without it, the
      atoms are all shifts of the filters of a `ConvDictionary` on an unbounded grid, where no border
      cuts them. It is not needed for a `MatrixDictionary`, and required for all other dictionaries.

  Returns:
    The sum, computed on the CPU in float64.

  Raises:
    ValueError: If `signal_shape` does not fit the dictionary or is missing although it is required, if
      `k` is negative or not an integer, or if the dictionary is traced by `jax.jit` or another
      transformation.

  References:
    Tropp, Greed is good: algorithmic results for sparse approximation, IEEE Transactions on Information
    Theory 2004.

  Example:
    >>> import jax.numpy as jnp
    >>> import cscjax
    >>> filters = jnp.array([1.0, 2.0]).reshape(2, 1, 1)
    >>> D = cscjax.ConvDictionary(filters)  # each atom overlaps two others, with a cosine of 2 / 5
    >>> [round(cscjax.theory.babel_function(D, k), 3) for k in range(4)]
    [0.0, 0.4, 0.8, 0.8]
  """
  check_known("babel_function", dictionary)
  k = checks.int_at_least("k", k, 0)
  check_dictionary(dictionary)
  from cscjax.theory._planted import babel, representative_atoms

  with float64_on_host():
    dictionary = jax.tree.map(as_float64, dictionary)
    shape = None if signal_shape is None else check_signal_shape(dictionary, signal_shape)
    neighborhoods = representative_atoms(dictionary, shape)
  return float(babel(*neighborhoods, k)[k])


def _prepared(
  dictionary: Dictionary, code: Code, signal_shape: Sequence[int] | None
) -> tuple[Dictionary, Code, tuple[int, ...]]:
  """Returns the dictionary and the code in float64, and the shape of one signal.

  Raises ValueError unless the code is that of one signal.
  """
  check_dictionary(dictionary)
  checks.all_at_least("code", code, -math.inf)
  dictionary = jax.tree.map(as_float64, dictionary)
  code = jax.tree.map(lambda part: jnp.asarray(np.asarray(part), jnp.float64), code)
  if signal_shape is not None:
    shape = check_signal_shape(dictionary, signal_shape)
  else:
    try:
      shape = jax.eval_shape(dictionary.synthesis, code).shape
    except (TypeError, ValueError) as error:  # JAX raises TypeError for shapes that do not fit
      reason = f"a code of the dictionary ({str(error)[:100]})"
      checks.fail("code", jax.tree.map(np.shape, code), reason)
  expected: Any = None
  if len(shape) == dictionary.signal_ndim:
    signal = jax.ShapeDtypeStruct(shape, jnp.float64)
    expected = jax.tree.map(np.shape, jax.eval_shape(dictionary.analysis, signal))
  given = jax.tree.map(np.shape, code)
  if given != expected:
    wanted = "the code of one signal, without batch axes"
    checks.fail("code", given, wanted if expected is None else f"{wanted}, of shape {expected}")
  return dictionary, code, shape
