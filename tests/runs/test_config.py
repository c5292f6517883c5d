"""Invalid configurations: the error message begins with the name of the field."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from cscjax.runs import Config, current_fields

BAD = [
  {"model": "vgg"},
  {"solver": "admm"},
  {"step": "large"},
  {"remat": "some"},
  {"unroll": 0},
  {"channel_multiple": 0},
  {"dataset": "mnist"},
  {"validation_fraction": 1.0},
  {"validation_fraction": -0.1},
  {"train_examples": 0},
  {"epochs": 0},
  {"max_steps": 0},
  {"batch_size": -128},
  {"learning_rate": 0.0},
  {"learning_rate": float("nan")},
  {"learning_rate": float("inf")},
  {"nesterov": "false"},
  {"norm": 1},
  {"decay_epochs": 75},
  {"dilations": "123"},
  {"decay_epochs": [10.5]},
  {"workdir": ""},
  {"cache_dir": 3},
  {"decay_epochs": (115, 75)},
  {"decay_epochs": (0,)},
  {"decay_factor": 0.0},
  {"decay_factor": 2.0},
  {"warmup_epochs": -1.0},
  {"momentum": 1.0},
  {"momentum": -0.9},
  {"weight_decay": -1e-4},
  {"augmentation": "crop"},
  {"augmentation": "none", "shift": 4, "flip": True},
  {"shift": -4},
  {"seed": -1},
  {"precision": "float16"},
  {"matmul_precision": "tf32"},
  {"parallel": "tpu"},
  {"evaluate_epochs": 0},
  {"checkpoint_seconds": -1.0},
  {"dispatch_seconds": -1.0},
  {"peer_timeout": 0},
  {"num_processes": 2},
  {"process_id": 0},
  {"coordinator": "here"},
  {"coordinator": "here:70000"},
  {"num_processes": None, "coordinator": "here:1"},
  {"num_processes": 0, "coordinator": "here:1", "process_id": 0},
  {"num_processes": 2, "coordinator": "auto"},
  {"process_id": None, "coordinator": "here:1", "num_processes": 2},
  {"process_id": 2, "coordinator": "here:1", "num_processes": 2},
  {"process_id": -1, "coordinator": "here:1", "num_processes": 2},
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: "{}={}".format(*next(iter(bad.items()))))
def test_an_invalid_value_is_named(bad):
  name = next(iter(bad))  # the other fields make this one invalid
  with pytest.raises(ValueError, match=rf"^{name}: expected .*, got "):
    Config(**bad)


def test_values_of_numpy_lists_and_paths_become_those_that_json_can_hold():
  given = Config(
    seed=np.int64(3),
    learning_rate=np.float32(0.5),
    nesterov=np.True_,
    decay_epochs=range(10, 20, 5),
    dilations=[1, np.int64(2)],
    workdir=pathlib.Path("runs", "a"),
  )
  plain = Config(
    seed=3, learning_rate=0.5, nesterov=True, decay_epochs=(10, 15), dilations=(1, 2), workdir="runs/a"
  )
  assert given == plain
  assert hash(given) == hash(plain)
  assert json.dumps(dataclasses.asdict(given)) == json.dumps(dataclasses.asdict(plain))


def test_a_copy_with_another_augmentation_does_not_keep_the_old_one():
  config = Config(dataset="cifar10")
  with pytest.raises(
    ValueError, match=r"^augmentation: expected 'standard', or None for shift and flip"
  ):
    dataclasses.replace(config, augmentation="none")
  copy = dataclasses.replace(config, augmentation="none", shift=None, flip=None)
  assert (copy.shift, copy.flip) == (0, False)
  assert dataclasses.replace(config, shift=2).augmentation == "auto"


def test_every_field_has_a_help_text_and_the_defaults_are_valid():
  Config()
  assert all(field.metadata["help"] for field in dataclasses.fields(Config))


@pytest.mark.parametrize(
  ("parallel", "statistics", "expected"),
  [
    ("auto", "global", "jit"),
    ("jit", "global", "jit"),
    ("pmap", "global", "jit"),
    ("auto", "device", "pmap"),
    ("pmap", "device", "pmap"),
    ("jit", "device", "jit"),  # "jit" meant a single device
    ("auto", None, "jit"),
    ("pmap", None, "pmap"),
  ],
)
def test_the_statistics_of_older_runs_become_a_value_of_parallel(parallel, statistics, expected):
  recorded = {"parallel": parallel} | ({} if statistics is None else {"statistics": statistics})
  before = dict(recorded)
  current = current_fields(recorded)
  assert recorded == before
  assert "statistics" not in current
  assert Config(parallel=current["parallel"]).parallel == expected


def test_an_older_run_kept_no_best_checkpoint():
  assert current_fields({"dataset": "digits"})["keep_best"] is False
