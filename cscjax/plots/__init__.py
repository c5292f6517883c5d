"""Plots of dictionaries, codes, networks and training runs, each returned as a matplotlib Figure.

The functions require the extra `plots`. They import matplotlib when they are called and never use
pyplot, so they need no display and change no global state. A notebook shows a Figure that is the last
value of a cell; `figure.savefig(path)` writes it to a file.
"""

from cscjax.plots._atoms import atoms
from cscjax.plots._codes import code, reconstruction
from cscjax.plots._curves import bands, convergence_curves, learning_curves, stability
from cscjax.plots._layers import layers
from cscjax.plots._matrices import convolutional_matrices
from cscjax.plots._signals import signal

__all__ = [
  "atoms",
  "bands",
  "code",
  "convergence_curves",
  "convolutional_matrices",
  "layers",
  "learning_curves",
  "reconstruction",
  "signal",
  "stability",
]
