"""Signals in a process that imports nothing else, and in a run during its imports."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments.signals import REPEATED_SECONDS, STOPPING
from tests.faults.harness import ROOT, TINY, start, wait_for

WAIT = "print('ready', flush=True); time.sleep(60)"
IN_C = "print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # minutes in C code
PROGRAM = """
import hashlib, sys, time
from experiments import signals
signals.watch()
"""

SIGNALS = [STOPPING[0], *(pytest.param(number, marks=pytest.mark.slow) for number in STOPPING[1:])]


def process(body, ignored=None):
  """Starts a process that handles signals; returns it when it is ready."""
  begin = "" if ignored is None else f"import signal; signal.signal({int(ignored)}, signal.SIG_IGN)\n"
  started = subprocess.Popen(
    [sys.executable, "-c", begin + PROGRAM + body],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert started.stdout.readline() == "ready\n"
  return started


def end(started, *numbers):
  """Sends the signals one after another; returns exit code, stdout and stderr."""
  for number in numbers:
    started.send_signal(number)
    time.sleep(2 * REPEATED_SECONDS)
  out, err = started.communicate(timeout=20)
  return started.returncode, out, err


@pytest.mark.parametrize("number", SIGNALS)
def test_during_the_start_the_first_signal_ends_the_process(number):
  assert end(process(WAIT), number) == (128 + number, "", "")
  assert end(process(IN_C), number) == (128 + number, "", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_later_the_first_signal_interrupts_the_process(number):
  body = f"""
signals.set_mode("interrupt")
try:
  {WAIT}
except signals.Interrupted as error:
  print("cleaned up")
  sys.exit(error.code)
"""
  assert end(process(body), number) == (128 + number, "cleaned up\n", "")


def test_a_recorded_signal_and_a_second_one_that_ends_the_process_in_c_code():
  body = f"""
with signals.remembered():
  print("ready", flush=True)
  while not signals.received():
    time.sleep(0.01)
  print("received", signals.received(), flush=True)
  {IN_C}
"""
  assert end(process(body), signal.SIGUSR1, signal.SIGHUP) == (129, "received 10\nready\n", "")


def test_an_immediate_repetition_of_a_signal_is_ignored():
  body = """
with signals.remembered():
  print("ready", flush=True)
  time.sleep(1)
"""
  started = process(body)
  for _ in range(2):
    started.send_signal(signal.SIGHUP)
    time.sleep(REPEATED_SECONDS / 10)
  assert end(started) == (0, "", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ignored_at_the_start_stays_ignored(number):
  other = signal.SIGHUP if number == signal.SIGTERM else signal.SIGTERM
  assert end(process(WAIT, ignored=number), number, other) == (128 + other, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_the_imports_of_a_command_gives_no_traceback(tmp_path, number):
  started = start(*TINY, f"--workdir={tmp_path / 'run'}")
  caught = pathlib.Path(f"/proc/{started.pid}/status")

  def is_watching():
    (mask,) = (line for line in caught.read_text().splitlines() if line.startswith("SigCgt"))
    return int(mask.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1

  wait_for(is_watching, started)
  assert end(started, number) == (128 + number, "", "")
  assert not (tmp_path / "run").exists()
