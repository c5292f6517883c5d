"""Large problems in processes of their own: the values, and the peak memory."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
@pytest.mark.parametrize(
  ("arguments", "megabytes"),
  [
    # Five codes of 256 MiB. The compiler takes about 100 MiB.
    (["2048,2048", "1", "8,8", "16"], 5 * 256),
    # Eight signals of 84 MiB, larger than the codes: the code and the state have three codes and two
    # signals, and an iteration needs two signals more.
    (["1000000", "22", "64", "20"], 8 * 84),
  ],
  ids=["image", "eeg"],
)
def test_values_and_memory(arguments, megabytes):
  command = [sys.executable, "-m", "tests.solvers.large_check", *arguments]
  run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
  assert run.returncode == 0, run.stderr
  found = json.loads(run.stdout.splitlines()[-1])
  assert found["size"] > 0.01  # the code in the middle is not zero
  assert found["deviation"] < 1e-5 * max(found["size"], 1)
  assert found["bytes"] < megabytes * 2**20
