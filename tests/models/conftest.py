"""The networks' tests compile much and run little: XLA's optimizations cost more than they save."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def _fast_compilation():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
