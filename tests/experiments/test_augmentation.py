"""--augmentation, and the deprecated --shift and --flip, in commands and in files of older runs."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from cscjax.data import load_dataset
from cscjax.runs import Config, RunError, build, make_model, start
from cscjax.runs._workdir import open_workdir
from cscjax.training import Examples
from experiments.flags import parse
from tests.faults.harness import TINY


def pair(*arguments):
  """The resolved shift and flip of a command line."""
  config = parse(arguments)
  return config.shift, config.flip


OLD = {"--shift=0 --noflip": (0, False), "--shift=4 --flip": (4, True), "--shift=2 --flip": (2, True)}


@pytest.mark.parametrize(
  ("dataset", "augmentation", "expected"),
  [
    ("cifar10", "auto", (4, True)),
    ("cifar100", "auto", (4, True)),
    ("svhn_cropped", "auto", (0, False)),
    ("digits", "auto", (0, False)),
    ("gaussian_centers", "auto", (0, False)),
    ("cifar10", "none", (0, False)),
    ("svhn_cropped", "standard", (4, True)),
  ],
)
def test_the_meaning_of_each_value(dataset, augmentation, expected, capsys):
  config = parse([f"--dataset={dataset}", f"--augmentation={augmentation}"])
  assert (config.shift, config.flip) == expected
  assert config.augmentation == ("standard" if expected[1] else "none")  # as config.json records it
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", OLD)
@pytest.mark.parametrize("dataset", ["cifar10", "svhn_cropped"])
def test_the_deprecated_flags_still_work_and_warn(given, dataset, capsys):
  config = parse([f"--dataset={dataset}", *given.split()])
  assert (config.shift, config.flip) == OLD[given]
  (line,) = capsys.readouterr().err.splitlines()
  assert line == "warning: deprecated: --shift, --flip; use --augmentation"


def test_a_deprecated_flag_alone_replaces_one_part():
  assert pair("--dataset=cifar10", "--noflip") == (4, False)
  assert pair("--dataset=digits", "--shift=1") == (1, False)


def test_equal_augmentations_give_equal_configurations():
  standard = parse(["--augmentation=standard"])
  assert parse(["--augmentation=auto"]) == parse(["--shift=4", "--flip"]) == standard
  assert parse(["--augmentation=none"]) == parse(["--shift=0", "--noflip"]) != standard


@pytest.mark.parametrize("old", OLD.values())
def test_a_config_json_older_than_the_flag_is_repeated(old, tmp_path, capsys):
  path = tmp_path / "config.json"
  path.write_text(json.dumps({"flags": {"dataset": "cifar10", "shift": old[0], "flip": old[1]}}))
  assert pair(f"--from_config={path}") == old
  for name, expected in (("none", (0, False)), ("standard", (4, True))):
    assert pair(f"--from_config={path}", f"--augmentation={name}") == expected
  assert capsys.readouterr().err == ""  # the user gave no deprecated flag


@pytest.mark.parametrize("old", OLD.values())
def test_a_current_config_json_is_repeated(old, tmp_path):
  config = Config(dataset="cifar10", shift=old[0], flip=old[1])
  path = tmp_path / "config.json"
  path.write_text(json.dumps({"flags": dataclasses.asdict(config)}))
  assert parse([f"--from_config={path}"]) == config
  assert pair(f"--from_config={path}", "--augmentation=none") == (0, False)
  assert pair(f"--from_config={path}", "--shift=3") == (3, old[1])
  assert pair(f"--from_config={path}", "--shift=0", "--noflip") == (0, False)


@pytest.mark.parametrize("old", OLD.values())
def test_a_workdir_older_than_the_flag_is_resumed_with_the_same_augmentation_only(old, tmp_path):
  def arguments(shift, flip):
    return [f"--workdir={tmp_path}", f"--shift={shift}", "--flip" if flip else "--noflip"]

  flags = dataclasses.asdict(Config(workdir=str(tmp_path))) | {"shift": old[0], "flip": old[1]}
  del flags["augmentation"]
  (tmp_path / "config.json").write_text(json.dumps({"flags": flags}))
  for other in OLD.values():
    if other == old:
      with open_workdir(parse(arguments(*other))):
        pass
    else:
      with pytest.raises(RunError, match=r"^(augmentation|shift): .* holds a run with"):
        with open_workdir(parse(arguments(*other))):
          pass


@pytest.mark.slow
def test_the_flag_changes_the_training_step():
  def parameters(*arguments):
    config = parse([*TINY, *arguments])
    dataset = load_dataset("digits")
    trainer, _ = build(config, make_model(config, 10), dataset)
    state, key = start(config, dataset, trainer)
    return jax.device_get(trainer.train(state, Examples.of(dataset, "train"), key, np.int32(1)).params)

  none, standard = parameters(), parameters("--augmentation=standard")
  jax.tree.map(np.testing.assert_array_equal, standard, parameters("--shift=4", "--flip"))
  assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (none, standard)), strict=True))
