"""Trains on one device and on several, and prints the differences. Run by test_parallel.py."""

import json
import math
import re
import sys
from unittest import mock

import jax
import numpy as np
import optax

from cscjax import training
from cscjax.models import create_model
from cscjax.ops import _conv_cpu

BATCH, CLASSES, STEPS = 16, 5, 8  # two epochs
NETWORKS = {
  "msd_csc": {"depth": 2, "unfolding": 2, "solver": "fista"},
  "res_csc": {"depth": 14},  # with blocks in a scan
  "ml_csc": {"unfolding": 1},
}
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|ragged-all-to-all"


def make_trainer(name, mesh=None, parallel="jit", **fields):
  model = create_model(name, num_classes=CLASSES, width=4, **NETWORKS[name], **fields)
  schedule = training.step_schedule(0.05, [])
  optimizer = training.sgd(schedule, momentum=0.9, weight_decay=1e-4)
  return training.Trainer(
    model, optimizer, schedule, BATCH, shift=1, flip=True, mesh=mesh, parallel=parallel
  )


def make_data():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (70, 8, 8, 3), dtype=np.uint8)
  labels = rng.integers(0, CLASSES, 70).astype(np.int32)
  return training.Examples(images, labels, np.full(3, 0.5, np.float32), np.full(3, 0.3, np.float32))


def train(trainer):
  """Returns the loss after each step, the last state, the sums of an evaluation, and the program."""
  state = trainer.create_state((8, 8, 3), jax.random.key(0))
  state, data, key = trainer.put((state, make_data(), jax.random.key(1)))
  step = trainer.train.lower(state, data, key, np.int32(1)).compile()
  losses = []
  for _ in range(STEPS):
    state = step(state, data, key, np.int32(1))
    losses.append(float(state.metrics.loss))
  sums = trainer.evaluate(state, data, training.EpochMetrics.zero(), np.int32(0), np.int32(5))
  return *jax.device_get((losses, state, sums)), step.as_text()


def reference(trainer, parts):
  """Computes two steps of "pmap" with separate gradients and statistics of each part of the batch."""
  data, (shuffle_key, augment_key) = make_data(), jax.random.split(jax.random.key(1))
  order = jax.random.permutation(jax.random.fold_in(shuffle_key, 0), len(data.labels))
  state = trainer.create_state((8, 8, 3), jax.random.key(0))

  @jax.jit
  def gradient(params, variables, images, labels):
    def loss(params):
      logits, updates = trainer.model.apply(
        {"params": params, **variables}, images, train=True, mutable=list(variables)
      )
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

    return jax.grad(loss, has_aux=True)(params)

  params, variables, opt_state = state.params, state.variables, state.opt_state
  for step in range(2):
    batch = np.asarray(order)[step * BATCH : (step + 1) * BATCH]
    keys = jax.random.split(jax.random.fold_in(augment_key, step), BATCH)
    images = training.augment(data.images[batch], keys, shift=1, flip=True)
    images = training.normalize(images, data.mean, data.std)
    found = [
      gradient(params, variables, images[part], data.labels[batch[part]])
      for part in np.split(np.arange(BATCH), parts)
    ]
    grads, variables = jax.tree.map(lambda *leaves: sum(leaves) / parts, *found)
    updates, opt_state = trainer.optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
  return jax.device_get((params, variables))


def after_two_steps(trainer):
  state = trainer.create_state((8, 8, 3), jax.random.key(0))
  state, data, key = trainer.put((state, make_data(), jax.random.key(1)))
  state = trainer.train(state, data, key, np.int32(2))
  return jax.device_get((state.params, state.variables))


def distance(left, right):
  """Returns the largest difference, relative to 1e-3 + |value|."""
  return max(
    float(np.max(np.abs(np.float64(a) - np.float64(b)) / (1e-3 + np.abs(np.float64(b)))))
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  )


def exchanged(text):
  """Returns the size of the largest array in each kind of collective operation of a program."""
  largest = {}
  for shapes, kind in re.findall(rf"= (.*?) ({COLLECTIVES})(?:-start)?\(", text):
    arrays = [map(int, filter(None, dims.split(","))) for dims in re.findall(r"\[([\d,]*)\]", shapes)]
    largest[kind] = max(largest.get(kind, 0), *map(math.prod, arrays))
  return largest


def main():
  mesh, report = training.create_mesh(), {"devices": jax.device_count(), "networks": {}}
  for name in NETWORKS:
    one, several = train(make_trainer(name)), train(make_trainer(name, mesh))
    report["networks"][name] = {
      "difference": distance(several[:3], one[:3]),
      "exchanged": exchanged(several[3]),
      "largest parameter": max(leaf.size for leaf in jax.tree.leaves(one[1].params)),
      "count": [float(run[2].count) for run in (one, several)],
    }
  one = train(make_trainer("msd_csc", norm=False))
  several = train(make_trainer("msd_csc", mesh, "pmap", norm=False))
  pmap = make_trainer("msd_csc", mesh, "pmap")
  found = after_two_steps(pmap)
  report["pmap"] = {
    "difference without norm": distance(several[:3], one[:3]),
    "exchanged": exchanged(several[3]),
    "difference from the reference": distance(found, reference(pmap, jax.device_count())),
    "difference from one device": distance(found, after_two_steps(make_trainer("msd_csc"))),
    "count": float(several[2].count),
  }
  json.dump(report, sys.stdout)


if __name__ == "__main__":
  # With a small block size, filter gradients loop over blocks of images, as they do for large images.
  with mock.patch.object(_conv_cpu, "_PRODUCT", 2**13):
    main()
