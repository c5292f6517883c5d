"""Runs, tables and figures of the paper, on the command line."""

from experiments.environment import import_jax

import_jax()  # here, as the modules of every command import it
