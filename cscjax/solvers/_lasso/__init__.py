"""Solvers for codes of one layer: the Lasso, min 1/2 ||x - D code||^2 + beta ||code||_1, and OMP."""
