"""What is left to the device: chosen for it, recorded, and free to change when a run is resumed."""

import dataclasses
import json
import warnings

import jax
import pytest

from cscjax.models import MODELS
from cscjax.runs import AUTO, Config, RunError, automatic_fields, for_device, make_model
from cscjax.runs._workdir import open_workdir, write_config
from experiments.flags import parse
from tests.models import networks

LEFT_TO_IT = {"remat": AUTO, "unroll": None, "channel_multiple": None}


def chosen(platform, **fields):
  config = for_device(Config(**fields), platform)
  return tuple(getattr(config, name) for name in LEFT_TO_IT)


def test_what_each_device_gets():
  assert chosen("cpu", model="res_csc") == chosen("cpu") == tuple(LEFT_TO_IT.values())
  assert chosen("gpu", model="res_csc", depth=20) == ("none", 3, None)
  assert chosen("gpu", model="resnet", depth=56) == ("none", 9, None)
  assert chosen("gpu") == chosen("gpu", model="msdnet") == ("none", None, 8)
  assert chosen("gpu", model="ml_csc") == tuple(LEFT_TO_IT.values())


def test_what_is_given_stays():
  given = {"remat": "all", "unroll": 2}
  assert chosen("gpu", model="res_csc", **given) == ("all", 2, None)
  assert chosen("gpu", channel_multiple=1) == ("none", None, 1)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("model", MODELS)
def test_every_network_takes_what_it_gets(model, platform):
  make_model(for_device(Config(model=model), platform), 10)


@pytest.mark.parametrize("depth", [1, 7, 21])
def test_a_depth_that_does_not_fit_is_what_is_told(depth):
  config = for_device(Config(model="res_csc", depth=depth), "gpu")
  with pytest.raises(RunError, match=r"^depth: "):
    make_model(config, 10)


def convolutions(depth):
  """How many convolutions XLA gets to compile of the gradient of a network on a GPU."""
  model = make_model(for_device(Config(model="res_csc", depth=depth), "gpu"), 10)
  text = networks.gradient_for_a_gpu(model)
  return text.count("stablehlo.convolution"), text.count("stablehlo.while")


@pytest.mark.slow
def test_the_program_for_a_gpu_has_no_loops_at_20_layers_and_at_most_twice_its_size_at_218():
  (few, no_loops), (many, loops) = convolutions(20), convolutions(218)
  assert no_loops == 0 < loops
  assert many <= 2 * few


def test_what_was_chosen_is_recorded_and_what_was_asked_for_too(tmp_path, monkeypatch):
  config = Config(model="res_csc", depth=20)
  for platform, expected in (("cpu", ("elementwise", 1)), ("gpu", ("none", 3))):
    monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
    write_config(tmp_path, config, "name")
    found = json.loads((tmp_path / "config.json").read_text())
    assert (found["model_fields"]["remat"], found["model_fields"]["unroll"]) == expected
    assert (found["flags"]["remat"], found["flags"]["unroll"]) == (AUTO, None)


def test_a_run_goes_on_in_another_form_and_says_so(tmp_path):
  arguments = ["--dataset=digits", f"--workdir={tmp_path}"]
  for more in ([], []):
    config = parse([*arguments, *more])
    with open_workdir(config):
      write_config(tmp_path, config, "name")
  config = parse([*arguments, "--channel_multiple=8"])
  with open_workdir(config), pytest.warns(match="the run had model_fields channel_multiple 1, now 8$"):
    write_config(tmp_path, config, "name")


def test_a_run_from_before_the_flags_is_resumed_and_repeated(tmp_path):
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
    write_config(tmp_path, parse(arguments), "name")


def test_platforms_that_are_not_known_get_the_networks_own_defaults():
  assert automatic_fields("res_csc", 20, "tpu") == {}
