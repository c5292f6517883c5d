"""The networks by the names that the command line uses."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn

from cscjax import checks
from cscjax.models._ml_csc import MLCSC
from cscjax.models._msd_csc import MSDCSC
from cscjax.models._res_csc import ResCSC


class ModelEntry(NamedTuple):
  """A network of the registry.

  Attributes:
    module: Class of the network.
    fixed: Fields that the name determines, with their values.
  """

  module: type[nn.Module]
  fixed: dict[str, Any]


MODELS: dict[str, ModelEntry] = {
  "msd_csc": ModelEntry(MSDCSC, {}),
  "msdnet": ModelEntry(MSDCSC, {"unfolding": 0}),
  "res_csc": ModelEntry(ResCSC, {"rule": "res_csc"}),
  "res_csc_simplified": ModelEntry(ResCSC, {"rule": "simplified"}),
  "resnet": ModelEntry(ResCSC, {"rule": "resnet"}),
  "plain": ModelEntry(ResCSC, {"rule": "plain"}),
  "ml_csc": ModelEntry(MLCSC, {}),
  "feed_forward": ModelEntry(MLCSC, {"unfolding": 0}),
}
"""The networks by name, see `create_model`."""

ARCHITECTURES: dict[str, int] = {
  name: 2 if module is ResCSC else 1 for name, (module, _) in MODELS.items()
}
"""The version of each network's computation, which runs and checkpoints record.

The version increases when a network with the same fields computes something different than before, so
that trained parameters and records of an old version are not used with the new one.

The Res-CSC family has version 2. In version 1 the filters and the shortcut of its transition blocks were
one pixel apart.
"""


def model_fields(name: str) -> dict[str, Any]:
  """Returns the fields of a network with their defaults.

  Args:
    name: Name of the network, a key of `MODELS`.

  Returns:
    The default of each field. `num_classes`, which has no default, is not included.

  Raises:
    ValueError: If the name is unknown. The message lists the known names.

  Example:
    >>> from cscjax.models import model_fields
    >>> fields = model_fields("resnet")
    >>> fields["depth"], fields["rule"]
    (20, 'resnet')
  """
  module, fixed = MODELS[checks.one_of("model", name, MODELS)]
  fields = {f.name: f.default for f in dataclasses.fields(module) if f.init}
  for unwanted in ("num_classes", "parent", "name"):
    del fields[unwanted]
  return fields | fixed


def create_model(name: str, **fields: Any) -> nn.Module:
  """Creates a network by its name.

  Args:
    name: Name of the network, a key of `MODELS`.
    **fields: Fields of the network, see `model_fields`. `num_classes` is required. A field that the name
      determines, such as `rule` of "resnet", can only have that value.

  Returns:
    The Flax module, an `MSDCSC`, `ResCSC` or `MLCSC`.

  Raises:
    ValueError: If the name is unknown, if the network does not have one of the fields, or if a value is
      out of range.

  Example:
    >>> from cscjax.models import create_model
    >>> model = create_model("msdnet", num_classes=10, depth=6)
    >>> model.depth, model.unfolding
    (6, 0)
  """
  known = model_fields(name)
  for field, value in fields.items():
    if field not in (*known, "num_classes"):
      checks.fail(field, value, f"no value, because {name} has only the fields {', '.join(known)}")
  module, fixed = MODELS[name]
  for field, value in fixed.items():
    if fields.get(field, value) != value:
      checks.fail(field, fields[field], f"{value!r} for {name}")
  return module(**fields | fixed)
