"""Run by test_parallel.py with several host devices: trains on one and on all, prints what differs."""

import json
import sys
from functools import partial

import jax
import numpy as np

from cscjax import training
from cscjax.models import create_model

MSD_CSC = {"name": "msd_csc", "depth": 2, "unfolding": 2, "solver": "fista"}
RES_CSC = {"name": "res_csc", "depth": 14}  # its blocks run in a scan
ML_CSC = {"name": "ml_csc", "unfolding": 1}


def train(mode, model_axis, network):
  mesh = training.create_mesh(mode)
  fields = {**network, "num_classes": 5, "width": 4}
  optimizer = training.sgd(training.step_schedule(0.05, []), momentum=0.9, weight_decay=1e-4)
  recipe = training.Recipe(
    create_model(**fields, axis_name=model_axis),
    optimizer,
    16,
    shift=1,
    flip=True,
    axis_name=None if mesh is None else training.AXIS,
  )
  plain = create_model(**fields)
  state = training.create_train_state(plain, optimizer, (8, 8, 3), jax.random.key(0))
  rng = np.random.default_rng(0)
  data = training.DeviceData(
    *training.replicate(
      mesh,
      (
        rng.integers(0, 255, (70, 8, 8, 3), dtype=np.uint8),
        rng.integers(0, 5, 70).astype(np.int32),
        np.full(3, 0.5, np.float32),
        np.full(3, 0.3, np.float32),
      ),
    )
  )
  step = training.compile_for(mesh, partial(training.train_steps, recipe), donate=0)
  evaluate = training.compile_for(mesh, partial(training.evaluate_batches, recipe))
  state, key = training.replicate(mesh, (state, jax.random.key(1)))
  for _ in range(2):
    state = step(state, data, key, np.int32(4))
  sums = evaluate(state, data, training.EpochMetrics.zero(), np.int32(0), np.int32(5))
  return jax.device_get((state, sums))


def distance(left, right):
  return max(
    float(np.max(np.abs(np.float64(a) - np.float64(b)) / (1e-3 + np.abs(np.float64(b)))))
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  )


one = train("jit", None, MSD_CSC)
same = train("pmap", training.AXIS, MSD_CSC)
apart = train("auto", None, MSD_CSC)
others = {
  network["name"]: [
    train(mode, axis, network) for mode, axis in (("jit", None), ("pmap", training.AXIS))
  ]
  for network in (RES_CSC, ML_CSC)
}
json.dump(
  {
    "devices": jax.device_count(),
    "count": [float(run[1].count) for run in (one, same, apart)],
    "global": distance(same, one),
    "device": distance(apart, one),
    **{name: distance(*runs) for name, runs in others.items()},
    "finite": bool(np.isfinite(apart[1].loss)),
  },
  sys.stdout,
)
