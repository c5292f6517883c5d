"""The registry of networks by name."""

import pytest

from cscjax.models import ARCHITECTURES, MODELS, create_model, model_fields

NAMES = (
  "msd_csc",
  "msdnet",
  "res_csc",
  "res_csc_simplified",
  "resnet",
  "plain",
  "ml_csc",
  "feed_forward",
)


def test_names():
  assert set(MODELS) == set(NAMES)
  with pytest.raises(ValueError, match=r"model: .*res_csc_simplified.*got 'unet'"):
    create_model("unet", num_classes=10)


def test_the_version_of_each_computation():
  """The Res-CSC family has version 2 since its transition blocks are aligned with their shortcuts."""
  family = ("res_csc", "res_csc_simplified", "resnet", "plain")
  assert {name: ARCHITECTURES[name] for name in NAMES} == {n: 1 + (n in family) for n in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_the_modules_own(name):
  fields = model_fields(name)
  assert {"depth", "rule", "unfolding", "pursuit"} & set(fields)
  model = create_model(name, num_classes=7, **fields)
  for field, default in fields.items():
    assert getattr(model, field) == default
  assert model == create_model(name, num_classes=7)


@pytest.mark.parametrize(
  ("name", "field", "value"),
  [
    ("resnet", "depth", 21),
    ("plain", "unfolding", 0),
    ("resnet", "c", -1.0),
    ("resnet", "rule", "plain"),
    ("feed_forward", "unfolding", 1),
    ("msdnet", "unfolding", 1),
    ("ml_csc", "depth", 6),
    ("msd_csc", "remat", "layer"),
    ("res_csc", "unroll", 0),
    ("msd_csc", "unroll", 2),
    ("msd_csc", "channel_multiple", 0),
    ("ml_csc", "remat", "all"),
    ("msd_csc", "parent", None),
  ],
)
def test_invalid_fields(name, field, value):
  with pytest.raises(ValueError, match=f"^{field}: "):
    create_model(name, num_classes=10, **{field: value})
