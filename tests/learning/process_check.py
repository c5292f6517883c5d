"""Learns from images of which each of two processes has half; process 0 prints the filters as JSON.

python process_check.py PORT PROCESS_ID
"""

import json
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cscjax.learning import DictionaryLearner

LEARNER = DictionaryLearner(kernel=[(3, 4)], beta=0.5, coding_iterations=5)


def images():
  return np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)


def main(port, process_id):
  jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process_id)
  mesh = jax.make_mesh((jax.device_count(),), ("data",))
  own = images()[4 * process_id : 4 * process_id + 4]  # as if read from the disk of this machine
  everything = jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), own)
  state = LEARNER.step(everything, LEARNER.init(everything))
  result = LEARNER.run(everything, steps=3, batch_size=4, state=state)
  if process_id == 0:
    print(json.dumps(np.asarray(result.dictionary.filters).tolist()))


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
