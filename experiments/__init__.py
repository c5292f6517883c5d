"""Runs, tables and figures of the paper, on the command line."""

import sys

from experiments.environment import import_jax

if sys.argv[:1] == ["-m"]:  # python -m experiments.COMMAND; its other imports take seconds
  from experiments import output, signals

  output.open_closed()  # before anything takes their numbers
  signals.watch()

import_jax()  # here, as the modules of every command import it
