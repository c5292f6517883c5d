"""Pursuits: pure functions from a dictionary and a signal to a sparse code."""

from cscjax.solvers.layered import layered_thresholding
from cscjax.solvers.proximal_gradient import SolverResult, fista, ista
from cscjax.solvers.unfolded import unfolded_pursuit

__all__ = ["SolverResult", "fista", "ista", "layered_thresholding", "unfolded_pursuit"]
