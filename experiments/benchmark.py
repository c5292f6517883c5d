"""Measures speed and memory.

    python -m experiments.benchmark --suite=train --json

Suites:
  train         median time of a training step, compared with PyTorch
  compile       time to trace and compile a training step
  memory        time of a step and memory planned by XLA, for each amount of rematerialization
  convolutions  the convolutions of the networks one by one, compared with PyTorch
  dense         several implementations of the dense connection
  gradients     differentiation of a solver, for several numbers of iterations
  batches       a batch of signals encoded at once, and one signal after the other
  solvers       time to a relative objective gap, compared with other libraries
  loop          the part of the time of a short epoch that is spent on the host
  gpu           training steps on a GPU, compared with PyTorch, in five minutes
  kernels       kernels that a training step or an iteration launches on a GPU; needs no GPU, but JAX's
                CUDA plugin: pip install 'cscjax[cuda12]'

Other libraries are measured if they are installed: pip install 'cscjax[bench]'. Prints one row per
measurement, as a table or, with --json, as JSON objects.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from absl import flags

from experiments import cli
from experiments.benchmarks import (
  batches,
  comparison,
  convolutions,
  dense_connection,
  gpu,
  gradients,
  kernels,
  loop,
  peers,
  problems,
  solvers,
  training,
)

SUITES = (
  *training.SUITES,
  *("convolutions", "dense", "gradients", "batches", "solvers", "loop", "kernels", "gpu"),
)


def main() -> None:
  """Measures the cases of the suite and prints a row for each of them."""
  args = flags.FLAGS
  if not 1 <= args.batch_size <= 2**16:
    raise cli.UsageError(f"--batch_size: expected an integer in 1..{2**16}, got {args.batch_size}")
  precision = args.precision or ("bfloat16" if args.suite == "kernels" else "float32")
  if args.suite == "solvers":
    cases = _known(args.cases, problems.CASES) or problems.available()
    if not args.cases and cases != tuple(problems.CASES):
      print("SPORCO or scikit-image is not installed; measuring only", *cases, file=sys.stderr)
    found = list(_printed(solvers.rows(cases, args.solvers, args.peer_python), solvers.line))
    if not args.json:
      print("", comparison.table(found), sep="\n")
  elif args.suite == "gradients":
    cases = _known(args.cases, gradients.CASES) or tuple(gradients.CASES)
    _print(gradients.rows(cases), gradients.line)
  elif args.suite == "batches":
    cases = _known(args.cases, batches.CASES) or tuple(batches.CASES)
    _print(batches.rows(cases), batches.line)
  elif args.suite == "kernels":
    cases = _known(args.cases, kernels.CASES) or kernels.COUNTED
    _print(kernels.rows(cases, args.batch_size, precision), kernels.line)
  elif args.suite == "loop":
    cases = _known(args.cases, training.CASES) or loop.CASES
    _print(loop.rows(cases, args.batch_size, precision), loop.line)
  elif args.suite == "gpu":
    cases = _known(args.cases, gpu.CASES) or tuple(gpu.CASES)
    _print(gpu.rows(cases, args.batch_size), gpu.line)
  elif args.suite == "dense":
    cases = _known(args.cases, dense_connection.CASES) or tuple(dense_connection.CASES)
    _print(dense_connection.rows(cases, args.batch_size), dense_connection.line)
  elif args.suite == "convolutions":
    cases = _known(args.cases, convolutions.CASES) or tuple(convolutions.CASES)
    _print(convolutions.rows(cases, args.batch_size, precision), convolutions.line)
  else:
    cases = _known(args.cases, training.CASES) or training.SUITES[args.suite]
    _print(training.rows(args.suite, cases, args.batch_size, precision), training.line)


def _known(cases: Sequence[str] | None, names: Iterable[str]) -> Sequence[str]:
  """Returns the cases that the flag names, none by default; UsageError if one is not in the suite."""
  return cli.known("cases", cases or (), names)


def _print(rows: Iterable[dict[str, Any]], line: Callable[[dict[str, Any]], str]) -> None:
  """Prints each row as soon as it is measured, as JSON or as a line of the table."""
  for _ in _printed(rows, line):
    pass


def _printed(
  rows: Iterable[dict[str, Any]], line: Callable[[dict[str, Any]], str]
) -> Iterator[dict[str, Any]]:
  """Prints the rows, and yields them."""
  for row in rows:
    print(json.dumps(row) if flags.FLAGS.json else line(row), flush=True)
    yield row


def define_flags() -> None:
  """Defines the flags of this command."""
  flags.DEFINE_enum("suite", "train", SUITES, "Suite to run; see above.")
  flags.DEFINE_list("cases", None, "Cases to run; all of the suite if not given.")
  flags.DEFINE_integer(
    "batch_size", 128, "Images per training step (not for solvers, gradients and batches)."
  )
  flags.DEFINE_enum(
    "precision",
    None,
    ("float32", "bfloat16"),
    "Data type of the convolutions (not for solvers, gradients, batches, dense and gpu). If not given,"
    " bfloat16 for kernels and float32 for the other suites.",
  )
  flags.DEFINE_list("solvers", list(peers.SOLVERS), "Solvers to run, for the suite solvers.")
  cli.define_path(
    "peer_python",
    None,
    "Python interpreter with the libraries that are missing in this one, such as SCICO, which needs its"
    " own version of JAX, for the suite solvers.",
  )
  flags.DEFINE_bool("json", False, "Print one JSON object per row instead of a table.")


if __name__ == "__main__":
  define_flags()
  cli.run(main, prints_only=True)
