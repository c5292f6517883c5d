"""Commands that train the networks and reproduce the tables and figures of the paper."""

import sys

from experiments.environment import import_jax

if sys.argv[:1] == ["-m"]:  # python -m experiments.COMMAND: watch before the imports, which take seconds
  from experiments import output, signals

  output.open_closed()  # before another file gets the descriptors of closed streams
  signals.watch()

import_jax()  # here, because the modules of every command import JAX
