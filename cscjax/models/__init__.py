"""Flax (linen) networks whose forward pass is a pursuit; they call the solvers."""

from cscjax.models.layers import MSDCSCLayer
from cscjax.models.msd_csc import MSDCSC
from cscjax.models.registry import MODELS, create_model

__all__ = ["MODELS", "MSDCSC", "MSDCSCLayer", "create_model"]
