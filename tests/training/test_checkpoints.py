"""Checkpoints are restored exactly, and damaged ones are never used."""

import contextlib
import errno
import functools
import json
import os
import pathlib
import resource
import shutil

import chex
import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cscjax import training
from tests.faults.harness import contents, cut, flip, remove, save_as_old


class Tiny(nn.Module):
  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(3)(x.reshape(x.shape[0], -1))


@functools.cache
def make_state(step):
  schedule = training.step_schedule(0.1, [])
  trainer = training.Trainer(Tiny(), training.sgd(schedule), schedule, 1)
  state = trainer.create_state((4, 4, 2), jax.random.key(step))
  return state.replace(step=np.int32(step))


def restore(folder):
  with contextlib.closing(training.Checkpoints(folder)) as checkpoints:
    return checkpoints.restore(make_state(0))


@pytest.fixture
def saved(tmp_path):
  with contextlib.closing(training.Checkpoints(tmp_path)) as checkpoints:
    for step in (3, 7, 12):
      checkpoints.save(make_state(step), seconds=step / 2)
  return tmp_path


def test_the_newest_comes_back_bit_for_bit_and_two_are_kept(saved):
  restored = restore(saved)
  chex.assert_trees_all_equal(restored.state, make_state(12))
  assert restored.seconds == 6.0
  assert sorted(int(p.name) for p in saved.iterdir() if p.name.isdigit()) == [7, 12]


def test_the_best_is_kept_until_another_one_is_better(tmp_path):
  with contextlib.closing(training.Checkpoints(tmp_path)) as checkpoints:
    assert checkpoints.best() is None
    found = []
    for step, accuracy in ((3, 0.5), (7, 0.5), (12, None), (20, 0.1), (25, 0.6), (30, 0.2), (40, None)):
      checkpoints.save(make_state(step), seconds=1.0, accuracy=accuracy, keep_best=True)
      found.append((sorted(int(p.name) for p in tmp_path.iterdir()), checkpoints.best().step))
    assert found[:4] == [([3], 3), ([3, 7], 3), ([3, 7, 12], 3), ([3, 12, 20], 3)]
    assert found[4:] == [([20, 25], 25), ([25, 30], 25), ([25, 30, 40], 25)]
    checkpoints.save(make_state(40), seconds=1.0, accuracy=0.7, keep_best=True)
    assert checkpoints.best() == (40, 0.7)
    for step in (50, 60):
      checkpoints.save(make_state(step), seconds=1.0, keep_best=True)
    restored = checkpoints.restore(make_state(0), step=40)
    chex.assert_trees_all_equal(restored.state, make_state(40))
    assert int(checkpoints.restore(make_state(0)).state.step) == 60
    assert checkpoints.restore(make_state(0), step=25) is None


def test_a_best_checkpoint_with_a_damaged_description_is_kept_and_named(tmp_path):
  with contextlib.closing(training.Checkpoints(tmp_path)) as checkpoints:
    for step, accuracy in ((3, 0.9), (7, 0.5), (12, 0.1)):
      checkpoints.save(make_state(step), seconds=1.0, accuracy=accuracy, keep_best=True)
    flip(tmp_path / "3" / "meta" / "metadata")
    with pytest.warns(UserWarning, match="skipped the checkpoint of step 3"):
      assert checkpoints.best() == (7, 0.5)
    checkpoints.save(make_state(20), seconds=1.0, keep_best=True)
  assert {"3", "7", "12", "20"} == set(os.listdir(tmp_path))


def test_an_empty_directory_has_none(tmp_path):
  assert restore(tmp_path / "new") is None


def files(folder):
  return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


@pytest.mark.parametrize("damage", [flip, cut, remove])
@pytest.mark.filterwarnings("ignore:skipped the damaged checkpoint")
def test_a_damaged_file_never_gives_a_wrong_state(saved, damage):
  for name in [p.relative_to(saved / "12") for p in files(saved / "12")]:
    folder = saved.parent / f"{damage.__name__}-{str(name).replace('/', '-')}"
    _copy(saved, folder)
    damage(folder / "12" / name)
    restored = restore(folder)
    # Damage to a file that holds no part of the state may do no harm.
    chex.assert_trees_all_equal(restored.state, make_state(int(restored.state.step)))
    assert restored.seconds == int(restored.state.step) / 2


def test_a_damaged_checkpoint_is_kept_under_another_name(saved):
  cut(saved / "12" / "state.msgpack")
  damaged = contents(saved / "12")
  with pytest.warns(UserWarning, match=r"damaged checkpoint of step 12, kept as 12\.damaged"):
    restored = restore(saved)
  chex.assert_trees_all_equal(restored.state, make_state(7))
  assert contents(saved / "12.damaged") == damaged
  with contextlib.closing(training.Checkpoints(saved)) as checkpoints:
    checkpoints.save(make_state(12), seconds=6.0)
  flip(saved / "12" / "state.msgpack")
  with pytest.warns(UserWarning, match=r"kept as 12\.damaged-2"):
    restore(saved)
  assert contents(saved / "12.damaged") == damaged


def test_a_changed_description_is_found(saved):
  path = saved / "12" / "meta" / "metadata"
  meta = json.loads(path.read_text())
  path.write_text(json.dumps({**meta, "seconds": 1.0}))
  with pytest.warns(UserWarning, match="checksum"):
    assert int(restore(saved).state.step) == 7


ODD = [
  "lr[0.1]",
  "{a,b}",
  "*",
  "a?b",
  "back\\slash",
  "a b",
  "100%41",
  "é東",
  "#frag",
  "~",
  "s3:",
  "a\nb",
]


@pytest.mark.parametrize("name", ODD)
def test_any_path_works(tmp_path, name):
  folder = tmp_path / name / "checkpoints"
  with contextlib.closing(training.Checkpoints(folder)) as checkpoints:
    for step in (3, 7, 12):
      checkpoints.save(make_state(step), seconds=step / 2)
  chex.assert_trees_all_equal(restore(folder).state, make_state(12))
  assert sorted(os.listdir(folder)) == ["12", "7"]


@pytest.mark.parametrize("name", ["lr[0.1]", "back\\slash", "gs:"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from Orbax's threads
def test_checkpoints_of_old_versions_may_be_moved_to_any_path(tmp_path, name):
  save_as_old(tmp_path / "run", make_state(12), seconds=6.0)
  folder = (tmp_path / "run").rename(tmp_path / name)
  chex.assert_trees_all_equal(restore(folder).state, make_state(12))


def other(change):
  state = make_state(0)
  return state.replace(params=change(jax.device_get(state.params)))


STRUCTURES = {
  "float64": (
    lambda p: jax.tree.map(lambda leaf: leaf.astype(np.float64), p),
    r"params/BatchNorm_0/bias is float32\[2\], expected float64\[2\].* and 1 more differences",
  ),
  "another shape": (
    lambda p: {**p, "Dense_0": {"kernel": np.zeros((5, 3), np.float32), "bias": p["Dense_0"]["bias"]}},
    r"kernel is float32\[32, 3\], expected float32\[5, 3\]",
  ),
  "another depth": (
    lambda p: {**p, "Dense_1": {"kernel": np.zeros((3, 3), np.float32)}},
    "params/Dense_1/kernel is missing",
  ),
  "fewer layers": (
    lambda p: {"Dense_0": p["Dense_0"]},
    "params/BatchNorm_0/bias is unknown",
  ),
}


@pytest.mark.parametrize("what", STRUCTURES)
def test_another_structure_is_an_error_that_names_it(saved, what):
  change, message = STRUCTURES[what]
  before = contents(saved)
  with (
    contextlib.closing(training.Checkpoints(saved)) as checkpoints,
    pytest.raises(training.CheckpointError, match=f"checkpoint of step 12: .*{message}"),
  ):
    checkpoints.restore(other(change))
  assert contents(saved) == before


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EROFS, errno.ESTALE])
@pytest.mark.parametrize("file", ["state.msgpack", "metadata"])
def test_a_disk_error_is_not_treated_as_damage(saved, monkeypatch, number, file):
  whole, before = pathlib.Path.read_bytes, contents(saved)

  def read(path):
    if path.name == file:
      raise OSError(number, os.strerror(number), str(path))
    return whole(path)

  with (
    contextlib.closing(training.Checkpoints(saved)) as checkpoints,
    monkeypatch.context() as patch,
  ):
    patch.setattr(pathlib.Path, "read_bytes", read)
    with pytest.raises(OSError, match=rf"of step 12: .*{os.strerror(number)}"):
      checkpoints.restore(make_state(0))
  assert contents(saved) == before
  assert int(restore(saved).state.step) == 12


FOREIGN = {
  "a renamed folder": lambda saved: shutil.copytree(saved / "12", saved / "1200"),
  "a number of 23 digits": lambda saved: shutil.copytree(saved / "12", saved / ("1" * 23)),
  "a number beyond int32": lambda saved: shutil.copytree(saved / "12", saved / str(2**31)),
  "leading zeros": lambda saved: shutil.copytree(saved / "12", saved / "0099"),
  "a link": lambda saved: (saved / "99").symlink_to(saved / "7"),
  "a file": lambda saved: (saved / "99").write_text("99"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_folders_that_the_run_did_not_write_are_left_alone(saved, what):
  FOREIGN[what](saved)
  foreign = {name for name in os.listdir(saved) if name not in ("7", "12")}
  with contextlib.closing(training.Checkpoints(saved)) as checkpoints:
    with pytest.warns(UserWarning, match="which this run did not write") as found:
      assert int(checkpoints.restore(make_state(0)).state.step) == 12
    assert {warning.filename for warning in found} == {__file__}  # they point at the caller
    checkpoints.save(make_state(20), seconds=1.0)
    checkpoints.save(make_state(99), seconds=2.0)
  foreign = {"99.foreign" if name == "99" else name for name in foreign}
  assert set(os.listdir(saved)) == {"20", "99", *foreign}


def test_checkpoints_of_another_run_are_not_used(tmp_path):
  for name, step in (("one", 3), ("two", 7)):
    with contextlib.closing(training.Checkpoints(tmp_path / name, run=name)) as checkpoints:
      checkpoints.save(make_state(step), seconds=1.0)
  shutil.copytree(tmp_path / "two" / "7", tmp_path / "one" / "7")
  with contextlib.closing(training.Checkpoints(tmp_path / "one", run="one")) as checkpoints:
    with pytest.warns(UserWarning, match="which this run did not write") as found:
      assert int(checkpoints.restore(make_state(0)).state.step) == 3
    assert {warning.filename for warning in found} == {__file__}
    checkpoints.save(make_state(9), seconds=1.0)
  assert set(os.listdir(tmp_path / "one")) == {"3", "7", "9"}


def test_a_changed_network_is_an_error(saved):
  before = contents(saved)
  with (
    contextlib.closing(training.Checkpoints(saved, architecture=2)) as checkpoints,
    pytest.raises(training.CheckpointError, match=r"changed since then \(architecture 1, now 2\)"),
  ):
    checkpoints.restore(make_state(0))
  assert contents(saved) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from Orbax's threads
def test_checkpoints_of_old_versions_are_used(tmp_path):
  for step in (7, 12):
    save_as_old(tmp_path, make_state(step), seconds=step / 2)
  for path in (tmp_path / "12" / "state" / "d").iterdir():
    cut(path)
  with contextlib.closing(training.Checkpoints(tmp_path, run="a")) as checkpoints:
    with pytest.warns(UserWarning, match="damaged checkpoint of step 12"):
      restored = checkpoints.restore(make_state(0))
    chex.assert_trees_all_equal(restored.state, make_state(7))
    assert restored.seconds == 3.5
    with pytest.raises(training.CheckpointError, match="Dense_1/kernel is missing"):
      checkpoints.restore(other(STRUCTURES["another depth"][0]))
    (tmp_path / "7").rename(tmp_path / "70")
    with pytest.warns(UserWarning, match="which this run did not write"):
      assert checkpoints.restore(make_state(0)) is None


@pytest.mark.parametrize("version", ["0.1.0", "present format"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from Orbax's threads
def test_an_estimate_of_the_lipschitz_constant_is_left_out(tmp_path, version):
  """Networks once stored it in a collection; the rest of such a checkpoint is still verified."""
  estimate = {f"layer_{i}": {"state": (np.float32(i), np.ones((1, i + 1)))} for i in (0, 2, 10)}

  def with_estimate(state):
    return state.replace(variables={**state.variables, "spectral": estimate})

  if version == "0.1.0":
    save_as_old(tmp_path, with_estimate(make_state(7)), seconds=3.5)
  else:
    with contextlib.closing(training.Checkpoints(tmp_path)) as checkpoints:
      checkpoints.save(with_estimate(make_state(7)), seconds=3.5)
  chex.assert_trees_all_equal(restore(tmp_path).state, make_state(7))
  with contextlib.closing(training.Checkpoints(tmp_path)) as checkpoints:
    same = checkpoints.restore(with_estimate(make_state(0)))  # a network with this collection
    chex.assert_trees_all_equal(same.state, with_estimate(make_state(7)))
    with pytest.raises(training.CheckpointError, match="Dense_1/kernel is missing"):
      checkpoints.restore(other(STRUCTURES["another depth"][0]))


def test_an_unfinished_write_is_not_a_checkpoint(saved):
  _copy(saved / "12", saved / "20.orbax-checkpoint-tmp")
  assert int(restore(saved).state.step) == 12


def test_leftovers_of_a_kill_are_removed_if_possible(saved):
  (saved / "20.orbax-checkpoint-tmp").symlink_to(saved / "12")
  (saved / "21.deleted").write_text("no folder")
  _copy(saved / "12", saved / "22.orbax-checkpoint-tmp")
  assert int(restore(saved).state.step) == 12
  assert {"20.orbax-checkpoint-tmp", "21.deleted", "12", "7"} == set(os.listdir(saved))


@pytest.mark.parametrize("make", [pathlib.Path.touch, lambda path: path.symlink_to(path)])
def test_a_path_that_is_not_a_directory_is_an_error(tmp_path, make):
  make(tmp_path / "checkpoints")
  with pytest.raises(OSError, match="checkpoints"):
    restore(tmp_path / "checkpoints")


@pytest.mark.parametrize("file", ["state.msgpack", "meta/metadata"])
def test_a_pipe_in_a_checkpoint_does_not_block(saved, file):
  (saved / "12" / file).unlink()
  os.mkfifo(saved / "12" / file)
  with pytest.raises(OSError, match=r"of step 12: .*not a regular file"):
    restore(saved)


def test_saving_the_same_step_again_changes_nothing(saved):
  with contextlib.closing(training.Checkpoints(saved)) as checkpoints:
    checkpoints.save(make_state(12), seconds=100.0)
  assert restore(saved).seconds == 6.0


def test_a_failed_write_keeps_the_old_checkpoints(saved):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with contextlib.closing(training.Checkpoints(saved)) as checkpoints:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
      with pytest.raises(OSError, match=r"cannot write the checkpoint of step 20: .*too large"):
        checkpoints.save(make_state(20), seconds=1.0)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    chex.assert_trees_all_equal(checkpoints.restore(make_state(0)).state, make_state(12))
    checkpoints.save(make_state(20), seconds=1.0)
  assert int(restore(saved).state.step) == 20


def test_an_error_of_orbax_is_one_line(saved, monkeypatch):
  def fail(*args, **kwargs):
    raise ValueError("RESOURCE_EXHAUSTED: No space\nleft on device")

  with contextlib.closing(training.Checkpoints(saved)) as checkpoints:
    monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    with pytest.raises(OSError, match=r"step 20: RESOURCE_EXHAUSTED: No space left on device$"):
      checkpoints.save(make_state(20), seconds=1.0)


def _copy(source, target):
  for path in source.rglob("*"):
    copy = target / path.relative_to(source)
    if path.is_dir():
      copy.mkdir(parents=True, exist_ok=True)
    else:
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.write_bytes(path.read_bytes())


@pytest.mark.filterwarnings("ignore:skipped the damaged checkpoint")
def test_read_only_changes_nothing(saved):
  """Neither a damaged checkpoint nor one that is being written is removed."""
  cut(saved / "12" / "state.msgpack")
  begun = saved / "15.orbax-checkpoint-tmp-1"
  begun.mkdir()
  (begun / "part").write_text("being written")
  before = contents(saved)
  with contextlib.closing(training.Checkpoints(saved, read_only=True)) as checkpoints:
    restored = checkpoints.restore(make_state(0))
  chex.assert_trees_all_equal(restored.state, make_state(7))
  assert contents(saved) == before
