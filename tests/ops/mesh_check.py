"""Checks all maps and derivatives on a mesh of two devices, and prints the relative errors as JSON.

It runs in its own process (see test_meshes.py), because the number of devices is set before JAX starts.
"""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import cscjax
from cscjax import ops

BATCH, REPLICATED = P("i"), P()


def _maps(geometry):
  """Maps names to a function of signals, codes and filters, and whether its result has a batch axis."""
  synthesis = partial(ops.conv_adjoint, signal_shape=(7, 6), **geometry)

  def analysis_energy(x, w):
    return jnp.sum(ops.conv(x, w, **geometry) ** 2)

  def synthesis_energy(code, w):
    return jnp.sum(synthesis(code, w) ** 2)

  by_filters = jax.grad(analysis_energy, argnums=1)
  return {
    "analysis": (lambda x, code, w: ops.conv(x, w, **geometry), True),
    "synthesis": (lambda x, code, w: synthesis(code, w), True),
    "analysis by x": (lambda x, code, w: jax.grad(analysis_energy)(x, w), True),
    "analysis by filters": (lambda x, code, w: by_filters(x, w), False),
    "synthesis by code": (lambda x, code, w: jax.grad(synthesis_energy)(code, w), True),
    "synthesis by filters": (lambda x, code, w: jax.grad(synthesis_energy, argnums=1)(code, w), False),
    "forward": (
      lambda x, code, w: jax.jvp(lambda w: ops.conv(x, w, **geometry), (w,), (2 * w,))[1],
      True,
    ),
    "second": (lambda x, code, w: jax.jvp(lambda w: by_filters(x, w), (w,), (jnp.cos(w),))[1], False),
    "vmap": (
      lambda x, code, w: jax.vmap(partial(ops.conv, **geometry), (None, 0), 1)(x, jnp.stack([w, 2 * w])),
      True,
    ),
    "batch of batches": (lambda x, code, w: ops.conv(x[:, None], w, **geometry), True),
  }


def main():
  jax.config.update("jax_enable_x64", True)
  mesh = jax.make_mesh((2,), ("i",))
  rng = np.random.default_rng(0)
  report = {"devices": len(jax.devices()), "errors": {}, "refused": []}
  cases = [
    (1, (3, 3), {"padding": "SAME"}),
    (9, (3, 3), {"padding": "CIRCULAR", "stride": 2}),
    (1, (7, 6), {"padding": "SAME", "dilation": 2}),  # 42 taps, more than are unrolled
  ]
  for channels, kernel, geometry in cases:
    w = jnp.asarray(rng.normal(size=(*kernel, channels, 3)))
    x = jnp.asarray(rng.normal(size=(4, 7, 6, channels)))
    code = jnp.asarray(rng.normal(size=ops.conv(x, w, **geometry).shape))

    def put(array, spec):
      return jax.device_put(array, NamedSharding(mesh, spec))

    sharded = put(x, BATCH), put(code, BATCH), put(w, REPLICATED)
    for name, (function, batched) in _maps(geometry).items():
      expected = function(x, code, w)
      mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(BATCH, BATCH, REPLICATED),
        out_specs=BATCH if batched else REPLICATED,
      )
      with jax.sharding.set_mesh(mesh):
        got = {
          "shard_map": jax.jit(mapped)(*sharded),
          "explicit": jax.jit(function)(*sharded),
          "explicit, not compiled": function(*sharded),
        }
      for how, result in got.items():
        error = float(jnp.max(jnp.abs(jax.device_get(result) - expected)) / jnp.max(jnp.abs(expected)))
        report["errors"][f"{channels} {kernel} {name} {how}"] = error
  varying = cscjax.ConvDictionary(w).analysis
  for function in (varying, lambda x: jax.lax.dot(x.reshape(-1, channels), w[0, 0])):
    try:
      jax.jit(jax.shard_map(function, mesh=mesh, in_specs=BATCH, out_specs=REPLICATED))(sharded[0])
    except ValueError as error:
      report["refused"].append("replicat" in str(error))
  print(json.dumps(report))


if __name__ == "__main__":
  main()
