"""Every flagfile can be parsed and builds its network, which trains for a step."""

import pathlib

import jax
import numpy as np
import pytest

from cscjax.data import Dataset, Split
from cscjax.runs import build, make_model, start
from cscjax.training import Examples
from experiments.flags import parse

FOLDER = pathlib.Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.glob("*.flags"))


def synthetic(config):
  shape = (8, 8, 1) if config.dataset == "digits" else (32, 32, 3)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (8, *shape), dtype=np.uint8)
  split = Split(images, np.arange(8, dtype=np.int32))
  ones = np.ones(shape[-1], np.float32)
  return Dataset(config.dataset, 10, split, split, None, ones / 2, ones / 4)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_network_and_a_header_with_the_command(path):
  config = parse([f"--flagfile={path}", "--batch_size=2"])
  build(config, make_model(config, 10), synthetic(config))
  header = path.read_text().split("--", 1)[0]
  assert header.startswith("#")
  assert f"python -m experiments.run --flagfile=experiments/{path.name}" in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_one_training_step(path):
  config = parse([f"--flagfile={path}", "--batch_size=2", "--max_steps=1"])
  dataset = synthetic(config)
  trainer, _ = build(config, make_model(config, 10), dataset)
  state, key = start(config, dataset, trainer)
  before = jax.device_get(state.params)
  state = trainer.train(state, Examples.of(dataset, "train"), key, np.int32(1))
  assert int(state.step) == 1
  assert int(state.bad_step) == -1
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params))
  assert all(jax.tree.leaves(moved)), moved


def test_a_flag_after_the_file_replaces_its_value():
  path = FOLDER / "msdcsc12.flags"
  config = parse([f"--flagfile={path}", "--unfolding=2", "--dilations=1,4", "--solver=fista"])
  assert (config.unfolding, config.dilations, config.solver) == (2, (1, 4), "fista")
