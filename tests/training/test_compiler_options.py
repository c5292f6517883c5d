"""The compiler options for the CPU do not change values and gradients, and the others stay empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cscjax import ops, training
from cscjax.models import create_model
from tests.models.networks import initialized

pytestmark = pytest.mark.optimized

CONVOLUTIONS = {
  "dilated": ((9, 8, 40), (3, 3, 40, 16), {"dilation": 2}),
  "strided": ((9, 8, 16), (4, 4, 16, 32), {"stride": 2, "padding": ((1, 1), (1, 1))}),
  "one channel": ((12, 12, 1), (5, 5, 1, 8), {"padding": "CIRCULAR"}),
  "on a tiny map": ((2, 2, 64), (3, 3, 64, 32), {}),
  "signals": ((20, 24), (5, 24, 8), {"padding": "VALID"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_inside_a_loop(name, dtype):
  signal, kernel, geometry = CONVOLUTIONS[name]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(6, *signal)), dtype)
  w = jnp.asarray(rng.normal(size=kernel) / 10, dtype)

  def energy(x, w):
    code = ops.conv(x, w, **geometry)
    reconstruction = ops.conv_adjoint(jnp.tanh(code), w, x.shape[1:-1], **geometry)
    return jnp.sum(jnp.square(reconstruction - x).astype(jnp.float32))

  def run(x, w):
    """Sums two gradients in a loop, as a training step does."""

    def body(i, total):
      gradients = jax.grad(energy, argnums=(0, 1))(x * (1 + i), w)
      return jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, gradients)

    start = (jnp.zeros(x.shape), jnp.zeros(w.shape))
    return jax.lax.fori_loop(0, 2, body, start)

  plain = jax.jit(run)(x, w)
  fast = jax.jit(run, compiler_options=training.compiler_options())(x, w)
  for got, expected in zip(fast, plain, strict=True):
    error = 1e-5 if dtype == jnp.float32 else 0.04
    np.testing.assert_allclose(got, expected, rtol=0, atol=error * float(jnp.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msd_csc", "res_csc", "ml_csc"])
def test_networks(name):
  """Loss and gradients of a training step agree up to float32 rounding."""
  fields = {"msd_csc": {"depth": 3, "width": 8, "unfolding": 2}, "ml_csc": {"width": 8}}
  model = create_model(name, num_classes=10, **fields.get(name, {"depth": 8}))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 16, 3)), jnp.float32)
  variables = initialized(model, x)
  params, state = variables.pop("params"), variables

  def loss(params):
    logits, _ = model.apply({"params": params, **state}, x, train=True, mutable=list(state))
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[:, 0])

  step = jax.value_and_grad(loss)
  plain = jax.jit(step)(params)
  fast = jax.jit(step, compiler_options=training.compiler_options())(params)
  np.testing.assert_allclose(fast[0], plain[0], rtol=1e-5)
  for got, expected in zip(jax.tree.leaves(fast[1]), jax.tree.leaves(plain[1]), strict=True):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * float(jnp.abs(expected).max()) + 1e-7)


def test_this_version_of_xla_knows_them():
  """Without them every CPU run would be two to three times slower, without a message."""
  assert training.compiler_options()


def test_without_them_where_xla_does_not_know_them(monkeypatch):
  devices = training._devices
  monkeypatch.setattr(devices, "CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
  assert devices.compiler_options.__wrapped__() == {}


def test_none_for_other_backends(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert training._devices.compiler_options.__wrapped__() == {}
