"""The public interface of the package: its exports, their docstrings, and what it does not import."""

import inspect
import subprocess
import sys

import pytest

import cscjax
import cscjax.dictionaries
import cscjax.ops
import cscjax.plots
import cscjax.runs
import cscjax.solvers

PACKAGES = [
  cscjax,
  cscjax.ops,
  cscjax.dictionaries,
  cscjax.solvers,
  cscjax.theory,
  cscjax.learning,
  cscjax.plots,
  cscjax.runs,
]


def _public():
  for package in PACKAGES:
    for name in package.__all__:
      yield pytest.param(getattr(package, name), id=f"{package.__name__}.{name}")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_exports(package):
  assert package.__doc__
  assert len(set(package.__all__)) == len(package.__all__)
  assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize(
  ("argument", "default"),
  [("nonnegative", False), ("record", ("objective",)), ("callback", None), ("progress", False)],
)
def test_an_argument_has_one_default_in_every_solver(argument, default):
  functions = [f for f in vars(cscjax).values() if inspect.isfunction(f)]
  found = [p[argument] for p in (inspect.signature(f).parameters for f in functions) if argument in p]
  assert len(found) >= 3
  assert {parameter.default for parameter in found} == {default}


def test_importing_is_light_and_changes_nothing():
  code = """
import logging, sys, warnings
import jax
before = (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision, list(warnings.filters),
  list(logging.getLogger().handlers))
import cscjax
after = (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision, list(warnings.filters),
  list(logging.getLogger().handlers))
assert before == after
heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "cscjax.models", "cscjax.data"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr


def test_load_run_is_imported_on_demand():
  assert cscjax.load_run is cscjax.runs.load_run
  with pytest.raises(AttributeError, match=r"^module 'cscjax' has no attribute 'load_runs'$"):
    _ = cscjax.load_runs
