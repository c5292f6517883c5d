"""Training on several devices against one, in a process with several CPU devices."""

import pathlib

import pytest

from cscjax import training
from cscjax.models import create_model
from tests.several_devices import report_of

ROUNDING = 2e-3  # rounding error of 8 steps in float32, relative to 1e-3 + |value|


@pytest.fixture(scope="module")
def report():
  return report_of(pathlib.Path(__file__).with_name("parallel_check.py"), devices=4)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["msd_csc", "res_csc", "ml_csc"])
def test_jit_trains_on_several_devices_as_on_one(report, network):
  """Losses, the last state and an evaluation agree, and each example is counted once."""
  found = report["networks"][network]
  assert found["difference"] < ROUNDING
  assert found["count"] == [70, 70]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["msd_csc", "res_csc", "ml_csc"])
def test_the_devices_exchange_sums_and_no_activations(report, network):
  """The only communication is all-reduces, none of which is larger than the largest parameter."""
  found = report["networks"][network]
  assert list(found["exchanged"]) == ["all-reduce"]
  assert found["exchanged"]["all-reduce"] <= found["largest parameter"]


@pytest.mark.slow
def test_pmap_is_the_mean_over_devices_with_statistics_of_their_own(report):
  found = report["pmap"]
  assert found["difference without norm"] < ROUNDING
  assert found["difference from the reference"] < ROUNDING
  assert found["difference from one device"] > 10 * ROUNDING
  assert list(found["exchanged"]) == ["all-reduce"]
  assert found["count"] == 70


def test_unknown_mode_is_named():
  schedule = training.step_schedule(0.1, [])
  model = create_model("msd_csc", num_classes=3, depth=1, width=2)
  with pytest.raises(ValueError, match=r"parallel.*auto, jit, pmap"):
    training.Trainer(model, training.sgd(schedule), schedule, 4, parallel="tpu")


def test_one_device_needs_no_mesh():
  assert training.create_mesh() is None
