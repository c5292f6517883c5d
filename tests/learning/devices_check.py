"""Learns from images that are sharded over four devices; prints differences to one device as JSON.

test_devices.py starts it as a process, because the number of devices is set before JAX starts.
"""

import functools
import json

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cscjax.learning import DictionaryLearner, learn_dictionary
from cscjax.learning._images import as_images
from cscjax.learning._loop import run_steps

LEARNER = DictionaryLearner(kernel=[(3, 7)], beta=0.5, coding_iterations=5)


def _difference(got, expected):
  """Returns the largest difference of filters and objectives."""
  pairs = zip(*((r.dictionary.filters, r.objective) for r in (got, expected)), strict=True)
  return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs)


def _codes_of_a_device(images, kind):
  """Returns the numbers n of images in codes [n, 8, 8, 7] of a compiled run with minibatches of 8."""
  if kind == AxisType.Explicit:
    lowered = jax.jit(functools.partial(LEARNER.run, steps=2, batch_size=8)).lower(images)
  else:  # under `jax.jit`, the sharding of the images is unknown
    options = {"batch_size": 8, "length": 2, "callbacks": ()}
    lowered = run_steps.lower(as_images(images), LEARNER, LEARNER.init(images), 2, None, **options)
  text = lowered.compile().as_text()
  return [n for n in range(1, 17) if f"f32[{n},8,8,7]" in text]


def main():
  rng = np.random.default_rng(0)
  images = rng.normal(size=(16, 8, 8, 1)).astype(np.float32)
  mask = (rng.uniform(size=(16, 8, 8)) < 0.9).astype(np.float32)
  cases = {"all": {}, "minibatches": {"batch_size": 8}, "tolerance": {"tolerance": 1e-2}}
  cases["uneven minibatches"] = {"batch_size": 6, "init": "patches"}
  errors, codes = {}, {}
  for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4,), ("i",), axis_types=(kind,))
    sharding = NamedSharding(mesh, P("i"))
    sharded, weights = jax.device_put((images, mask), sharding)
    codes[kind.name] = _codes_of_a_device(sharded, kind)
    for name, options in cases.items():
      options = {"steps": None if "tolerance" in options else 5, **options}
      errors[f"{name}, {kind.name}"] = _difference(
        LEARNER.run(sharded, mask=weights, **options), LEARNER.run(images, mask=mask, **options)
      )
    state, expected = LEARNER.init(sharded), LEARNER.init(images)
    step = jax.jit(LEARNER.step)
    for rows in (slice(0, 8), slice(8, 16)):
      state = step(jax.device_put(images[rows], sharding), state)
      expected = step(images[rows], expected)
    errors[f"steps, {kind.name}"] = float(np.max(np.abs(np.asarray(state.filters) - expected.filters)))
  # In `shard_map`, each device learns a dictionary from its own images, and so does `vmap`.
  learn = functools.partial(learn_dictionary, beta=0.5, kernel=[(3, 7)], steps=3, batch_size=2)
  apart = np.stack([learn(part).dictionary.filters for part in images.reshape(4, 4, 8, 8, 1)])
  several = {
    "shard_map": jax.shard_map(
      lambda x: learn(x).dictionary.filters[None], mesh=mesh, in_specs=P("i"), out_specs=P("i")
    )(sharded),
    "vmap": jax.vmap(lambda x: learn(x).dictionary.filters)(images.reshape(4, 4, 8, 8, 1)),
  }
  errors |= {name: float(np.max(np.abs(apart - np.asarray(got)))) for name, got in several.items()}
  print(json.dumps({"devices": len(jax.devices()), "errors": errors, "codes": codes}))


if __name__ == "__main__":
  main()
