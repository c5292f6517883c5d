"""A run does not use the network unless a download is needed. (ruff checks what the code imports.)"""

import pytest

from tests.faults.harness import ROOT, TINY, run, summary

FORBID = """
import socket
def refuse(*arguments, **options):
  raise RuntimeError("the network was used")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse
"""


@pytest.mark.slow
def test_a_run_uses_no_network(tmp_path, monkeypatch):
  (tmp_path / "sitecustomize.py").write_text(FORBID)
  monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
  assert summary(run(*TINY, "--max_steps=3", f"--workdir={tmp_path / 'run'}"))["status"] != "interrupted"
  folders = (f"--data_dir={tmp_path}", f"--cache_dir={tmp_path}", f"--workdir={tmp_path / 'no'}")
  done = run("--dataset=cifar10", *folders)
  assert "the network was used" in done.stderr  # where a download is asked for, it is found out
