"""Flax (linen) networks whose forward pass unfolds (unrolls) the iterations of a sparse solver.

- Networks: `MSDCSC`, `ResCSC` and `MLCSC`. With other fields they are MSDNet, ResNet and other networks
  of the paper; `create_model` creates each of them by its name.
- Layers for models of your own: `CSCLayer` and `MSDCSCLayer`, used like `flax.linen.Conv`, and
  `ResCSCBlock`.
- `describe` summarizes the layers of a network.
"""

from cscjax.models._layers import CSCLayer, MSDCSCLayer
from cscjax.models._ml_csc import MLCSC
from cscjax.models._msd_csc import MSDCSC
from cscjax.models._registry import ARCHITECTURES, MODELS, create_model, model_fields
from cscjax.models._remat import REMAT
from cscjax.models._res_csc import ResCSC
from cscjax.models._res_csc_block import ResCSCBlock
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
