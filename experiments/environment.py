"""Detects environment variables that would make a command crash or fail late."""

import os
import re
import subprocess
import sys

SECONDS = 60  # time limit for an interpreter to start on a busy machine


def import_jax() -> None:
  """Imports JAX, which reads the JAX_* variables; exits with one line and code 2 if one is invalid."""
  try:
    import jax  # noqa: F401
  except ValueError as error:
    print("error: the environment:", " ".join(str(error).split()), file=sys.stderr, flush=True)
    sys.exit(2)


def prepare(*, use_devices: bool) -> str | None:
  """Prepares the environment for a command, and returns what is wrong with it, if anything.

  Matplotlib gets its backend for files, because commands open no window, and JAX_RANDOM_SEED_OFFSET is
  ignored, so that seeds mean the same everywhere.

  Args:
    use_devices: Whether to initialize the devices that variables of JAX ask for. This must not be done
      before the processes of a run are connected, or if other processes will use the devices.

  Returns:
    One line that names the variable at fault, or None.
  """
  import jax

  os.environ["MPLBACKEND"] = "agg"
  jax.config.update("jax_random_seed_offset", 0)
  return _xla_problem() or (platform_problem() if use_devices else None)


def platform_problem() -> str | None:
  """Returns why the devices that the JAX_* variables ask for cannot be used, or None if they can."""
  import jax

  given = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("JAX_"))
  if not given:
    return None
  try:
    jax.devices()
  except Exception as error:  # RuntimeError, or AssertionError if a plugin is missing
    reason = " ".join(str(error).split()).removesuffix(".") or "none found"
    return f"the environment: JAX has no devices with {' '.join(given)} ({reason[:200]})"
  return None


def _xla_problem() -> str | None:
  """Returns XLA's error message about XLA_FLAGS, with which it would abort the process, or None."""
  if "XLA_FLAGS" not in os.environ:
    return None
  # The cheapest call that makes XLA parse the flags.
  read = "from jaxlib import xla_client; xla_client.CompileOptions().executable_build_options"
  try:
    done = subprocess.run(
      [sys.executable, "-c", f"{read}.debug_options"],
      capture_output=True,
      text=True,
      errors="replace",
      timeout=SECONDS,
      check=False,
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  said = re.search(r"^[EF]\d{4} .*?\] (.*)$", done.stderr, re.MULTILINE)
  if done.returncode == 0 or said is None:
    return None
  return f"XLA_FLAGS: expected flags that XLA knows ({said[1][:300]})"
