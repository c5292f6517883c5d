"""The compilation cache: a repeated command compiles nothing, and a damaged cache does no harm."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
  "--dataset=digits",
  "--depth=2",
  "--width=4",
  "--unfolding=1",
  "--max_steps=3",
  "--batch_size=64",
)


def run(workdir, *flags):
  environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
  command = [sys.executable, "-m", "experiments.run", *TINY, f"--workdir={workdir}", *flags]
  return subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
  )


def accuracy(done):
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])["test_accuracy"]


def programs(folder):
  """The cache entries with their times of change, without the files in which JAX records their use."""
  return {
    path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name.endswith("-cache")
  }


@pytest.mark.slow
def test_a_repeated_command_compiles_nothing(tmp_path):
  flags = (f"--cache_dir={tmp_path / 'cache'}",)
  first = accuracy(run(tmp_path / "one", *flags))
  folder = tmp_path / "cache" / "compiled"
  before = programs(folder)
  assert len(before) > 5
  assert accuracy(run(tmp_path / "two", *flags)) == first
  assert programs(folder) == before


@pytest.mark.slow
def test_damaged_programs_are_compiled_again(tmp_path):
  folder = tmp_path / "programs"
  flags = (f"--compilation_cache={folder}",)
  first = accuracy(run(tmp_path / "one", *flags))
  for name in programs(folder):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
  assert accuracy(run(tmp_path / "two", *flags)) == first


@pytest.mark.slow
def test_the_cache_can_be_turned_off(tmp_path):
  accuracy(run(tmp_path / "run", f"--cache_dir={tmp_path}", "--compilation_cache=off"))
  assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
  (tmp_path / "file").touch()
  done = run(tmp_path / "run", f"--compilation_cache={tmp_path / 'file' / 'below'}")
  assert done.returncode == 2
  assert done.stderr.startswith("error: --compilation_cache: cannot write to ")
  assert done.stderr.count("\n") == 1
