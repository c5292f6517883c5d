"""A worker's process answers, fails, takes too long or dies; the process that asks goes on."""

import os
import time

import pytest

from experiments.benchmarks.worker import Worker


def make_answer(name):
  def answer(request):
    if request["do"] == "fail":
      raise ValueError("no\n such thing")
    if request["do"] == "sleep":
      time.sleep(60)
    if request["do"] == "exit":
      os._exit(3)
    return {"name": name, "process": os.getpid()}

  return answer


@pytest.fixture
def worker():
  worker = Worker(make_answer, "first")
  yield worker
  worker.close()


def ask(worker, what, seconds=60):
  worker.send({"do": what})
  return worker.receive(time.monotonic() + seconds)


@pytest.mark.slow
def test_a_worker_goes_on_after_a_failure_and_is_replaced_after_its_end(worker):
  first = ask(worker, "answer")
  assert first == {"name": "first", "process": first["process"]}
  assert first["process"] != os.getpid()
  assert ask(worker, "fail") == {"error": "ValueError: no such thing"}
  assert ask(worker, "answer") == first
  assert ask(worker, "exit") == {"error": "the process ended with code 3"}
  second = ask(worker, "answer")
  assert second["process"] != first["process"]
  assert ask(worker, "sleep", seconds=1) == {"error": "no answer within 1 s"}
  with pytest.raises(ProcessLookupError):
    os.kill(second["process"], 0)
  assert ask(worker, "answer")["process"] != second["process"]
