"""Checkpoints: exact round trips, and what is damaged is never used."""

import contextlib
import json
import resource

import chex
import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cscjax import training
from tests.faults.harness import contents, cut, flip, remove


class Tiny(nn.Module):
  @nn.compact
  def __call__(self, x, *, train=False):
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(3)(x.reshape(x.shape[0], -1))


def make_state(step):
  optimizer = training.sgd(training.step_schedule(0.1, []))
  state = training.create_train_state(Tiny(), optimizer, (4, 4, 2), jax.random.key(step))
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


def test_an_empty_directory_has_none(tmp_path):
  assert restore(tmp_path / "new") is None


def files(folder):
  return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


@pytest.mark.parametrize(
  "damage", [flip, *(pytest.param(damage, marks=pytest.mark.slow) for damage in (cut, remove))]
)
@pytest.mark.filterwarnings("ignore:skipped the damaged checkpoint")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from Orbax's threads
def test_a_damaged_file_never_gives_a_wrong_state(saved, damage):
  for name in [p.relative_to(saved / "12") for p in files(saved / "12")]:
    folder = saved.parent / f"{damage.__name__}-{str(name).replace('/', '-')}"
    _copy(saved, folder)
    damage(folder / "12" / name)
    restored = restore(folder)
    # A file that holds nothing of the state may be damaged without harm.
    chex.assert_trees_all_equal(restored.state, make_state(int(restored.state.step)))
    assert restored.seconds == int(restored.state.step) / 2


def test_damaged_arrays_are_skipped_with_a_warning(saved):
  for path in files(saved / "12" / "state"):
    if path.parent.name == "d":
      cut(path)
  with pytest.warns(UserWarning, match="damaged checkpoint of step 12"):
    restored = restore(saved)
  chex.assert_trees_all_equal(restored.state, make_state(7))


def test_a_wrong_digest_is_found(saved):
  path = saved / "12" / "meta" / "metadata"
  meta = json.loads(path.read_text())
  path.write_text(json.dumps({**meta, "digest": meta["digest"][::-1]}))
  with pytest.warns(UserWarning, match="digest"):
    assert int(restore(saved).state.step) == 7


def test_an_unfinished_write_is_not_a_checkpoint(saved):
  _copy(saved / "12", saved / "20.orbax-checkpoint-tmp")
  assert int(restore(saved).state.step) == 12


def test_saving_the_same_step_again_changes_nothing(saved):
  with contextlib.closing(training.Checkpoints(saved)) as checkpoints:
    checkpoints.save(make_state(12), seconds=100.0)
  assert restore(saved).seconds == 6.0


def test_where_it_cannot_be_written_the_old_ones_stay(saved):
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


def test_where_orbax_fails_it_is_one_line(saved, monkeypatch):
  def fail(*args, **kwargs):
    raise ValueError("RESOURCE_EXHAUSTED: No space\nleft on device")

  with contextlib.closing(training.Checkpoints(saved)) as checkpoints:
    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
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
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # from Orbax's threads
def test_reading_alone_changes_nothing(saved):
  """Neither a damaged checkpoint is removed nor one that is being written."""
  for path in files(saved / "12" / "state"):
    if path.parent.name == "d":
      cut(path)
  begun = saved / "15.orbax-checkpoint-tmp-1"
  begun.mkdir()
  (begun / "part").write_text("being written")
  before = contents(saved)
  with contextlib.closing(training.Checkpoints(saved, read_only=True)) as checkpoints:
    restored = checkpoints.restore(make_state(0))
  chex.assert_trees_all_equal(restored.state, make_state(7))
  assert contents(saved) == before
