"""Warnings about images in units or axes that are probably not meant, and none about others."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax.models import MLCSC, MSDCSC, CSCLayer, MSDCSCLayer, ResCSC

NETWORKS = [MSDCSC(2, depth=1, width=2), ResCSC(2, depth=8, width=2), MLCSC(2, width=1)]
LAYERS = [CSCLayer(2), MSDCSCLayer(2)]


def messages(model, x):
  """The warnings of a call with known images; all point at this file."""
  like = jax.ShapeDtypeStruct(x.shape, jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), like)
  with warnings.catch_warnings(record=True, action="always") as caught:
    jax.eval_shape(lambda variables: model.apply(variables, x), variables)
  assert {warning.filename for warning in caught} <= {__file__}
  return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("model", [*NETWORKS, *LAYERS])
def test_pixels_up_to_255(model):
  x = np.full((1, 8, 8, 1), 200, np.uint8)
  (message,) = messages(model, x)
  assert message.startswith(
    "x: expected normalized floating-point values, got integers (uint8) up to 200; divide"
  )


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 3, 12, 8), (1, 1, 8, 8)])
def test_channels_first(model, shape):
  if isinstance(model, MLCSC):
    return  # refuses axes below 8
  (message,) = messages(model, np.ones(shape, np.float32))
  assert message == (
    f"x: expected channels in the last axis, got {shape}, which looks like [N, C, H, W]; pass "
    "jnp.moveaxis(x, 1, -1)"
  )


@pytest.mark.parametrize(
  ("model", "x"),
  [
    (NETWORKS[0], np.ones((1, 8, 8, 3), np.int32)),  # an indicator
    (NETWORKS[0], np.ones((1, 3, 12, 2))),  # two channels of 3 x 12
    (NETWORKS[0], np.ones((1, 1, 64, 16))),  # 16 electrodes
    (NETWORKS[0], np.ones((4, 4, 8))),  # signals
    *((layer, np.ones((1, 4, 8, 8))) for layer in LAYERS),  # the code of another layer
  ],
)
def test_what_may_be_meant(model, x):
  assert messages(model, x) == []


def test_nothing_is_known_of_tracers():
  x = jnp.full((1, 3, 8, 8), 200, jnp.uint8)
  variables = jax.eval_shape(NETWORKS[0].init, jax.random.key(0), x)
  jax.eval_shape(NETWORKS[0].apply, variables, x)  # a warning is an error
