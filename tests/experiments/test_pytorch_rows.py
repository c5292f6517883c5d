"""The PyTorch networks of the benchmark compute the same functions as ours, and the rows are right."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cscjax import training
from cscjax.models import create_model
from experiments.benchmarks import rates
from experiments.benchmarks import training as training_suite
from tests.models.networks import initialized

torch = pytest.importorskip("torch")

from experiments.benchmarks import pytorch_networks, pytorch_training  # noqa: E402

NETWORKS = {
  "resnet": ("resnet", {"depth": 8, "width": 4}),
  "simplified": ("res_csc_simplified", {"depth": 8, "width": 4}),
  "res_csc": ("res_csc", {"depth": 14, "width": 4}),
  "msdnet": ("msdnet", {"depth": 4, "width": 4}),
  "msdcsc_ista": ("msd_csc", {"depth": 3, "width": 4, "unfolding": 2}),
  "msdcsc_fista": ("msd_csc", {"depth": 2, "width": 4, "unfolding": 3, "solver": "fista"}),
  "feed_forward": ("feed_forward", {"width": 2}),
  "ml_csc_fista": ("ml_csc", {"width": 2, "unfolding": 2, "solver": "fista"}),
}


@pytest.fixture(params=NETWORKS)
def case(request):
  name, fields = NETWORKS[request.param]
  model = create_model(name, num_classes=5, dtype=jnp.float64, **fields)
  rng = np.random.default_rng(0)
  x, labels = rng.normal(size=(4, 16, 16, 3)), rng.integers(0, 5, 4)
  return model, jax.tree.map(jnp.asarray, (x, labels))


def test_both_frameworks_have_the_same_loss_and_gradients(x64, case):
  model, (x, labels) = case
  variables = initialized(model, x)
  params, state = variables.pop("params"), variables

  @jax.jit
  @jax.value_and_grad
  def ours(params):
    logits, _ = model.apply({"params": params, **state}, x, train=True, mutable=list(state))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

  loss, gradients = ours(params)
  network = pytorch_networks.create(model, {"params": params, **state}).double()
  images = torch.tensor(np.moveaxis(np.asarray(x), -1, 1))
  theirs = torch.nn.functional.cross_entropy(network(images), torch.tensor(np.asarray(labels)))
  theirs.backward()
  np.testing.assert_allclose(theirs.item(), float(loss), rtol=1e-9)
  expected = dict(pytorch_networks.create(model, {"params": gradients, **state}).named_parameters())
  assert len(expected) == len(dict(network.named_parameters())) >= 5
  for name, parameter in network.named_parameters():
    scale = expected[name].abs().max().item()
    assert scale > 0
    np.testing.assert_allclose(parameter.grad, expected[name].detach(), atol=1e-8 * scale, err_msg=name)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own import
def test_both_frameworks_take_the_same_steps():
  model = create_model("msd_csc", num_classes=5, depth=2, width=4, unfolding=1)
  rng = np.random.default_rng(0)
  data = (
    rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8),
    rng.integers(0, 5, 6).astype(np.int32),
    np.full(3, 100, np.float32),
    np.full(3, 50, np.float32),
  )
  variables = initialized(model, jnp.zeros((1, 16, 16, 3)))
  program = pytorch_training.TorchStep(model, variables, data, 6, "float32", 0.0)
  for group, decay in zip(program.optimizer.param_groups, (0.1, 0.0), strict=True):
    assert (group["weight_decay"] > 0) == (decay > 0)
    group.update(lr=0.1, weight_decay=decay)
  program.optimizer.state.clear()
  network = pytorch_networks.create(model, variables)
  program.network.load_state_dict(network.state_dict())

  optimizer = training.sgd(lambda _: 0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
  params, state = variables.pop("params"), variables
  opt_state, x = optimizer.init(params), (data[0] - data[2]) / data[3]

  @jax.jit
  def step(params, state, opt_state):
    def loss_fn(params):
      logits, updated = model.apply({"params": params, **state}, x, train=True, mutable=list(state))
      return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data[1])), updated

    (loss, state), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return loss, optax.apply_updates(params, updates), state, opt_state

  for _ in range(3):
    loss, params, state, opt_state = step(params, state, opt_state)
    theirs = program.step(torch.arange(6))
    np.testing.assert_allclose(theirs.item(), float(loss), rtol=1e-5)
  expected = pytorch_networks.create(model, {"params": params, **state}).state_dict()
  found = program.network.state_dict()
  for name in ("layers.1.filters", "layers.1.scale", "layers.1.step_logit"):
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_derived_columns_of_a_row():
  row = {"seconds": 0.5, "batch": 8, "flops": 100}
  peak = rates.PeakRates(flops=400.0, bytes=50.0)
  assert training_suite.derived_columns(row, 0.25, peak, 5.0) == {
    "images_per_second": 16,
    "flops_per_second": 200,
    "matmul_fraction": 0.5,
    "copy_fraction": 0.2,
    "times_pytorch": 2,
  }
  alone = training_suite.derived_columns(row, None, peak, None)
  assert alone["times_pytorch"] is None
  assert alone["copy_fraction"] is None


def test_programs_take_turns():
  calls = []

  def program(name, seconds):
    return lambda count: calls.append((name, count)) or seconds

  found = training_suite.time_steps({"a": program("a", 0.2), "b": program("b", 3.0)})
  assert found == {"a": 0.2, "b": 3.0}
  assert calls[4:8] == [("a", 5), ("b", 1)] * 2


def test_the_faster_mode_of_a_framework_is_its_row():
  class Timed:
    def __init__(self, seconds):
      self.run = lambda count: seconds

  programs = {
    "cscjax": {"jit": Timed(2.0)},
    "pytorch": {"default": Timed(4.0), "reduce-overhead": Timed(3.0)},
  }
  assert training_suite.fastest(programs) == {
    "cscjax": ("jit", 2.0),
    "pytorch": ("reduce-overhead", 3.0),
  }


def test_each_mode_compiles_the_network_and_marks_the_beginning_of_each_step(monkeypatch):
  calls = []
  monkeypatch.setattr(torch, "compile", lambda network, mode: calls.append(mode) or network)
  monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: calls.append("step"))
  monkeypatch.setattr(pytorch_training, "MODES", ("default", "reduce-overhead"))
  fields = {"model": "msdnet", "depth": 1, "width": 4}
  programs = training_suite.pytorch_programs(fields, 2, "float32")
  assert list(programs) == ["default", "reduce-overhead"]
  steps = ["step"] * (pytorch_training.WARM_UP + 2)
  assert calls == ["default", *steps, "reduce-overhead", *steps]
