"""Helpers for real runs as processes, and for their faults: kills, damaged files, full disks.

The results of a run are read from its files only, so that no code under test is needed for it.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).parents[2]
TINY = ("--dataset=digits", "--depth=2", "--width=4", "--unfolding=1", "--epochs=3", "--batch_size=64")
EPOCH = 22  # steps in an epoch of the digits with this batch size
OFTEN = ("--checkpoint_seconds=0", "--dispatch_seconds=0")  # a checkpoint after every step


def command(*arguments):
  return [sys.executable, "-m", "experiments.run", *map(str, arguments)]


def run(*arguments):
  """Executes a run to its end; returns its exit code, stdout and stderr."""
  return subprocess.run(
    command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
  )


def start(*arguments):
  return subprocess.Popen(
    command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def wait_for(condition, process, seconds=120):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < deadline
    time.sleep(0.02)


def steps_saved(workdir):
  """Steps of the complete checkpoints, in increasing order."""
  folder = workdir / "checkpoints"
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []


def writes_under_way(workdir, since):
  """Whether a checkpoint was started after the time `since` and is not finished."""
  for path in (workdir / "checkpoints").glob("*-tmp*"):
    with contextlib.suppress(FileNotFoundError):  # it has just been finished
      if path.stat().st_mtime >= since:
        return True
  return False


def final_digest(workdir):
  """SHA-256 of the last saved state."""
  last = steps_saved(workdir)[-1]
  return json.loads((workdir / "checkpoints" / str(last) / "meta" / "metadata").read_text())["digest"]


def rows(workdir):
  """The rows of the metrics without the values that depend on the clock."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  timed = {"seconds", "images_per_second", "checksum"}
  return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def rows_after(workdir, step):
  """Number of complete rows in the metrics that belong to later steps."""
  path = workdir / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  return sum(json.loads(line)["step"] > step for line in lines if line.endswith("\n"))


def summary(done):
  """The summary that a successful run printed."""
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def assert_refused(done, *names):
  """Asserts exit code 2, and a single line on stderr that contains all of `names`."""
  assert done.returncode == 2, done.stderr
  lines = done.stderr.strip().splitlines()
  assert len(lines) == 1, done.stderr
  assert lines[0].startswith("error: ")
  for name in names:
    assert name in lines[0]
  assert done.stdout == ""


def contents(folder):
  """All files below a folder with their bytes, to check that nothing has changed."""
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0xFF
  path.write_bytes(bytes(content))


def remove(path):
  path.unlink()


def save_as_old(folder, state, seconds):
  """Writes a checkpoint in the format of cscjax 0.1.0."""
  state, digest = jax.device_get(state), hashlib.sha256()
  for leaf in map(np.ascontiguousarray, jax.tree.leaves(state)):
    digest.update(f"{leaf.dtype.name}{leaf.shape}".encode() + leaf.tobytes())
  meta = {"seconds": seconds, "digest": digest.hexdigest()}
  args = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(meta)}
  with ocp.CheckpointManager(folder.absolute()) as manager:
    manager.save(int(state.step), args=ocp.args.Composite(**args))


@contextlib.contextmanager
def small_disk(folder, options="size=1m"):
  """Mounts a small file system at `folder`; PermissionError if that is not permitted."""
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError) as error:
    raise PermissionError(f"cannot mount a tmpfs: {error}") from error
  try:
    yield folder
  finally:
    subprocess.run(["umount", str(folder)], check=True)


def fill(path, spare=0):
  """Fills a disk with a file, except for `spare` bytes."""
  with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
    while file.write(bytes(4096)):
      pass
  os.truncate(path, max(path.stat().st_size - spare, 0))
