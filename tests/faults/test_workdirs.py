"""Restarts of a run whose files were damaged, moved, mixed, or written by an older version.

They happen in this process, with a stand-in for the network; test_runs.py has a few real runs.
"""

import contextlib
import errno
import json
import os
import pathlib
import random
import re
import shutil
import types
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from cscjax import training
from cscjax.data import DataError, load_dataset
from cscjax.models import ARCHITECTURES
from cscjax.runs import Config, RunError, _execute, _workdir, execute, make_plan, make_run
from cscjax.training import unseal
from tests.faults.harness import contents, final_digest, rows, save_as_old

EPOCHS = 3
FLIPS = 6  # number of bits that are flipped in each file


@pytest.fixture(scope="module", autouse=True)
def _stand_in():
  """Replaces training by exact additions, which are fast, and reads the data only once."""
  dataset = load_dataset("digits")

  def advanced(state, data, key, count):
    params = {"sum": state.params["sum"]}
    for step in range(int(state.step), int(state.step) + int(count)):
      params = {"sum": params["sum"] + np.float32(1 / (step + 1))}
    one = jnp.ones((), jnp.float32)
    metrics = training.EpochMetrics(params["sum"][0], one, 3 * one)
    return state.replace(step=jnp.int32(state.step + count), params=params, metrics=metrics)

  def evaluated(state, data, sums, first, count):
    best_in_the_middle = 1.0 if int(state.step) == 44 else 0.5
    new = training.EpochMetrics(state.params["sum"][1], jnp.float32(best_in_the_middle), jnp.float32(1))
    return new if first == 0 else sums

  def create_state(shape, key):
    zero = jnp.zeros((), jnp.int32)
    params = {"sum": jnp.arange(100, dtype=jnp.float32)}
    return training.TrainState(zero, params, {}, {}, training.EpochMetrics.zero(), zero - 1)

  def build(config, model, dataset, mesh):
    trainer = types.SimpleNamespace(
      model=None,
      batch_size=config.batch_size,
      schedule=lambda step: np.float32(0.1),
      create_state=create_state,
      put=lambda tree: tree,
      train=advanced,
      evaluate=evaluated,
    )
    return trainer, make_plan(config, dataset)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_execute, "load_dataset", lambda *_, **__: dataset)
    patch.setattr(_execute, "build", build)
    patch.setattr(_execute, "check_network", lambda config, model, dataset: None)
    patch.setattr(_execute, "use_compilation_cache", lambda config: None)
    patch.setattr(_execute, "learning_curves", lambda rows, title: Figure(figsize=(1, 1)))
    patch.setattr(_workdir, "_git_revision", lambda: None)
    yield


def run(workdir, epochs=EPOCHS):
  return execute(make_run(Config(dataset="digits", batch_size=64, epochs=epochs, workdir=str(workdir))))


def without_times(summary):
  return {k: v for k, v in summary.items() if k not in ("seconds", "images_per_second")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The directory of a run without faults, and its summary."""
  workdir = tmp_path_factory.mktemp("flips") / "alone"
  return workdir, without_times(run(workdir))


def flipped(path, bit):
  content = bytearray(path.read_bytes())
  content[bit // 8] ^= 1 << bit % 8
  path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [EPOCHS, EPOCHS - 1])  # a finished run, and an interrupted one
def test_a_flipped_bit_changes_nothing_or_is_reported(alone, tmp_path, capfd, epochs):
  whole, summary = alone
  source = tmp_path / "source"
  run(source, epochs)
  chance = random.Random(epochs)
  files = [p.relative_to(source) for p in source.rglob("*") if p.is_file() and p.stat().st_size]
  assert {"config.json", "summary.json", "metrics.jsonl", "curves.png"} <= {str(p) for p in files}
  refused = 0
  for name in sorted(files):
    for bit in chance.sample(range(8 * (source / name).stat().st_size), FLIPS):
      workdir = tmp_path / "flipped"
      shutil.copytree(source, workdir)
      flipped(workdir / name, bit)
      before = contents(workdir)
      capfd.readouterr()
      with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, error = attempt(workdir)
      if error is None:
        warned = bool(caught) or "warning" in capfd.readouterr().err
        check(workdir, found, whole, summary, warned, (name, bit))
      else:
        refused += 1
        assert str(name) in str(error), (name, bit)
        assert contents(workdir) == before, "a restart that ended with an error has changed files"
      shutil.rmtree(workdir)
  assert refused  # at least for config.json


def attempt(workdir):
  """Restarts the run; returns (summary, None), or (None, the error that the command would print)."""
  try:
    return without_times(run(workdir)), None
  except (RunError, DataError) as error:
    return None, error


def check(workdir, found, whole, summary, warned, what):
  """Asserts that the final state is right, and that missing rows of the metrics were reported."""
  assert final_digest(workdir) == final_digest(whole), what
  kept, expected = rows(workdir), rows(whole)
  assert all(row in expected for row in kept), what
  best = max(row["accuracy"] for row in kept if row["split"] == "test")
  assert found == {**summary, "best_test_accuracy": best}, what
  assert warned or kept == expected, what
  assert without_times(json.loads((workdir / "summary.json").read_text())) == found, what


@pytest.mark.parametrize("name", ["lr[0.1]", "{a,b}", "*?", "back\\slash", "100%41 é東", "~", "#a?b"])
def test_a_run_resumes_from_any_path(alone, tmp_path, capfd, name):
  workdir = tmp_path / name
  run(workdir, EPOCHS - 1)
  capfd.readouterr()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert without_times(run(workdir)) == alone[1]
  assert ": step 44 of 66" in capfd.readouterr().err
  assert (final_digest(workdir), rows(workdir)) == (final_digest(alone[0]), rows(alone[0]))


def test_a_run_of_an_old_version_resumes(alone, tmp_path, capfd):
  """Such a run has no names, versions or checksums, and checkpoints in the standard format of Orbax."""
  run(tmp_path, EPOCHS - 1)
  config = json.loads((tmp_path / "config.json").read_text())
  for key in ("run", "architecture", "checksum", "xla_threads", "random_keys", "jax_config"):
    del config[key]
  config["flags"] |= {"parallel": "auto", "statistics": "global"}
  (tmp_path / "config.json").write_text(json.dumps(config))
  metrics = [unseal(json.loads(line)) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
  with contextlib.closing(training.Checkpoints(tmp_path / "checkpoints")) as checkpoints:
    new = make_run(Config(dataset="digits")).trainer.create_state((), None)
    state, seconds = checkpoints.restore(new)
  shutil.rmtree(tmp_path / "checkpoints")
  save_as_old(tmp_path / "checkpoints", state, seconds)
  capfd.readouterr()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert without_times(run(tmp_path)) == alone[1]
  said = capfd.readouterr().err
  assert ": step 44 of 66" in said
  assert "warning" not in said
  assert (final_digest(tmp_path), rows(tmp_path)) == (final_digest(alone[0]), rows(alone[0]))


def test_another_runs_checkpoint_is_not_used(alone, tmp_path):
  run(tmp_path / "one", EPOCHS - 1)
  shutil.copytree(alone[0] / "checkpoints" / "66", tmp_path / "one" / "checkpoints" / "66")
  with pytest.warns(UserWarning, match="66, which this run did not write"):
    assert without_times(run(tmp_path / "one")) == alone[1]
  assert (tmp_path / "one" / "checkpoints" / "66.foreign").is_dir()


def refusal(workdir):
  """The error message of a restart, which must not have changed a file."""
  before = contents(workdir)
  found, error = attempt(workdir)
  assert found is None
  assert contents(workdir) == before
  return str(error)


def test_a_network_that_was_changed_since_is_an_error(tmp_path, monkeypatch):
  run(tmp_path, EPOCHS - 1)
  monkeypatch.setitem(ARCHITECTURES, "msd_csc", 2)
  line = refusal(tmp_path)
  assert "workdir: the network msd_csc was changed" in line
  assert "architecture 1, now 2" in line


def test_a_disk_error_is_reported_in_one_line(tmp_path, monkeypatch):
  run(tmp_path, EPOCHS - 1)
  read = pathlib.Path.read_bytes

  def fail(path):
    if path.name == "state.msgpack":
      raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
    return read(path)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, "read_bytes", fail)
    found, error = attempt(tmp_path)
  assert found is None
  assert re.fullmatch(
    r"workdir: .*: cannot read the checkpoint of step 44: .*output error.*", str(error)
  )
  assert without_times(run(tmp_path))["steps"] == 66


def test_a_resumed_run_warns_about_changes_that_affect_the_last_bits(tmp_path, monkeypatch):
  monkeypatch.setenv("NPROC", "3")
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    run(tmp_path, EPOCHS - 1)
  assert json.loads((tmp_path / "config.json").read_text())["xla_threads"] == 3
  monkeypatch.setenv("NPROC", "5")
  with pytest.warns(match="because the run had xla_threads 3, now 5$"):
    run(tmp_path, EPOCHS)


def test_a_row_without_an_accuracy_is_not_the_best_one(tmp_path):
  run(tmp_path, EPOCHS - 1)
  path = tmp_path / "metrics.jsonl"
  lines = [unseal(json.loads(line)) for line in path.read_text().splitlines()]
  lines[1]["accuracy"] = None
  path.write_text("".join(json.dumps(row) + "\n" for row in lines))
  assert run(tmp_path)["best_test_accuracy"] == 1.0
