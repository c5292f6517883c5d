"""Every flagfile can be parsed, builds its network, and trains for a step."""

import pathlib

import jax
import numpy as np
import pytest

from cscjax.data import Dataset, Split
from cscjax.runs import build, make_model, start
from experiments.flags import parse

FOLDER = pathlib.Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.glob("*.flags"))
FILTER_WEIGHTS = {6: 143_424, 9: 339_552, 12: 618_624}  # Table 3


def synthetic(config):
  shape = (8, 8, 1) if config.dataset == "digits" else (32, 32, 3)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (8, *shape), dtype=np.uint8)
  split = Split(images, np.arange(8, dtype=np.int32))
  ones = np.ones(shape[-1], np.float32)
  return Dataset(config.dataset, 10, split, split, None, ones / 2, ones / 4)


def test_each_msdnet_and_msd_csc_of_the_paper_has_a_file():
  names = {path.stem for path in FILES}
  assert names >= {"quickstart", *(f"msd{kind}{d}" for kind in ("net", "csc") for d in (6, 9, 12))}


@pytest.mark.slow
@pytest.mark.parametrize(
  "path",
  [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem.endswith(("9", "12")) else [])
    for path in FILES
  ],
)
def test_one_training_step_and_a_header_with_the_command(path):
  config = parse([f"--flagfile={path}", "--batch_size=2", "--max_steps=1"])
  dataset = synthetic(config)
  trainer, plan = build(config, make_model(config, 10), dataset)
  state, data, key = start(config, dataset, trainer, plan)
  before = jax.device_get(state.params)
  state = trainer.train(state, data["train"], key, np.int32(1))
  assert int(state.step) == 1
  assert int(state.bad_step) == -1
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params))
  assert all(jax.tree.leaves(moved)), moved
  header = path.read_text().split("--", 1)[0]
  assert header.startswith("#")
  assert f"python -m experiments.run --flagfile=experiments/{path.name}" in path.read_text()


@pytest.mark.parametrize("depth", FILTER_WEIGHTS)
@pytest.mark.parametrize("kind", ["net", "csc"])
def test_number_of_filter_weights_in_table_3(kind, depth):
  path = FOLDER / f"msd{kind}{depth}.flags"
  config = parse([f"--flagfile={path}"])
  model = make_model(config, 10)
  variables = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
  leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
  filters = sum(leaf.size for name, leaf in leaves if "filters" in jax.tree_util.keystr(name))
  assert filters == FILTER_WEIGHTS[depth]
  assert f"{FILTER_WEIGHTS[depth]:,}" in path.read_text()
  protocol = (config.epochs, config.batch_size, config.learning_rate, config.decay_epochs)
  assert protocol == (150, 128, 0.05, (75, 115))


def test_a_flag_after_the_file_replaces_its_value():
  path = FOLDER / "msdcsc12.flags"
  config = parse([f"--flagfile={path}", "--unfolding=2", "--dilations=1,4", "--solver=fista"])
  assert (config.unfolding, config.dilations, config.solver) == (2, (1, 4), "fista")
