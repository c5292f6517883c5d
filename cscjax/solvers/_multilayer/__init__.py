"""Solvers of several layers; `cscjax.solvers` exports the public names."""
