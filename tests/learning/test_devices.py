"""Learning from images that are sharded over several devices, or over two processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.learning import process_check
from tests.several_devices import report_of, xla_flags


@pytest.mark.slow
def test_four_devices_learn_what_one_device_learns():
  report = report_of(pathlib.Path(__file__).with_name("devices_check.py"), devices=4, seconds=1500)
  for name, error in report["errors"].items():
    assert error < 1e-5, (name, error)
  # Each of four devices encodes two of the eight images of a minibatch.
  assert report["codes"] == {"Auto": [2], "Explicit": [2]}


@pytest.mark.slow
def test_two_processes_learn_what_one_process_learns():
  """Each process has two devices, and half of the images and the masks."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  environment = {**os.environ, "XLA_FLAGS": xla_flags(2), "JAX_PLATFORMS": "cpu"}
  processes = [
    subprocess.Popen(
      [sys.executable, process_check.__file__, str(port), str(process_id)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process_id in range(2)
  ]
  (out, error), _ = [process.communicate(timeout=900) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], error
  images, mask, learner = process_check.images(), process_check.masks(), process_check.LEARNER
  state = learner.step(images, learner.init(images, mask=mask), mask=mask)
  expected = learner.run(images, steps=3, batch_size=4, state=state, mask=mask).dictionary.filters
  filters = json.loads(out.splitlines()[-1])  # Gloo prints lines before
  np.testing.assert_allclose(np.float32(filters), expected, atol=1e-5)
