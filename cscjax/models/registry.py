"""The networks by the names that the command line uses."""

from collections.abc import Callable

import flax.linen as nn

from cscjax import checks
from cscjax.models.msd_csc import MSDCSC


def _msdnet(**fields) -> MSDCSC:
  if fields.setdefault("unfolding", 0) != 0:
    checks.fail("unfolding", fields["unfolding"], "0 for msdnet (its unfolded form is msd_csc)")
  return MSDCSC(**fields)


MODELS: dict[str, Callable[..., nn.Module]] = {"msd_csc": MSDCSC, "msdnet": _msdnet}
"""Name -> builder, which takes the module's fields as keywords."""


def create_model(name: str, **fields) -> nn.Module:
  """Builds a network.

  Args:
    name: A key of `MODELS`.
    **fields: Of the network's module, `num_classes` among them.

  Raises:
    ValueError: If the name is unknown (the message lists the names) or a field does not fit.
  """
  return MODELS[checks.one_of("model", name, MODELS)](**fields)
