"""Flax (linen) networks whose forward pass unfolds (also: unrolls) the iterations of a sparse solver."""

from cscjax.models._layers import CSCLayer, MSDCSCLayer
from cscjax.models._ml_csc import MLCSC
from cscjax.models._msd_csc import MSDCSC
from cscjax.models._registry import ARCHITECTURES, MODELS, create_model, model_fields
from cscjax.models._remat import REMAT
from cscjax.models._res_csc import ResCSC, ResCSCBlock
from cscjax.models._spectral import STEPS
from cscjax.models._summary import LayerSummary, describe
from cscjax.models._unfolded import PURSUITS
from cscjax.solvers import SOLVERS

__all__ = [
  "ARCHITECTURES",
  "MLCSC",
  "MODELS",
  "MSDCSC",
  "PURSUITS",
  "REMAT",
  "SOLVERS",
  "STEPS",
  "CSCLayer",
  "LayerSummary",
  "MSDCSCLayer",
  "ResCSC",
  "ResCSCBlock",
  "create_model",
  "describe",
  "model_fields",
]
