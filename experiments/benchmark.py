"""Speed and memory, one row a measurement: python -m experiments.benchmark --suite=train --json.

Suites: `train` (median time of a training step, beside PyTorch's), `compile` (time to trace and compile
one), `memory` (time and XLA's plan of its memory against what is computed again), `convolutions` (those
of the networks one by one, beside PyTorch's), `dense` (ways to write the dense connection), `gradients`
(differentiating a solver against the number of its iterations), `solvers` (time to a relative objective
gap, beside SPORCO and SCICO), `loop` (the host's part of the time of a short epoch), `gpu` (the steps of
the networks on a GPU beside PyTorch's, in five minutes), `kernels` (what a step or a solver's iteration
launches on a GPU, counted without one; needs the CUDA plugin: pip install 'cscjax[cuda12]'). Peers are
measured where they are installed: pip install 'cscjax[bench]'. Prints one JSON object a row with --json,
else a table.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from absl import flags

from experiments import cli
from experiments.benchmarks import (
  convolutions,
  dense_connection,
  gpu,
  gradients,
  kernels,
  loop,
  problems,
  solvers,
  training,
)

SUITES = (*training.SUITES, "convolutions", "dense", "gradients", "solvers", "loop", "kernels", "gpu")


def main() -> None:
  """Prints a row for each case of the suite."""
  args = flags.FLAGS
  if not 1 <= args.batch_size <= 2**16:
    raise cli.UsageError(f"--batch_size: expected an integer in 1..{2**16}, got {args.batch_size}")
  precision = args.precision or ("bfloat16" if args.suite == "kernels" else "float32")
  if args.suite == "solvers":
    cases = _known(args.cases, problems.CASES) or problems.available()
    if not args.cases and cases != tuple(problems.CASES):
      print("without SPORCO and scikit-image only", *cases, file=sys.stderr)
    _print(solvers.rows(cases, args.solvers, args.scico_python), solvers.line)
  elif args.suite == "gradients":
    cases = _known(args.cases, gradients.CASES) or tuple(gradients.CASES)
    _print(gradients.rows(cases), gradients.line)
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


def _known(cases, names):
  unknown = [case for case in cases or () if case not in names]
  if unknown:
    raise cli.UsageError(f"--cases: unknown {', '.join(unknown)}; there are {', '.join(names)}")
  return cases


def _print(rows: Iterable[dict[str, Any]], line) -> None:
  for row in rows:
    print(json.dumps(row) if flags.FLAGS.json else line(row), flush=True)


def define_flags() -> None:
  """Defines this command's flags."""
  flags.DEFINE_enum("suite", "train", SUITES, "What to measure.")
  flags.DEFINE_list("cases", None, "Cases to run; those of the suite if none are named.")
  flags.DEFINE_integer("batch_size", 128, "Images a step (not solvers, gradients).")
  flags.DEFINE_enum(
    "precision",
    None,
    ("float32", "bfloat16"),
    "Of convolutions (training, convolutions, loop, kernels): float32 if None, in kernels bfloat16.",
  )
  flags.DEFINE_list("solvers", list(solvers.SOLVERS), "Solvers to run (solvers).")
  cli.define_path(
    "scico_python", sys.executable, "Interpreter that has SCICO, which pins its own JAX (solvers)."
  )
  flags.DEFINE_bool("json", False, "One JSON object a row.")


if __name__ == "__main__":
  define_flags()
  cli.run(main, prints_only=True)
