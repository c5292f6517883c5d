"""The memory that XLA plans for a solver, in arrays of the code's size."""

import jax
import jax.numpy as jnp
import pytest

import cscjax


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the plan is that of the CPU")
@pytest.mark.parametrize(
  ("solver", "step", "arrays"), [("ista", None, 4.2), ("fista", None, 5.2), ("fista", 0.1, 4.2)]
)
@pytest.mark.parametrize("batch", [(), (4,)])
def test_memory_in_sizes_of_the_code(solver, step, arrays, batch):
  """Four arrays of the code's size: two codes, the point and the gradient, which the new code replaces.

  A searched step needs a fifth. The rest is of the signal's size.
  """
  filters = jax.ShapeDtypeStruct((5, 5, 1, 64), jnp.float32)
  x = jax.ShapeDtypeStruct((*batch, 512, 512, 1), jnp.float32)

  def solve(filters, x, beta):
    dictionary = cscjax.ConvDictionary(filters)
    return getattr(cscjax, solver)(dictionary, x, beta, tolerance=1e-3, step=step, record=())

  plan = jax.jit(solve).lower(filters, x, jnp.float32(0.1)).compile().memory_analysis()
  code = 4 * 64 * x.size
  assert (plan.temp_size_in_bytes + plan.output_size_in_bytes) / code < arrays


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the plan is that of the CPU")
@pytest.mark.parametrize(
  ("solver", "options", "codes"),
  [
    (cscjax.ista, {"tolerance": 1e-3}, 3.4),
    (cscjax.fista, {"iterations": 100}, 3.3),
    (cscjax.fista, {"tolerance": 1e-3}, 5.3),
    (cscjax.fista, {"tolerance": 1e-3, "restart": True}, 5.3),
    (cscjax.fista, {"tolerance": 1e-3, "stop": "gap"}, 6.2),
    (cscjax.admm, {"iterations": 100}, 4.4),
    (cscjax.admm, {"tolerance": 1e-3}, 4.6),
    (cscjax.admm, {"tolerance": 1e-3, "stop": "gap"}, 5.4),
  ],
)
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", "VALID"])
def test_large_images(solver, options, codes, padding):
  """The code alone has 2 GiB; the result contains it and the state. Nothing runs."""
  filters = jax.ShapeDtypeStruct((8, 8, 1, 32), jnp.float32)
  x = jax.ShapeDtypeStruct((4096, 4096, 1), jnp.float32)

  def solve(filters, x, beta):
    return solver(cscjax.ConvDictionary(filters, padding=padding), x, beta, **options)

  plan = jax.jit(solve).lower(filters, x, jnp.float32(0.1)).compile().memory_analysis()
  code = 4 * 32 * x.size
  assert (plan.temp_size_in_bytes + plan.output_size_in_bytes) / code < codes
