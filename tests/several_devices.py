"""Runs a script in a process in which the CPU counts as several JAX devices."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any


def xla_flags(devices: int) -> str:
  """Returns the value of XLA_FLAGS with which the CPU counts as several devices."""
  return f"--xla_force_host_platform_device_count={devices} {os.environ.get('XLA_FLAGS', '')}"


def report_of(script: pathlib.Path, devices: int, seconds: float = 500) -> dict[str, Any]:
  """Runs a script and returns the JSON object that it prints, which contains "devices".

  Args:
    script: Path of the script.
    devices: Number of CPU devices.
    seconds: Time limit in seconds.

  Returns:
    The object.
  """
  environment = {**os.environ, "XLA_FLAGS": xla_flags(devices), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=seconds
  )
  assert done.returncode == 0, done.stderr
  report = json.loads(done.stdout)
  assert report["devices"] == devices
  return report
