"""Flax (linen) networks whose forward pass is a pursuit; they call the solvers."""

from cscjax.models.layers import CSCLayer, MSDCSCLayer
from cscjax.models.ml_csc import MLCSC
from cscjax.models.msd_csc import MSDCSC
from cscjax.models.registry import ARCHITECTURES, MODELS, create_model, model_fields
from cscjax.models.res_csc import ResCSC, ResCSCBlock
from cscjax.models.summary import Layer, describe

__all__ = [
  "ARCHITECTURES",
  "MLCSC",
  "MODELS",
  "MSDCSC",
  "CSCLayer",
  "Layer",
  "MSDCSCLayer",
  "ResCSC",
  "ResCSCBlock",
  "create_model",
  "describe",
  "model_fields",
]
