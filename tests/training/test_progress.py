"""The progress of a run: what its lines and its bar say about the time left."""

import sys
import types

import pytest

from cscjax.training import Lines, _progress

METRICS = {"loss": 1.5, "accuracy": 0.5}


@pytest.fixture
def clock(monkeypatch):
  """A clock whose time is set by the test."""
  clock = types.SimpleNamespace(now=1000.0)
  monkeypatch.setattr(_progress, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
  return clock


def row(step):
  return {"step": step, "epoch": 1.0, "split": "test", **METRICS}


def test_the_time_left_excludes_compilation(clock, capsys):
  lines = Lines(0, 100)

  def trained(seconds, step, rate):
    clock.now += seconds
    lines.trained(step, METRICS, rate)
    return capsys.readouterr().err

  assert trained(600, 1, None) == "step 1/100  loss 1.5000  accuracy 0.5000\n"
  assert trained(5, 6, 64.0) == ""  # too early for a line
  assert trained(6, 12, 64.0).endswith("  64 images/s  1.5 min left\n")  # 88 steps of a second
  clock.now += 300  # the first evaluation compiles
  lines.evaluated(row(12))
  assert capsys.readouterr().err == "epoch 1  test        loss 1.5000  accuracy 0.5000\n"
  assert trained(10, 22, 64.0).endswith("1.3 min left\n")  # 78 steps of a second
  clock.now += 10
  lines.evaluated(row(22))
  capsys.readouterr()
  assert trained(12, 34, 64.0).endswith("1.6 min left\n")  # 66 steps of 32 / 22 seconds


def test_the_bar_excludes_compilation(clock, monkeypatch):
  bar = _progress.Bar(0, 100)
  tqdm = bar._bar
  monkeypatch.setattr(tqdm, "_time", lambda: clock.now)
  tqdm.start_t = tqdm.last_print_t = clock.now
  clock.now += 600
  bar.trained(1, METRICS, None)
  clock.now += 10
  bar.trained(11, METRICS, 64.0)
  assert (tqdm.n, tqdm.format_dict["elapsed"]) == (11, 10)
  assert tqdm.format_dict["rate"] == pytest.approx(1.1)
  clock.now += 300
  bar.evaluated(row(11))
  assert tqdm.format_dict["elapsed"] == 10
  bar.close()


def test_without_tqdm_progress_is_shown_as_lines(monkeypatch):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
  bar = _progress.create_progress(0, 1, shown=True)
  bar.close()
  assert isinstance(bar, _progress.Bar)
  monkeypatch.setitem(sys.modules, "tqdm", None)
  assert type(_progress.create_progress(0, 1, shown=True)) is Lines
