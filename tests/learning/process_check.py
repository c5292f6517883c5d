"""Learns from masked images of which each of two processes has half; process 0 prints filters as JSON.

python process_check.py PORT PROCESS_ID
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import cscjax
from cscjax.learning import DictionaryLearner

LEARNER = DictionaryLearner(kernel=[(3, 4)], beta=0.5, coding_iterations=5)


def images():
  return np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)


def masks():
  return (np.random.default_rng(1).random((8, 8, 8, 1)) < 0.8).astype(np.float32)


def main(port, process_id):
  jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process_id)
  mesh = jax.make_mesh((jax.device_count(),), ("data",))

  def shared(array):
    own = array[4 * process_id : 4 * process_id + 4]  # as if read from the disk of this machine
    return jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), own)

  everything, mask = shared(np.where(masks() > 0, images(), np.nan)), shared(masks())
  state = LEARNER.step(everything, LEARNER.init(everything, mask=mask), mask=mask)
  result = LEARNER.run(everything, steps=3, batch_size=4, state=state, mask=mask)
  betas = shared(np.linspace(0.1, 0.5, 8, dtype=np.float32).reshape(8, 1, 1, 1))
  code = cscjax.fista(result.dictionary, everything, betas, mask=mask, iterations=2).code
  assert bool(jnp.all(jnp.isfinite(code)))
  if process_id == 0:
    print(json.dumps(np.asarray(result.dictionary.filters).tolist()))


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
