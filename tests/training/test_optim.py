"""SGD and its schedule against the formulas in NumPy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cscjax.training import sgd, step_schedule


@pytest.mark.parametrize(
  ("step", "expected"), [(0, 0.1), (99, 0.1), (100, 0.01), (149, 0.01), (150, 0.001), (999, 0.001)]
)
def test_schedule_falls_at_its_boundaries(step, expected):
  schedule = step_schedule(0.1, [100, 150])
  np.testing.assert_allclose(schedule(jnp.int32(step)), expected, rtol=1e-6)


def test_warmup_is_linear_and_ends_at_the_rate():
  schedule = step_schedule(0.4, [20], warmup_steps=4)
  rates = [float(schedule(jnp.int32(s))) for s in (0, 1, 2, 3, 4, 19, 20)]
  np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.04], rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_textbook_formula_and_decays_kernels_only(nesterov):
  rng = np.random.default_rng(0)
  kernel, bias = rng.normal(size=(3, 2)), rng.normal(size=2)
  params = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
  optimizer = sgd(step_schedule(0.3, [2]), momentum=0.9, nesterov=nesterov, weight_decay=0.1)
  state = optimizer.init(params)
  velocity = {"kernel": 0.0, "bias": 0.0}
  expected = {"kernel": kernel, "bias": bias}
  for step in range(4):
    grads = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    updates, state = optimizer.update({k: jnp.float32(v) for k, v in grads.items()}, state, params)
    params = optax.apply_updates(params, updates)
    rate = 0.3 if step < 2 else 0.03
    for name, decay in (("kernel", 0.1), ("bias", 0.0)):
      gradient = grads[name] + decay * expected[name]
      velocity[name] = 0.9 * velocity[name] + gradient
      direction = gradient + 0.9 * velocity[name] if nesterov else velocity[name]
      expected[name] = expected[name] - rate * direction
  for name, value in expected.items():
    np.testing.assert_allclose(params[name], value, rtol=1e-5)


@pytest.mark.parametrize(
  ("name", "call"),
  [
    ("learning_rate", lambda: step_schedule(0.0, [])),
    ("learning_rate", lambda: step_schedule(float("nan"), [])),
    ("boundaries", lambda: step_schedule(0.1, [5, 3])),
    ("factor", lambda: step_schedule(0.1, [], factor=1.5)),
    ("warmup_steps", lambda: step_schedule(0.1, [], warmup_steps=-1)),
    ("momentum", lambda: sgd(step_schedule(0.1, []), momentum=1.0)),
    ("weight_decay", lambda: sgd(step_schedule(0.1, []), weight_decay=-1e-4)),
  ],
)
def test_bad_values_are_named(name, call):
  with pytest.raises(ValueError, match=name):
    call()
