"""Fields chosen for the device: their values, their record, and their change when a run is resumed."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest

from cscjax.data import DatasetInfo
from cscjax.models import MODELS
from cscjax.runs import AUTO, Config, RunError, automatic_fields, for_device, make_model
from cscjax.runs._workdir import open_workdir, write_config
from experiments.flags import parse
from tests.models import networks

INFO = DatasetInfo((8, 8, 1), "uint8", 10, np.ones(1), np.ones(1))
AUTOMATIC = {"remat": AUTO, "unroll": None, "channel_multiple": None}


def chosen(platform, **fields):
  config = for_device(Config(**fields), platform)
  return tuple(getattr(config, name) for name in AUTOMATIC)


def test_values_for_each_platform():
  assert chosen("cpu", model="res_csc") == chosen("cpu") == tuple(AUTOMATIC.values())
  assert chosen("gpu", model="res_csc", depth=20) == ("none", 3, None)
  assert chosen("gpu", model="resnet", depth=56) == ("none", 9, None)
  assert chosen("gpu") == chosen("gpu", model="msdnet") == ("none", None, 8)
  assert chosen("gpu", model="ml_csc") == tuple(AUTOMATIC.values())


def test_given_values_are_kept():
  given = {"remat": "all", "unroll": 2}
  assert chosen("gpu", model="res_csc", **given) == ("all", 2, None)
  assert chosen("gpu", channel_multiple=1) == ("none", None, 1)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("model", MODELS)
def test_every_network_accepts_its_automatic_values(model, platform):
  make_model(for_device(Config(model=model), platform), 10)


@pytest.mark.parametrize("depth", [1, 7, 21])
def test_the_error_of_an_invalid_depth_names_the_depth(depth):
  config = for_device(Config(model="res_csc", depth=depth), "gpu")
  with pytest.raises(RunError, match=r"^depth: "):
    make_model(config, 10)


def convolutions(depth):
  """Number of convolutions and loops in the gradient of a network as compiled for a GPU."""
  model = make_model(for_device(Config(model="res_csc", depth=depth), "gpu"), 10)
  text = networks.gradient_for_a_gpu(model)
  return text.count("stablehlo.convolution"), text.count("stablehlo.while")


@pytest.mark.slow
def test_a_gpu_program_has_no_loops_at_20_layers_and_at_most_twice_its_size_at_218():
  (few, no_loops), (many, loops) = convolutions(20), convolutions(218)
  assert no_loops == 0 < loops
  assert many <= 2 * few


def test_chosen_and_requested_values_are_both_recorded(tmp_path, monkeypatch):
  config = Config(model="res_csc", depth=20)
  for platform, expected in (("cpu", ("elementwise", 1)), ("gpu", ("none", 3))):
    monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
    (tmp_path / platform).mkdir()
    write_config(tmp_path / platform, config, "name", INFO)
    found = json.loads((tmp_path / platform / "config.json").read_text())
    assert (found["model_fields"]["remat"], found["model_fields"]["unroll"]) == expected
    assert (found["flags"]["remat"], found["flags"]["unroll"]) == (AUTO, None)


def test_a_run_resumed_with_another_value_gives_a_warning(tmp_path):
  arguments = ["--dataset=digits", f"--workdir={tmp_path}"]
  for more in ([], []):
    config = parse([*arguments, *more])
    with open_workdir(config):
      write_config(tmp_path, config, "name", INFO)
  config = parse([*arguments, "--channel_multiple=8"])
  with open_workdir(config), pytest.warns(match="the run had model_fields channel_multiple 1, now 8$"):
    write_config(tmp_path, config, "name", INFO)


def test_a_run_older_than_the_fields_can_be_resumed_and_repeated(tmp_path):
  arguments = ["--model=res_csc", "--depth=20", f"--workdir={tmp_path}"]
  flags = dataclasses.asdict(parse(arguments)) | {"remat": None}
  for name in ("unroll", "channel_multiple"):
    del flags[name]
  path = tmp_path / "config.json"
  contents = {"flags": flags, "model_fields": {"remat": "elementwise"}, "architecture": 2}
  path.write_text(json.dumps(contents))
  assert parse([f"--from_config={path}", f"--workdir={tmp_path}"]) == parse(arguments)
  assert parse([f"--from_config={path}", "--remat=all"]).remat == "all"
  with open_workdir(parse(arguments)), warnings.catch_warnings():
    warnings.simplefilter("error")
    write_config(tmp_path, parse(arguments), "name", INFO)


def test_other_platforms_use_the_defaults_of_the_network():
  assert automatic_fields("res_csc", 20, "tpu") == {}
