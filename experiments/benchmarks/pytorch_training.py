"""The training step in PyTorch, which the suites `train` and `gpu` compare with ours.

    python -m experiments.benchmarks.pytorch_training '{"fields": {"model": "resnet", ...}, ...}'

prints the bytes by which the first steps increase the resident memory of the process.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from cscjax.models import create_model
from cscjax.training import DECAYED
from experiments.benchmarks import pytorch_networks
from experiments.benchmarks.process import peak_memory

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
EAGER = "eager"
WARM_UP = 3  # steps after the first one, in which "reduce-overhead" records CUDA graphs
MODES = ("default", "reduce-overhead") if ON_GPU else (EAGER,)  # modes of torch.compile


class TorchStep:
  """Training steps of a network: forward, backward and SGD with Nesterov momentum on random batches.

  On CUDA float32 products use TF32, as ours do.

  Attributes:
    compile_seconds: Seconds by which the first step exceeds a later one if the network is compiled;
      otherwise 0.
    peak_bytes: Peak memory of PyTorch's allocator on CUDA; on the CPU None, see `resident_bytes`.
    bytes_accessed: Always None, because it is not known.
  """

  def __init__(
    self,
    model: Any,
    variables: Any,
    data: Any,
    batch: int,
    precision: str,
    rate: float,
    mode: str = EAGER,
  ):
    """Creates the network and takes the first steps.

    Args:
      model: One of our networks.
      variables: Variables of `model`, from which the parameters are taken.
      data: Images, labels, mean and scale, as in `cscjax.training.Examples`.
      batch: Number of images in a step.
      precision: "float32" or "bfloat16".
      rate: Learning rate.
      mode: "eager", or a mode of torch.compile.
    """
    set_up()
    if ON_GPU:
      torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    images, labels, mean, std = (torch.tensor(np.asarray(array)).to(DEVICE) for array in data)
    self.data, self.batch, self.dtype = (images, labels.long(), mean, 1 / std), batch, precision
    network = pytorch_networks.create(model, variables).to(DEVICE)
    named = [(name.split(".")[-1].startswith(DECAYED), p) for name, p in network.named_parameters()]
    groups = [
      {"params": [p for decays, p in named if decays], "weight_decay": 1e-4},
      {"params": [p for decays, p in named if not decays]},
    ]
    self.optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True, fused=True)
    self.network = network if mode == EAGER else torch.compile(network, mode=mode)
    first = self.run(1)
    self.compile_seconds = 0.0
    if mode != EAGER:
      self.run(WARM_UP)
      self.compile_seconds = max(first - self.run(1), 0.0)
    self.bytes_accessed = None
    self.peak_bytes = torch.cuda.max_memory_allocated() - before if ON_GPU else None

  def dispatch_seconds(self) -> None:
    """Returns None, because PyTorch dispatches every operation separately."""
    return None

  def run(self, count: int) -> float:
    """Takes `count` steps and returns the seconds per step."""
    start = time.perf_counter()
    for _ in range(count):
      self.step(torch.randint(len(self.data[0]), (self.batch,), device=DEVICE))
    if ON_GPU:
      torch.cuda.synchronize()
    return (time.perf_counter() - start) / count

  def step(self, index: torch.Tensor) -> torch.Tensor:
    """Takes one step on the images with the given indices; returns their loss before the step."""
    torch.compiler.cudagraph_mark_step_begin()  # the gradients of the previous step may be overwritten
    images, labels, mean, scale = self.data
    x = images[index].float().sub_(mean).mul_(scale).permute(0, 3, 1, 2)  # channels last
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
      logits = self.network(x)
    loss = F.cross_entropy(logits, labels[index])
    self.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self.optimizer.step()
    return loss.detach()


def set_up() -> None:
  """Sets PyTorch to the threads and precision that JAX uses, and on CUDA to the fastest algorithms."""
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.set_float32_matmul_precision("high")
  torch.backends.cudnn.benchmark = True


def rates(precision: str, size: int, length: int) -> tuple[float, float]:
  """Measures the peak rates of the device with PyTorch.

  Args:
    precision: Type of the matrix product.
    size: Size of the square matrices.
    length: Number of floats that are copied.

  Returns:
    FLOP/s of the matrix product, and bytes/s, read and written, of the copy.
  """
  set_up()
  a = torch.rand(size, size, device=DEVICE, dtype=getattr(torch, precision))
  product, source = torch.empty_like(a), torch.rand(length, device=DEVICE)
  target = torch.empty_like(source)
  matmul, copy = _best(lambda: torch.mm(a, a, out=product)), _best(lambda: target.copy_(source))
  return 2 * size**3 / matmul, 8 * length / copy


def _best(function: Callable[[], Any]) -> float:
  """Returns the seconds of the fastest call."""
  seconds = []
  for _ in range(5):
    start = time.perf_counter()
    function()
    if ON_GPU:
      torch.cuda.synchronize()
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def resident_bytes(fields: dict[str, Any], batch: int, precision: str) -> int:
  """Returns the memory of a step on the CPU, measured in a separate process."""
  request = json.dumps({"fields": fields, "batch": batch, "precision": precision})
  done = subprocess.run(
    [sys.executable, "-m", "experiments.benchmarks.pytorch_training", request],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=True,
  )
  return int(done.stdout)


def _growth(fields: dict[str, Any], batch: int, precision: str) -> int:
  """Returns the bytes that the first step adds, with constant weights so that JAX compiles nothing."""
  fields = dict(fields)
  model = create_model(fields.pop("model"), num_classes=10, **fields)
  example = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), example)
  variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
  data = np.zeros((batch, 32, 32, 3), np.uint8), np.zeros(batch, np.int32), np.zeros(3), np.ones(3)
  before = peak_memory()
  TorchStep(model, variables, data, batch, precision, 0.0)
  return peak_memory() - before


if __name__ == "__main__":
  print(_growth(**json.loads(sys.argv[1])))
