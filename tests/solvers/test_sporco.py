"""Tests that the optimum is that of SPORCO's ConvBPDN, if it is installed (extra `bench`)."""

import jax.numpy as jnp
import numpy as np
import pytest

import cscjax

cbpdn = pytest.importorskip("sporco.admm.cbpdn")
util = pytest.importorskip("sporco.util")


@pytest.mark.slow
@pytest.mark.parametrize("solve", [cscjax.fista, cscjax.admm])
def test_objective_of_conv_bpdn(x64, solve):
  """The first dictionary of SPORCO has 32 atoms of 8x8; its codes are shifted, with equal objective."""
  filters = np.asarray(util.convdicts()["G:8x8x32"], np.float64)
  x = np.random.default_rng(0).normal(size=(20, 24))
  x = x - x.mean()
  options = {"MaxMainIter": 500, "RelStopTol": 1e-6}
  theirs = cbpdn.ConvBPDN(filters, x, 0.5, cbpdn.ConvBPDN.Options(options), dimK=0)
  code = theirs.solve().squeeze()
  expected = 0.5 * np.sum((theirs.reconstruct().squeeze() - x) ** 2) + 0.5 * np.abs(code).sum()
  dictionary = cscjax.ConvDictionary(jnp.asarray(filters[:, :, None]), padding="CIRCULAR")
  result = solve(
    dictionary,
    x[:, :, None],
    0.5,
    tolerance=1e-6,
    max_iterations=5000,
    record=("objective",),
  )
  assert 0.01 < np.mean(np.asarray(result.code) != 0) < 0.2
  np.testing.assert_allclose(result.objective[-1], expected, rtol=1e-5)
