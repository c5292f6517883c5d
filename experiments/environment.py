"""Environment variables that would end a command in a traceback, or in the middle of its work."""

import os
import re
import subprocess
import sys

SECONDS = 60  # for an interpreter to start on a busy machine


def import_jax() -> None:
  """Imports JAX, which reads the JAX_* variables; exits with one line and code 2 if it refuses one."""
  try:
    import jax  # noqa: F401
  except ValueError as error:
    print("error: the environment:", " ".join(str(error).split()), file=sys.stderr, flush=True)
    sys.exit(2)


def prepare(*, use_devices: bool) -> str | None:
  """Makes the environment fit for a command; returns what is wrong with it in one line, or None.

  Matplotlib is given its backend for files, as commands open no window, and JAX adds nothing to seeds
  (JAX_RANDOM_SEED_OFFSET).

  Args:
    use_devices: Whether to look for the devices that variables of JAX ask for. This must not be done
      before the processes of a run have found each other, nor where it leaves the devices to others.
  """
  import jax

  os.environ["MPLBACKEND"] = "agg"
  jax.config.update("jax_random_seed_offset", 0)
  return _xla_problem() or (platform_problem() if use_devices else None)


def platform_problem() -> str | None:
  """Why the devices that variables of JAX ask for cannot be used; None where they can or none is set."""
  import jax

  given = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("JAX_"))
  if not given:
    return None
  try:
    jax.devices()
  except Exception as error:  # JAX raises RuntimeError, or AssertionError for a plugin that is missing.
    reason = " ".join(str(error).split()).removesuffix(".") or "there is none"
    return f"the environment: JAX has no devices with {' '.join(given)} ({reason[:200]})"
  return None


def _xla_problem():
  """What XLA says against XLA_FLAGS, which it would end the process with."""
  if "XLA_FLAGS" not in os.environ:
    return None
  # The least that makes XLA read them.
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
