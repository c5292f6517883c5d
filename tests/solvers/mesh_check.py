"""Runs solvers on a mesh of two devices, in `jax.shard_map` and on explicit axes; prints errors as JSON.

test_meshes.py starts it as a process, because the number of devices is set before JAX starts.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import cscjax
from cscjax import solvers

BATCH, REPLICATED = P("i"), P()
TIGHT = {"tolerance": 1e-9, "max_iterations": 5000}


def _code(solver=cscjax.fista, beta=0.1, **options):
  return lambda x, w: solver(cscjax.ConvDictionary(w), x, beta, **options).code


def _gradient(argument, **options):
  code = _code(**options)
  return jax.grad(lambda *arguments: jnp.sum(code(*arguments) ** 2), argnums=argument)


def _layered(solver, **options):
  """Returns a function that encodes with two layers."""

  def codes(x, w):
    second = cscjax.ConvDictionary(jnp.tile(jnp.mean(w, axis=-1, keepdims=True), (1, 1, 4, 5)) / 10)
    result = solver([cscjax.ConvDictionary(w), second], x, [0.1, 0.01], **options)
    return getattr(result, "codes", result)

  return codes


def _steps(solver, dictionary=cscjax.ConvDictionary):
  """Returns a function that does three single steps."""

  def code(x, w):
    problem = cscjax.Lasso(dictionary(w), x, 0.1)
    state = solver.init(problem)
    for _ in range(3):
      state = solver.step(problem, state)
    return solver.solution(problem, state)[0]

  return code


def _polished(x, w):
  dictionary = cscjax.ConvDictionary(w)
  code = cscjax.fista(dictionary, x, 1.0, tolerance=1e-6).code
  return cscjax.polished(dictionary, x, code, 1.0).code


def _first_axis(trace):
  return jnp.moveaxis(trace, 0, -1)


def _records(x, w):
  result = cscjax.ista(
    cscjax.ConvDictionary(w), x, 0.1, iterations=4, record=("objective", "support_size")
  )
  return _first_axis(result.objective), _first_axis(result.support_size)


def _basis_pursuit(x, w):
  result = cscjax.basis_pursuit(cscjax.ConvDictionary(w), x, 2.0, **TIGHT)
  return result.code, result.beta, result.residual_norm, result.converged


CONVOLUTIONAL = {  # name -> (function, whether its result has the batch axis)
  "iterations": (_code(iterations=5), True),
  "relative": (_code(iterations=5, beta=cscjax.relative(0.1)), True),
  "records": (_records, True),
  "remat": (_code(iterations=5, differentiate="remat"), True),
  "tolerance": (_code(**TIGHT), True),
  "adaptive": (_code(step="adaptive", **TIGHT), True),
  "restart": (_code(iterations=9, restart=True), True),
  "masked, nonnegative": (_code(iterations=4, mask=jnp.ones((8, 8, 1)), nonnegative=True), True),
  "ridge, groups, some nonnegative": (
    _code(iterations=4, ridge=0.5, joint_axes=-1, nonnegative=np.array([True, False, True, False])),
    True,
  ),
  "basis pursuit, tolerance": (_basis_pursuit, True),
  "admm": (_code(cscjax.admm, iterations=12), True),
  "admm, tolerance": (_code(cscjax.admm, **TIGHT), True),
  "steps of FISTA": (_steps(solvers.FISTA()), True),
  "steps of ADMM": (_steps(solvers.ADMM()), True),
  "ml_ista": (_layered(cscjax.ml_ista, iterations=3), True),
  "ml_fista": (_layered(cscjax.ml_fista, iterations=3), True),
  "layered_bp": (_layered(cscjax.layered_bp, iterations=3), True),
  "layered_thresholding": (_layered(cscjax.layered_thresholding), True),
  "polished": (_polished, True),
  "ml_bp": (_layered(cscjax.ml_bp, iterations=3), True),
  "ml_projection": (
    lambda x, w: cscjax.ml_projection([cscjax.ConvDictionary(w)], x, [3]).codes[0],
    True,
  ),
  "gradient by filters": (_gradient(1, iterations=5), False),
  "implicit gradient by filters": (_gradient(1, beta=1.0, **TIGHT), False),
  "implicit gradient by signals": (_gradient(0, beta=1.0, **TIGHT), True),
  "gradient of admm": (_gradient(1, solver=cscjax.admm, iterations=5), False),
}


def _omp(x, a):
  result = cscjax.omp(cscjax.MatrixDictionary(a), x, tolerance=0.1)
  return result.code, _first_axis(result.residual_norm), result.iterations, result.converged


def _working_set(x, a):
  problem = cscjax.Lasso(cscjax.MatrixDictionary(a), x, 0.1)
  return solvers.WorkingSet().run(problem, **TIGHT).code


DENSE = {
  "omp": (lambda x, a: cscjax.omp(cscjax.MatrixDictionary(a), x, sparsity=3).code, True),
  "omp, tolerance": (_omp, True),
  "working set": (_working_set, True),
  "steps of WorkingSet": (_steps(solvers.WorkingSet(), cscjax.MatrixDictionary), True),
}


def main():
  jax.config.update("jax_enable_x64", True)
  mesh = jax.make_mesh((2,), ("i",))
  rng = np.random.default_rng(0)
  errors = {}
  for cases, shape, atoms in ((CONVOLUTIONAL, (4, 8, 8, 1), (3, 3, 1, 4)), (DENSE, (4, 6), (6, 10))):
    x, w = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=atoms))
    w = w / jnp.sqrt(jnp.sum(w**2, axis=tuple(range(w.ndim - 1))))
    sharded = (
      jax.device_put(x, NamedSharding(mesh, BATCH)),
      jax.device_put(w, NamedSharding(mesh, REPLICATED)),
    )
    for name, (function, batched) in cases.items():
      expected = jax.jit(function)(x, w)
      mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(BATCH, REPLICATED),
        out_specs=BATCH if batched else REPLICATED,
      )
      with jax.sharding.set_mesh(mesh):
        got = {"shard_map": jax.jit(mapped)(*sharded), "explicit": jax.jit(function)(*sharded)}
      for how, result in got.items():
        pairs = zip(jax.tree.leaves(jax.device_get(result)), jax.tree.leaves(expected), strict=True)
        pairs = [[np.asarray(value, np.float64) for value in pair] for pair in pairs]
        errors[f"{name}, {how}"] = max(
          float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs
        )
  print(json.dumps({"devices": len(jax.devices()), "errors": errors}))


if __name__ == "__main__":
  main()
