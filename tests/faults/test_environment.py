"""Environment variables that a command must report, and those that must not matter; real processes."""

import os
import subprocess
import sys

import jax
import pytest

from experiments import environment
from tests.faults.harness import ROOT, assert_refused

TINY = ("--dataset=digits", "--depth=2", "--width=4", "--max_steps=1", "--batch_size=64")


def command(module, *arguments, **variables):
  variables = {k: v for k, v in (os.environ | variables).items() if v is not None}
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)],
    cwd=ROOT,
    env=variables,
    capture_output=True,
    text=True,
    encoding="utf-8",
    timeout=300,
    check=False,
  )


UNUSABLE = {
  "no GPU": ("JAX_PLATFORMS", {"JAX_PLATFORMS": "cuda"}),
  "no platform": ("JAX_PLATFORMS", {"JAX_PLATFORMS": "nonsense"}),
  "no device": ("JAX_NUM_CPU_DEVICES", {"JAX_NUM_CPU_DEVICES": "0"}),
  "no truth value": ("JAX_ENABLE_X64", {"JAX_ENABLE_X64": "garbage"}),
  "no choice": ("jax_default_prng_impl", {"JAX_DEFAULT_PRNG_IMPL": "garbage"}),
  "no flag of XLA": ("XLA_FLAGS", {"XLA_FLAGS": "--xla_nonsense=3"}),
  "no value of XLA": ("xla_cpu_enable_fast_math", {"XLA_FLAGS": "--xla_cpu_enable_fast_math=maybe"}),
  "no file of XLA": ("/no/file", {"XLA_FLAGS": "/no/file"}),
}


@pytest.mark.parametrize(
  "what",
  [
    what if what in ("no GPU", "no flag of XLA") else pytest.param(what, marks=pytest.mark.slow)
    for what in UNUSABLE
  ],
)
def test_an_unusable_environment_is_an_error_in_one_line(what, tmp_path):
  if what == "no GPU" and any(name.startswith("/dev/nvidia") for name in os.listdir("/dev")):
    pytest.skip("there may be a GPU")
  name, variables = UNUSABLE[what]
  assert_refused(command("run", *TINY, f"--workdir={tmp_path / 'run'}", **variables), name)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["gaussian_centers", "describe", "benchmark"])
def test_an_unusable_environment_for_other_commands(module, tmp_path):
  workdir = [f"--workdir={tmp_path / 'run'}"] if module == "gaussian_centers" else []
  assert_refused(command(module, *workdir, JAX_PLATFORMS="nonsense"), "JAX_PLATFORMS")
  assert list(tmp_path.iterdir()) == []


def test_an_unusable_environment_for_several_processes(tmp_path):
  of_one = ("--coordinator=localhost:18765", "--num_processes=1", "--process_id=0")
  done = command("run", *TINY, *of_one, f"--workdir={tmp_path / 'run'}", JAX_PLATFORMS="nonsense")
  assert_refused(done, "JAX_PLATFORMS")
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_variables_that_must_not_matter(tmp_path):
  """A Matplotlib backend that needs a window, no home directory, no caches, an ASCII terminal."""
  done = command(
    "run",
    *TINY,
    f"--workdir={tmp_path / 'run'}",
    MPLBACKEND="nonsense",
    MPLCONFIGDIR="/dev/null/matplotlib",
    HOME="/dev/null",
    TFDS_DATA_DIR=None,
    JAX_COMPILATION_CACHE_DIR="/dev/null/compiled",
    PYTHONIOENCODING="ascii",
    LC_ALL="POSIX",
    PYTHONUTF8="0",
    PYTHONCOERCECLOCALE="0",
    XLA_FLAGS="--xla_cpu_enable_fast_math=false",
    JAX_TRANSFER_GUARD="disallow",
  )
  assert done.returncode == 0, done.stderr
  assert "Traceback" not in done.stderr
  assert done.stderr.count("compiled programs are not cached") == 1
  assert (tmp_path / "run" / "curves.png").stat().st_size > 0


def test_no_offset_is_added_to_seeds():
  expected = jax.random.key_data(jax.random.key(3))
  jax.config.update("jax_random_seed_offset", 7)  # as JAX_RANDOM_SEED_OFFSET does
  try:
    assert environment.prepare(use_devices=False) is None
    assert (jax.random.key_data(jax.random.key(3)) == expected).all()
  finally:
    jax.config.update("jax_random_seed_offset", 0)


@pytest.mark.slow
def test_a_report_is_utf_8_in_every_locale(tmp_path):
  done = command(
    "report", f"--results={tmp_path}", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
  )
  assert done.returncode == 0, done.stderr
  assert "±" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
