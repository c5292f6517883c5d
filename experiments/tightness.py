"""Compares the bounds of `cscjax.theory.stability` on photographs with what an adversary reaches.

    python -m experiments.tightness --results=experiments/results/tightness.jsonl

Certifies the sparse codes of photographs, which are problems of the benchmark suite `solvers`, for noise
of several levels. Random noise, and noise that an attack finds, then move the codes, which are solved
exactly, in float64. Stores a row for each photograph and level in --results, where it replaces a former
one, and prints two tables in Markdown: one of the bounds, and one of the time and the memory that the
certificate of a whole photograph takes. It is not attacked, and comes first, so that the peak memory of
the process is its own.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags

from cscjax import theory
from cscjax.dictionaries import ConvDictionary
from cscjax.solvers import beta_max, fista, polished, relative
from experiments import cli, text_tables
from experiments.benchmarks import problems
from experiments.benchmarks.process import peak_memory
from experiments.result_rows import Row, provenance, stored

STEPS = 5
"""Steps of gradient ascent from each start of the attack."""
DRAWS = 3
"""Directions of random noise."""
CASE = ("case", "noise")
"""The fields of a row that say what was measured."""


class PhotographCase(NamedTuple):
  """A photograph, cropped to its upper left corner, and what is certified.

  Attributes:
    problem: The name of a problem of the benchmark suite `solvers`.
    size: Height and width.
    fraction: The penalty, as a fraction of the largest useful one.
    goals: The levels of the noise, as fractions of the norm of the photograph, with the largest ratio of
      bound and adversarial change that is wanted; None if there is no goal.
  """

  problem: str
  size: int
  fraction: float
  goals: dict[float, float | None]

  @property
  def name(self) -> str:
    """The photograph and the penalty."""
    return f"{self.problem} [:{self.size}, :{self.size}], {self.fraction:g} beta_max"


WHOLE = PhotographCase("g256x32", 256, 0.15, {1e-3: None})
CROPS = (
  PhotographCase("g256x32", 48, 0.3, {1e-4: 1.00, 1e-3: 1.22, 3e-3: 1.57}),
  PhotographCase("g256x32", 48, 0.1, {1e-4: 1.00, 1e-3: 1.27}),
  PhotographCase("china128x16", 32, 0.1, {1e-4: 1.25, 1e-3: 1.91}),
  PhotographCase("china128x16", 32, 0.02, {1e-4: None, 1e-3: None}),
)


class Photograph:
  """The problem of a case, its certificate, and attacks on it.

  Attributes:
    stability: The certificate.
    norm: The norm of the photograph.
  """

  def __init__(self, case: PhotographCase) -> None:
    problem: Any = problems.make(case.problem)
    x = problem.x[0, : case.size, : case.size]
    dictionary = ConvDictionary(jnp.asarray(problem.filters), padding="CIRCULAR")
    self.stability = theory.stability(dictionary, x, relative(case.fraction))
    self.norm = float(np.linalg.norm(x))
    with jax.enable_x64(True):
      self._x = jnp.asarray(x, jnp.float64)
      self._dictionary = dictionary.replace(filters=jnp.asarray(problem.filters, jnp.float64))
      self._beta = case.fraction * beta_max(self._dictionary, self._x)
      self._code = jnp.asarray(self.stability.code)

  def random_change(self, noise: float) -> float:
    """Returns the largest change of the code by random noise of a given norm."""
    return max(self._change(noise * direction)[0] for direction in self._draws())

  def adversarial_change(self, noise: float) -> float:
    """Returns the largest change of the code that an attack with noise of a given norm finds.

    It starts with the direction in which the code moves most while its support stays the same, with both
    signs, and with a random one. From each, gradient ascent on the change replaces the noise by the
    gradient, scaled to the same norm.
    """
    worst, largest = self.stability.worst_direction(), 0.0
    for direction in (worst, -worst, self._draws()[0]):
      for _ in range(STEPS + 1):
        change, gradient = self._change(noise * direction)
        largest = max(largest, change)
        if not np.any(gradient):
          break
        direction = gradient / np.linalg.norm(gradient)
    return largest

  def _draws(self) -> np.ndarray:
    """Returns random directions."""
    drawn = np.random.default_rng(0).normal(size=(DRAWS, *self._x.shape))
    return drawn / np.sqrt(np.sum(np.square(drawn), axis=(1, 2, 3), keepdims=True))

  def _change(self, e: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the change of the code by noise and its gradient; zeros if no exact solution was found."""
    with jax.enable_x64(True):
      change, gradient, is_exact = _change(self._dictionary, self._x, self._beta, self._code, e)
      return (float(change), np.asarray(gradient)) if is_exact else (0.0, np.zeros_like(e))


@jax.jit
def _change(
  dictionary: ConvDictionary, x: jax.Array, beta: jax.Array, code: jax.Array, e: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the change of the code by noise e, its gradient up to a factor, and whether it is exact."""
  found = polished(dictionary, x + e, code, beta)
  difference = found.code - code

  def solution(e: jax.Array) -> jax.Array:
    options: dict[str, Any] = {"init": found.code, "iterations": 1, "differentiate": "implicit"}
    return fista(dictionary, x + e, beta, **options).code

  _, vjp = jax.vjp(solution, e)
  return jnp.linalg.norm(difference), vjp(difference)[0], found.violation == 0


def rows(cases: Iterable[PhotographCase], *, attack: bool = True) -> Iterator[Row]:
  """Certifies photographs, and yields a row for each level of the noise.

  Args:
    cases: The photographs. The peak memory is that of the process, which includes the cases before.
    attack: Whether to attack the codes whose bounds are finite.
  """
  for case in cases:
    start = time.monotonic()
    photograph = Photograph(case)
    found, measured = photograph.stability, []
    for level, goal in case.goals.items():
      noise = level * photograph.norm
      active = found.active_set(np.array([0.0, noise]))
      measured.append((level, goal, noise, active, float(found.bound(noise))))
    cost = {"seconds": time.monotonic() - start, "peak_bytes": peak_memory()}
    for level, goal, noise, active, bound in measured:
      is_finite = math.isfinite(bound)
      attacked = attack and is_finite
      yield {
        **{"case": case.name, "pixels": case.size**2, "noise": level, "nonzeros": int(found.nonzeros)},
        **{"active": [int(count) for count in active.atoms]},
        "smallest_singular_value": float(active.smallest_singular_value[1]),
        "proved": float(active.proved[1]),
        "code_norm": float(np.linalg.norm(found.code)),
        "bound": bound if is_finite else None,
        "adversarial": photograph.adversarial_change(noise) if attacked else None,
        "random": photograph.random_change(noise) if attacked else None,
        "goal": goal,
        **cost,
        **provenance(),
      }


def bounds_table(found: Iterable[Row]) -> str:
  """Returns the table of the bounds."""
  head = (
    *("photograph and penalty", "nonzeros / pixels", "noise / signal", "atoms in S(0)", "in S(noise)"),
    *("s", "bound / code", "bound / adversarial", "goal", "bound / random"),
  )
  return text_tables.markdown(head, map(_cells, found))


def _cells(row: Row) -> tuple[str, ...]:
  """Returns the cells of a row of the table of the bounds."""
  size, adversarial, drawn = "infinite", "–", "–"
  if row["bound"] is not None:
    size = f"{row['bound'] / row['code_norm']:.1e}"
    adversarial, drawn = (f"{row['bound'] / row[name]:.2f}" for name in ("adversarial", "random"))
  is_proved = row["proved"] == 1
  return (
    *(row["case"], f"{row['nonzeros']:,} / {row['pixels']:,}", f"{row['noise']:g}"),
    *(f"{count:,}" for count in row["active"]),
    f"{row['smallest_singular_value']:.3g} ({'proved' if is_proved else 'estimated'})",
    *(size, adversarial, "–" if row["goal"] is None else f"{row['goal']:.2f}", drawn),
  )


def cost_table(row: Row) -> str:
  """Returns the table of the time and the memory of a certificate."""
  head = (
    "photograph and penalty",
    "noise / signal",
    "seconds",
    "peak memory of the process, MiB",
    "proved",
  )
  cost = (f"{row['seconds']:.0f}", f"{row['peak_bytes'] / 2**20:,.0f}", f"{row['proved']:.0%}")
  return text_tables.markdown(head, [(row["case"], f"{row['noise']:g}", *cost)])


def define_flags(values: absl_flags.FlagValues = absl_flags.FLAGS) -> None:
  """Defines the flags of this command."""
  cli.define_path(
    "results", None, "File in which the rows are stored, beside those of other cases.", values
  )


def main(args: absl_flags.FlagValues = absl_flags.FLAGS) -> None:
  """Makes the rows, writes them, and prints the tables."""
  measured = itertools.chain(rows([WHOLE], attack=False), rows(CROPS))
  found = list(stored(measured, args.results, CASE))
  print(bounds_table(found[1:]), cost_table(found[0]), sep="\n\n")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
