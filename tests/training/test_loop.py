"""When the loop evaluates, writes checkpoints and stops, with stand-ins for the compiled functions."""

import contextlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax import training
from cscjax.training import _loop as loop
from cscjax.training._loop import ChunkSizer


class Clock:
  """A clock that only a test advances."""

  def __init__(self):
    self.now = 0.0

  def perf_counter(self):
    return self.now


class Keeper:
  """A stand-in for `Checkpoints` that records the saved steps, or passes calls on to a real one."""

  def __init__(self, clock, seconds, checkpoints=None):
    self.steps, self._clock, self._seconds, self._checkpoints = [], clock, seconds, checkpoints

  def save(self, state, seconds, **options):
    self.steps.append(int(state.step))
    self._clock.now += self._seconds
    if self._checkpoints is not None:
      self._checkpoints.save(state, seconds, **options)

  def best(self):
    return None if self._checkpoints is None else self._checkpoints.best()


class Silent:
  def trained(self, step, metrics, images_per_second):
    pass

  def evaluated(self, row):
    pass


def state_at(step, bad_step=-1):
  one = jnp.ones((), jnp.float32)
  metrics = training.EpochMetrics(2 * one, one, 4 * one)
  return training.TrainState(jnp.int32(step), {}, {}, {}, metrics, jnp.int32(bad_step))


def run(
  tmp_path,
  *,
  start=0,
  total=25,
  stop_at=None,
  bad_at=None,
  split="test",
  correct=lambda step: 1.0,
  step_seconds=0.01,
  save_seconds=0.0,
  checkpoints=None,
  **plan,
):
  """Runs the loop with 10-step epochs; returns the outcome, rows, saved steps and evaluations."""
  calls, evaluated, clock = [], [], Clock()

  def train(state, data, key, count):
    step = int(state.step)
    assert step // 10 == (step + int(count) - 1) // 10, "a call crosses the end of an epoch"
    calls.append((step, int(count)))
    clock.now += step_seconds * int(count)
    bad = bad_at if bad_at is not None and step <= bad_at < step + count else -1
    return state_at(step + int(count), bad)

  def evaluate(state, data, sums, first, count):
    evaluated.append((int(state.step), data.images, int(first), int(count)))
    right = sums.correct + correct(int(state.step)) * count
    return training.EpochMetrics(sums.loss + 3.0 * count, right, sums.count + 2 * count)

  def stopped():
    return stop_at is not None and stop_at(calls, evaluated)

  trainer = types.SimpleNamespace(
    batch_size=4,
    schedule=lambda step: np.float32(0.1),
    put=lambda tree: tree,
    train=train,
    evaluate=evaluate,
  )
  # The name of a split stands in for its images. Only the number of labels matters: 3 or 2 batches.
  data = {
    name: training.Examples(name, np.zeros(examples), None, None)
    for name, examples in (("train", 40), ("test", 12), ("validation", 7))
  }
  keeper = Keeper(clock, save_seconds, checkpoints)
  log = training.MetricsLog(tmp_path / "metrics.jsonl", last_step=start)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "time", types.SimpleNamespace(perf_counter=clock.perf_counter))
    outcome = loop.run_loop(
      trainer,
      training.Plan(total, 10, split, **plan),
      state_at(start),
      data,
      jax.random.key(0),
      log=log,
      checkpoints=keeper,
      progress=Silent(),
      stopped=stopped,
      seconds=0.0,
    )
  return outcome, log.rows, keeper.steps, evaluated


def test_evaluates_after_each_epoch_and_at_the_end(tmp_path):
  outcome, rows, saved, _ = run(tmp_path)
  assert outcome.status == "ok"
  assert [(r["step"], r["epoch"], r["split"]) for r in rows] == [
    (10, 1.0, "train"),
    (10, 1.0, "test"),
    (20, 2.0, "train"),
    (20, 2.0, "test"),
    (25, 2.5, "train"),
    (25, 2.5, "test"),
  ]
  assert saved == [10, 20, 25]
  assert (rows[0]["loss"], rows[0]["accuracy"]) == (0.5, 0.25)
  assert (rows[1]["loss"], rows[1]["accuracy"]) == (1.5, 0.5)


def test_a_validation_split_keeps_the_test_set_for_the_end(tmp_path):
  _, rows, _, _ = run(tmp_path, split="validation", total=20)
  assert [(r["step"], r["split"]) for r in rows if r["split"] != "train"] == [
    (10, "validation"),
    (20, "validation"),
    (20, "test"),
  ]


def test_epochs_between_evaluations(tmp_path):
  _, rows, _, _ = run(tmp_path, total=50, evaluate_epochs=2)
  assert [r["step"] for r in rows if r["split"] == "test"] == [20, 40, 50]


def test_a_stop_in_training_saves_and_resumes_without_losing_a_row(tmp_path):
  outcome, _, saved, _ = run(tmp_path, stop_at=lambda calls, _: len(calls) == 2)
  assert outcome.status == "interrupted"
  assert saved == [2]  # the first two calls perform one step each
  outcome, rows, _, _ = run(tmp_path, start=2)
  assert outcome.status == "ok"
  assert [r["step"] for r in rows if r["split"] == "test"] == [10, 20, 25]


def test_a_stop_in_an_evaluation_writes_no_half_of_it(tmp_path):
  outcome, rows, saved, _ = run(tmp_path, stop_at=lambda _, evaluated: len(evaluated) == 1)
  assert (outcome.status, rows, saved) == ("interrupted", [], [10])
  _, rows, _, evaluated = run(tmp_path, start=10)
  assert [r["step"] for r in rows if r["split"] == "test"] == [10, 20, 25]
  assert sum(count for step, _, _, count in evaluated if step == 10) == 3


def test_a_finished_run_is_left_alone(tmp_path):
  run(tmp_path)
  outcome, rows, saved, evaluated = run(tmp_path, start=25)
  assert (outcome.status, saved, evaluated) == ("ok", [], [])
  assert len(rows) == 6


@pytest.mark.parametrize("lost", ["train", "test"])
def test_rows_that_were_lost_are_made_again(tmp_path, lost):
  _, rows, _, _ = run(tmp_path, total=20)
  path = tmp_path / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(line for line in lines if f'"{lost}"' not in line or '"step": 20' not in line))
  _, again, saved, _ = run(tmp_path, start=20, total=20)
  places = [(row["step"], row["split"], row["loss"]) for row in rows]
  assert [(row["step"], row["split"], row["loss"]) for row in again] == places
  assert saved == [20]


def test_a_step_that_becomes_the_last_one_gets_the_last_ones_rows(tmp_path):
  run(tmp_path, split="validation", stop_at=lambda calls, evaluated: len(calls) > 7)
  outcome, rows, _, _ = run(tmp_path, split="validation", start=10, total=10)
  assert outcome.status == "ok"
  assert [r["split"] for r in rows] == ["train", "validation", "test"]


def test_a_run_beyond_its_last_step_has_ended(tmp_path):
  run(tmp_path, total=20)
  outcome, rows, saved, evaluated = run(tmp_path, start=20, total=10)
  assert (outcome.status, int(outcome.state.step), saved, evaluated) == ("ok", 20, [], [])
  assert len(rows) == 4


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(tmp_path):
  outcome, rows, saved, _ = run(tmp_path, bad_at=13)
  assert outcome.status == "diverged"
  assert int(outcome.state.bad_step) == 13
  assert saved == [10]
  assert {r["step"] for r in rows} == {10}


def test_checkpoints_within_an_epoch(tmp_path):
  _, _, saved, _ = run(tmp_path, checkpoint_seconds=0.0)
  assert len(saved) > 3
  assert saved[-1] == 25


@pytest.mark.parametrize(
  ("step_seconds", "save_seconds", "checkpoint_seconds", "epochs_saved"),
  [
    (0.07, 0.4, 300.0, [1, 30, 59, 88, 100]),  # 20 s, in epochs of 0.7 s
    (0.07, 0.4, 5.0, [1, 9, 17, 25, 33, 41, 49, 57, 65, 73, 81, 89, 97, 100]),
    (3.0, 0.4, 300.0, range(1, 101)),  # epochs long compared with a checkpoint
    (0.07, 1000.0, 1e9, [1, 100]),
  ],
)
def test_checkpoints_at_evaluations_take_little_time(
  tmp_path, step_seconds, save_seconds, checkpoint_seconds, epochs_saved
):
  outcome, rows, saved, _ = run(
    tmp_path,
    total=1000,
    step_seconds=step_seconds,
    save_seconds=save_seconds,
    checkpoint_seconds=checkpoint_seconds,
  )
  assert saved == [10 * epoch for epoch in epochs_saved]
  assert outcome.seconds == pytest.approx(1000 * step_seconds + len(saved) * save_seconds)
  assert [r["step"] for r in rows if r["split"] == "test"] == list(range(10, 1001, 10))


BEST = {
  "split": "validation",
  "correct": {10: 1.0, 20: 0.5, 30: 1.5, 40: 1.5, 50: 0.0, 60: 1.0, 70: 0.5}.get,
  "step_seconds": 0.001,
  "save_seconds": 1000.0,  # so that no others are written
  "checkpoint_seconds": 1e9,
}


def kept(tmp_path):
  return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())


def test_the_best_checkpoint_is_written_and_kept(tmp_path):
  with contextlib.closing(training.Checkpoints(tmp_path / "checkpoints")) as checkpoints:
    *_, saved, _ = run(tmp_path, total=50, keep_best=True, checkpoints=checkpoints, **BEST)
    assert saved == [10, 30, 50]
    run(tmp_path, start=50, total=60, keep_best=True, checkpoints=checkpoints, **BEST)
    assert (kept(tmp_path), checkpoints.best()) == ([30, 50, 60], (30, 0.75))
  (tmp_path / "other").mkdir()
  *_, saved, _ = run(tmp_path / "other", total=60, **BEST)
  assert saved == [10, 60]


@pytest.mark.parametrize("lost", ["the row", "all rows"])
@pytest.mark.filterwarnings("ignore:.*dropped 1 damaged")
def test_the_best_checkpoint_survives_the_loss_of_its_metrics(tmp_path, lost):
  with contextlib.closing(training.Checkpoints(tmp_path / "checkpoints")) as checkpoints:
    options = {"keep_best": True, "checkpoints": checkpoints, **BEST}
    run(tmp_path, total=50, **options)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    place = next(i for i, x in enumerate(lines) if '"step": 30' in x and '"validation"' in x)
    lines[place] = lines[place].replace("0.75", "0.74")
    path.write_text("" if lost == "all rows" else "".join(lines))
    run(tmp_path, start=50, total=60, **options)
    run(tmp_path, start=60, total=70, **options)
    assert (kept(tmp_path), checkpoints.best()) == ([30, 60, 70], (30, 0.75))


def test_a_checkpoint_from_before_the_evaluation_can_become_the_best(tmp_path):
  """It gets its accuracy, also if the run was killed before it could be added."""
  with contextlib.closing(training.Checkpoints(tmp_path / "checkpoints")) as checkpoints:
    options = {**BEST, "checkpoint_seconds": 0.0, "save_seconds": 0.0, "keep_best": True}
    run(tmp_path, total=30, checkpoints=checkpoints, **options)
    assert checkpoints.best() == (30, 0.75)
    meta = tmp_path / "checkpoints" / "30" / "meta" / "metadata"
    fields = training.unseal(json.loads(meta.read_text()))
    meta.write_text(json.dumps(training.seal({**fields, "accuracy": None})))
    assert checkpoints.best() == (10, 0.5)
    run(tmp_path, start=30, total=60, checkpoints=checkpoints, **options)
    assert checkpoints.best() == (30, 0.75)


def test_the_test_set_cannot_choose_the_best_checkpoint():
  with pytest.raises(ValueError, match=r"^keep_best: expected False without a validation split"):
    training.Plan(10, 10, keep_best=True)


def test_the_metrics_are_on_disk_before_a_checkpoint_relies_on_them(tmp_path, monkeypatch):
  synced, found = [], []
  monkeypatch.setattr(training.MetricsLog, "sync", lambda log: synced.append(log.rows[-1]["step"]))
  monkeypatch.setattr(
    Keeper, "save", lambda _, state, *__, **options: found.append((int(state.step), synced[-1]))
  )
  run(tmp_path)
  assert found == [(10, 10), (20, 20), (25, 25)]


class Killed(BaseException):
  """Ends a run between two compiled calls."""


def test_a_killed_run_writes_the_same_rows_after_resuming(tmp_path):
  def kill(calls, evaluated):
    if len(calls) > 27:
      raise Killed
    return False

  slow = {"total": 400, "step_seconds": 0.07, "save_seconds": 0.4}
  for name in ("alone", "killed"):
    (tmp_path / name).mkdir()
  _, alone, saved, _ = run(tmp_path / "alone", **slow)
  assert saved == [10, 300, 400]
  with pytest.raises(Killed):
    run(tmp_path / "killed", stop_at=kill, **slow)
  assert training.read_metrics(tmp_path / "killed" / "metrics.jsonl")[-1]["step"] == 250
  _, rows, saved, _ = run(tmp_path / "killed", start=10, **slow)
  assert [untimed(row) for row in rows] == [untimed(row) for row in alone]
  assert training.read_metrics(tmp_path / "killed" / "metrics.jsonl") == rows
  assert saved == [20, 310, 400]  # the first evaluation of each call


def untimed(row):
  return {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}


@pytest.mark.parametrize("remaining", [1, 7])
def test_a_chunk_is_between_one_and_what_remains(remaining):
  chunks = ChunkSizer(1.0)
  for _ in range(5):
    with chunks.call(remaining, 4) as count:
      assert 1 <= count <= remaining
  assert chunks.latest is not None
  assert chunks.rate() > 0
  assert chunks.rate() is None


def test_chunks_keep_calls_short():
  import time

  chunks = ChunkSizer(seconds=0.05)
  counts = []
  for _ in range(4):
    with chunks.call(10_000, 4) as count:
      counts.append(count)
      time.sleep(0.01 * min(count, 100))
  assert counts[:2] == [1, 1]
  assert 2 <= counts[2] <= 6
