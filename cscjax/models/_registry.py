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
    module: Its class.
    fixed: Fields that make it what its name says.
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

ARCHITECTURES: dict[str, int] = {
  name: 2 if module is ResCSC else 1 for name, (module, _) in MODELS.items()
}
"""For each network the version of its computation, recorded in runs and checkpoints.

It is raised when a network of the same fields computes something else than before, so that trained
parameters and records of an older version are not mistaken for ones of the new version.

The Res-CSC family is at 2: before, filters and shortcut of its transition blocks were a pixel apart.
"""


def model_fields(name: str) -> dict[str, Any]:
  """The fields that a network takes, with their defaults; `num_classes`, which has none, is left out.

  Raises:
    ValueError: If the name is unknown (the message lists the names).
  """
  module, fixed = MODELS[checks.one_of("model", name, MODELS)]
  fields = {f.name: f.default for f in dataclasses.fields(module) if f.init}
  for unwanted in ("num_classes", "parent", "name"):
    del fields[unwanted]
  return fields | fixed


def create_model(name: str, **fields) -> nn.Module:
  """Builds a network.

  Args:
    name: A key of `MODELS`.
    **fields: Of the network's module, `num_classes` among them; see `model_fields`. One that the name
      fixes may only be given its value.

  Raises:
    ValueError: If the name is unknown (the message lists the names), the network does not take a field,
      or a value does not fit.
  """
  known = model_fields(name)
  for field, value in fields.items():
    if field not in (*known, "num_classes"):
      checks.fail(field, value, f"nothing, {name} does not take it (it takes {', '.join(known)})")
  module, fixed = MODELS[name]
  for field, value in fixed.items():
    if fields.get(field, value) != value:
      checks.fail(field, fields[field], f"{value!r} for {name}")
  return module(**fields | fixed)
