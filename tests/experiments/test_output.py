"""Closed or full stdout and stderr: no traceback, the right exit code, and complete files."""

import os
import subprocess
import sys

import pytest

from tests.faults.harness import ROOT, TINY, run, summary

PROGRAM = """
import os, pathlib, sys
from experiments import cli
kind = os.environ["KIND"]
def main():
  pathlib.Path(os.environ["RESULT"]).write_text("result")
  print("line " * 100_000)
  print("progress", file=sys.stderr)
  return 3 if kind == "fails" else None
cli.run(main, prints_only=kind == "prints")
"""
LOST = "cannot write to stdout: No space left on device\n"


def shell(kind, path, redirection):
  """Exit code and stderr of a command that prints more than fits into a pipe."""
  command = ["bash", "-c", f'set -o pipefail; "$0" -c "$1" {redirection}', sys.executable, PROGRAM]
  names = {**os.environ, "KIND": kind, "RESULT": str(path)}
  done = subprocess.run(
    command, cwd=ROOT, env=names, capture_output=True, text=True, timeout=60, check=False
  )
  return done.returncode, done.stderr


@pytest.mark.parametrize(
  ("kind", "redirection", "code", "err"),
  [
    ("files", "<&- >&- 2>&-", 0, ""),
    pytest.param("files", "2>&1 | true", 0, "", marks=pytest.mark.slow),
    ("files", ">/dev/full", 0, f"progress\nwarning: {LOST}"),
    pytest.param("files", ">/dev/null 2>/dev/full", 0, "", marks=pytest.mark.slow),
    ("prints", "| head -1 >/dev/null", 0, "progress\n"),
    ("prints", ">/dev/full", 2, f"progress\nerror: {LOST}"),
    pytest.param("fails", "| true", 3, "progress\n", marks=pytest.mark.slow),
  ],
)
def test_a_command_whose_output_cannot_be_written(tmp_path, kind, redirection, code, err):
  assert shell(kind, tmp_path / "file", redirection) == (code, err)
  assert (tmp_path / "file").read_text() == "result"


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", "2>&1 | head -1", ">/dev/full 2>/dev/full"])
def test_a_run_without_output_keeps_its_results(tmp_path, redirection):
  line = f'set -o pipefail; "$0" -m experiments.run "$@" {redirection}'
  command = ["bash", "-c", line, sys.executable, *TINY, f"--workdir={tmp_path}"]
  assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300, check=False).returncode == 0
  kept = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name.endswith(".jsonl")}
  assert summary(run(*TINY, f"--workdir={tmp_path}"))["status"] == "ok"
  assert kept == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name.endswith(".jsonl")}
