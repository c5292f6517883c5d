"""The registry of networks by name."""

import pytest

from cscjax.models import MODELS, create_model, model_fields


def test_an_unknown_name_lists_the_choices():
  with pytest.raises(ValueError, match=r"model: .*res_csc_simplified.*got 'unet'"):
    create_model("unet", num_classes=10)


@pytest.mark.parametrize("name", MODELS)
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
