"""Pictures: functions that return a matplotlib Figure.

Matplotlib is imported where it is needed, and never its pyplot: no global state, no display. A notebook
shows a Figure that ends a cell; `figure.savefig(path)` writes it.
"""

from cscjax.plots.atoms import atoms
from cscjax.plots.codes import code, reconstruction
from cscjax.plots.curves import bands, convergence_curves, learning_curves
from cscjax.plots.layers import layers
from cscjax.plots.matrices import convolutional_matrices

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
