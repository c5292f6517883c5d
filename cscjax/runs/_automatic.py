"""The fields of a network that suit the device: they change its speed and memory, not its results."""

import dataclasses
from typing import Any

from cscjax.models import model_fields
from cscjax.runs._config import Config, network_fields

UNROLLED = 9
"""Blocks of a stage up to which a GPU gets no loop over them: up to 56 layers."""
TURN = 3
"""Blocks in a turn of the loop over more: 218 layers compile in less than twice the time of 20."""


def automatic_fields(model: str, depth: int | None, platform: str) -> dict[str, Any]:
  """Returns the values of fields of a network for which its own defaults are not the best ones.

  The defaults suit a CPU: there, blocks that are written out take as long as a loop over them, and more
  memory; channels of zeros cost time. On a GPU a loop costs kernels that only move data, and each turn
  cuts its CUDA graphs; memory suffices to keep what the gradient needs; and cuDNN pads channels itself,
  for each convolution anew, if they are no multiple of 8.

  Args:
    model: A key of `MODELS`.
    depth: The network's; None stands for its default.
    platform: Of the device, as `jax.default_backend()` names it.
  """
  known = model_fields(model)
  if platform != "gpu":
    return {}
  blocks = max(1, ((depth or known.get("depth", 0)) - 2) // 6)
  unroll = blocks if blocks <= UNROLLED else TURN
  chosen = {"remat": "none", "unroll": unroll, "channel_multiple": 8}
  return {name: value for name, value in chosen.items() if name in known}


def for_device(config: Config, platform: str) -> Config:
  """The configuration with those fields of the network chosen that are left to the device."""
  given = network_fields(config)
  chosen = automatic_fields(config.model, config.depth, platform)
  return dataclasses.replace(config, **{k: v for k, v in chosen.items() if k not in given})
