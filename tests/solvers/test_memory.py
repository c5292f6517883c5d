"""The memory that XLA plans for a solver, in arrays of the code's size."""

import jax
import jax.numpy as jnp
import pytest

import cscjax


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the plan is that of the CPU")
@pytest.mark.parametrize(("solver", "step"), [("ista", None), ("fista", None), ("fista", 0.1)])
@pytest.mark.parametrize("batch", [(), (4,)])
def test_a_solver_needs_five_arrays_of_the_codes_size(solver, step, batch):
  """Two codes, the point, the gradient and the gradient mapping; the rest is of the signal's size."""
  filters = jax.ShapeDtypeStruct((5, 5, 1, 64), jnp.float32)
  x = jax.ShapeDtypeStruct((*batch, 128, 128, 1), jnp.float32)

  def solve(filters, x, beta):
    dictionary = cscjax.ConvDictionary(filters)
    return getattr(cscjax, solver)(dictionary, x, beta, tolerance=1e-3, step=step, record=())

  plan = jax.jit(solve).lower(filters, x, jnp.float32(0.1)).compile().memory_analysis()
  code = 4 * 64 * x.size
  assert (plan.temp_size_in_bytes + plan.output_size_in_bytes) / code < 5.2
