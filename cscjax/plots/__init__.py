"""Pictures: functions that return a matplotlib Figure.

Matplotlib is imported where it is needed, and never its pyplot: no global state, no display. A notebook
shows a Figure that ends a cell; `figure.savefig(path)` writes it.
"""

from cscjax.plots._atoms import atoms
from cscjax.plots._codes import code, reconstruction
from cscjax.plots._curves import bands, convergence_curves, learning_curves
from cscjax.plots._layers import layers
from cscjax.plots._matrices import convolutional_matrices

__all__ = [
  "atoms",
  "bands",
  "code",
  "convergence_curves",
  "convolutional_matrices",
  "layers",
  "learning_curves",
  "reconstruction",
]
