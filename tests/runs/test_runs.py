"""Runs made from a configuration, as a user of the library makes them: no commands, no flags."""

import contextlib
import dataclasses
import json
import os
import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from cscjax import runs
from cscjax.runs import Config, RunError, _build, _execute
from cscjax.runs._compilation_cache import use_compilation_cache
from cscjax.training import MetricsLog, normalize
from tests.faults.harness import contents, rows

TINY = Config(dataset="digits", model="msdnet", depth=1, width=4, batch_size=64, max_steps=22)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch):
  """Keeps `execute` from changing the compilation cache, a setting of the whole process."""
  monkeypatch.setattr(_execute, "use_compilation_cache", lambda config: None)


def test_a_run_can_be_made_stopped_resumed_and_loaded(tmp_path, capfd):
  run = runs.make_run(dataclasses.replace(TINY, workdir=str(tmp_path / "run")))
  assert contents(tmp_path) == {}
  stopped = runs.execute(run, stopped=lambda: True, progress=False)
  assert (stopped["status"], stopped["steps"], stopped["test_accuracy"]) == ("interrupted", 0, None)
  assert capfd.readouterr() == ("", "")
  summary = runs.execute(run)
  assert (summary["status"], summary["steps"]) == ("ok", 22)
  assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
  assert [row["split"] for row in rows(tmp_path / "run")] == ["train", "test"]
  said = capfd.readouterr()
  assert said.out == ""
  assert said.err.startswith(f"{tmp_path / 'run'}: step 0 of 22\n")

  before = contents(tmp_path)
  loaded = runs.load_run(tmp_path / "run")
  assert (loaded.config, loaded.step) == (run.config, 22)
  data = loaded.load_dataset()
  images = normalize(*map(jnp.asarray, (data.test.images, data.mean, data.std)))
  logits = jax.jit(partial(loaded.model.apply, train=False))(loaded.variables, images)
  accuracy = np.mean(np.argmax(logits, axis=-1) == data.test.labels)
  assert accuracy == pytest.approx(summary["test_accuracy"], abs=1e-6)
  assert contents(tmp_path) == before


def test_the_best_checkpoint_can_be_loaded(tmp_path):
  # The learning rate grows until the network is destroyed, so that the last checkpoint is not the best.
  rising = {"epochs": 6, "max_steps": None, "learning_rate": 10.0, "warmup_epochs": 6.0}
  options = {"width": 16, "validation_fraction": 0.2, "keep_best": True, "workdir": str(tmp_path)}
  config = dataclasses.replace(TINY, **rising, **options)
  summary = runs.execute(runs.make_run(config), progress=False)
  found = [row for row in rows(tmp_path) if row["split"] == "validation"]
  best = max(found, key=lambda row: row["accuracy"])
  assert summary["best_step"] == best["step"] < summary["steps"]
  loaded = runs.load_run(tmp_path, best=True)
  assert loaded.step == best["step"]
  assert runs.load_run(tmp_path).step == found[-1]["step"]
  data = loaded.load_dataset()
  images = normalize(*map(jnp.asarray, (data.validation.images, data.mean, data.std)))
  logits = jax.jit(partial(loaded.model.apply, train=False))(loaded.variables, images)
  accuracy = np.mean(np.argmax(logits, axis=-1) == data.validation.labels)
  assert accuracy == pytest.approx(best["accuracy"], abs=1e-6)

  # A kill after an evaluation, before its checkpoint: the row has none.
  log = MetricsLog(tmp_path / "metrics.jsonl", last_step=10**6)
  log.write(found[-1] | {"step": 10**5, "accuracy": 1.0, "images_per_second": None})
  assert runs.load_run(tmp_path, best=True).step == best["step"]


def test_the_best_checkpoint_needs_a_validation_split(tmp_path):
  with pytest.raises(RunError, match=r"^keep_best: expected False without a validation split") as error:
    runs.make_run(dataclasses.replace(TINY, keep_best=True))
  assert error.value.argument == "keep_best"
  run = runs.make_run(dataclasses.replace(TINY, workdir=str(tmp_path)))
  runs.execute(run, stopped=lambda: True, progress=False)
  with pytest.raises(RunError, match=r"^best: expected False, because the run in .* got True"):
    runs.load_run(tmp_path, best=True)


@pytest.mark.parametrize(
  "fields",
  [
    {"batch_size": 2000},
    {"train_examples": 1438},
    {"dilations": (1, 2), "model": "resnet"},
    {"compilation_cache": "file/below"},
    {"workdir": "file/below"},
  ],
  ids=lambda fields: next(iter(fields)),
)
def test_an_invalid_run_names_the_field(fields, tmp_path, monkeypatch):
  monkeypatch.undo()  # here the compilation cache is tested too
  monkeypatch.chdir(tmp_path)
  (tmp_path / "file").touch()
  name = next(iter(fields))
  config = Config(**({"dataset": "digits"} | fields))
  with pytest.raises(RunError, match=f"^{name}: ") as error:
    runs.execute(runs.make_run(config))
  assert error.value.argument == name
  assert "--" not in str(error.value)
  assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_one_process_can_use_a_workdir(tmp_path):
  run = runs.make_run(dataclasses.replace(TINY, workdir=str(tmp_path)))
  with contextlib.ExitStack() as held:
    held.callback(os.close, runs.open_lock(tmp_path / "lock"))
    with pytest.raises(RunError, match=r"^workdir: another run is using") as error:
      runs.execute(run)
    assert error.value.argument == "workdir"


def test_a_run_restores_the_settings_of_jax():
  before = jax.config.jax_threefry_partitionable, jax.config.jax_transfer_guard
  runs.make_run(TINY)
  assert (jax.config.jax_threefry_partitionable, jax.config.jax_transfer_guard) == before


@pytest.mark.parametrize(
  ("labels", "expected"),
  [
    (np.arange(10_000) % 10, 0.1 + 3 * (0.1 * 0.9 / 10_000) ** 0.5),
    (np.arange(8) % 2, 0.75),  # three standard errors above a half are more than 1
    (np.zeros(5, int), 1.0),
  ],
)
def test_perfect_accuracy_is_never_that_of_chance(labels, expected):
  assert _build.chance_accuracy(labels) == pytest.approx(expected)


@pytest.mark.slow
def test_a_perfect_network_on_a_small_test_set_has_not_diverged(tmp_path):
  images = np.repeat(np.uint8([0, 255] * 20), 16).reshape(40, 4, 4)  # black (0) and white (1)
  np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.arange(40) % 2)
  config = dataclasses.replace(TINY, dataset=f"npz:{tmp_path / 'a.npz'}", workdir=tmp_path / "run")
  config = dataclasses.replace(config, batch_size=16, epochs=20, max_steps=None)
  summary = runs.execute(runs.make_run(config), progress=False)
  assert (summary["test_accuracy"], summary["status"]) == (1.0, "ok")


def test_a_replaced_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
  path, synced = tmp_path / "config.json", []
  monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, path.exists())))
  runs.write_json(path, {"a": 1})
  assert synced == [(path.stat().st_ino, False)]


def test_a_temporary_file_is_removed_after_an_error(tmp_path):
  def write(path, text):
    with runs.replaced(path) as scratch:
      scratch.write_text("half")
      scratch.write_text(text)

  with pytest.raises(TypeError):
    write(tmp_path / "a", None)
  assert contents(tmp_path) == {}


@pytest.fixture
def _cache_settings():
  """Restores the settings of JAX's cache of compiled programs."""
  names = [
    *("jax_enable_compilation_cache", "jax_compilation_cache_dir"),
    *(f"jax_persistent_cache_min_{name}" for name in ("compile_time_secs", "entry_size_bytes")),
  ]
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.mark.usefixtures("_cache_settings")
def test_each_run_of_a_process_has_its_own_compilation_cache(tmp_path, monkeypatch):
  """JAX itself keeps the first cache of a process."""
  monkeypatch.undo()

  def programs(name, factor):
    use_compilation_cache(Config(compilation_cache=name if name == "off" else tmp_path / name))
    jax.jit(lambda x: factor * x).lower(1.0).compile()
    return {folder.name: len(list(folder.glob("*-cache"))) for folder in tmp_path.iterdir()}

  assert programs("one", 2.0) == {"one": 1}
  assert programs("off", 3.0) == {"one": 1}
  assert programs("two", 4.0) == {"one": 1, "two": 1}


def test_a_system_without_locks_gives_a_warning(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "fcntl", None)
  with pytest.warns(match="cannot be locked on this system"):
    os.close(runs.open_lock(tmp_path / "lock"))


def test_import_without_locks_and_extras():
  code = "import sys; sys.modules.update(fcntl=None, tqdm=None, matplotlib=None); import cscjax.runs"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_matplotlib_only_gives_a_warning(tmp_path, monkeypatch):
  def missing(*_, **__):
    raise ImportError("not installed: pip install 'it'")

  monkeypatch.setattr(_execute, "learning_curves", missing)
  with pytest.warns(match=r"cannot draw curves\.png: .*pip install 'it'"):
    _execute._write_results(TINY, tmp_path, {"status": "ok"}, [])
  assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
