"""The library that makes file calls fail, and a part of the sweep over all calls."""

import os
import subprocess
import sys

import pytest

from tests.faults import sweep

pytestmark = pytest.mark.skipif(not sweep.has_compiler(), reason="there is no C compiler (cc)")

CALLS = """
import ctypes, os, sys
library, folder, nth, lasting = sys.argv[1:]
faults = ctypes.CDLL(library)
faults.fault_arm(folder.encode(), ctypes.c_long(int(nth)), 28, int(lasting))
def attempt(call, *arguments):
  try:
    return call(*arguments)
  except OSError as error:
    print(call.__name__, error.errno)
attempt(os.mkdir, folder + "-beside")
attempt(os.mkdir, folder + "/new")
file = attempt(os.open, folder + "/new/file", os.O_CREAT | os.O_WRONLY)
attempt(os.write, file, b"text")
attempt(os.fsync, file)
attempt(os.rename, folder + "/new/file", folder + "/new/other")
attempt(os.close, file)
print(faults.fault_count())
"""


@pytest.mark.parametrize(
  ("nth", "lasting", "expected"),
  [
    (0, 0, ["6"]),
    (3, 0, ["write 28", "6"]),
    (4, 1, ["fsync 28", "rename 28", "close 28", "6"]),
  ],
)
def test_the_library_counts_calls_below_the_folder_and_makes_them_fail(tmp_path, nth, lasting, expected):
  library, folder = sweep.compiled(tmp_path), tmp_path / "folder"
  folder.mkdir()
  done = subprocess.run(
    [sys.executable, "-c", CALLS, str(library), str(folder), str(nth), str(lasting)],
    env={**os.environ, "LD_PRELOAD": str(library)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split("\n")[:-1] == expected
  assert (folder / "new" / ("file" if lasting else "other")).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("resumed", "every"), [(False, 20), (True, 30)])
def test_a_part_of_the_calls_of_a_run(tmp_path, resumed, every):
  rows = list(sweep.sweep(tmp_path, every=every, first=4, resumed=resumed))
  assert len(rows) >= 4
  assert [row for row in rows if row["wrong"]] == []
  assert {row["code"] for row in rows} == {0, 2}  # some faults end the run, and some do not
