"""The training step in PyTorch, to be timed in turn with ours; see `training`.

    python -m experiments.benchmarks.pytorch_training '{"fields": {"model": "resnet", ...}, ...}'

prints the bytes that its first steps add to what a process of its own holds resident.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
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
WARM_UP = 3  # steps after the first: "reduce-overhead" records CUDA graphs in them
MODES = ("default", "reduce-overhead") if ON_GPU else (EAGER,)  # of torch.compile


class TorchStep:
  """Steps of a network: random images of `data`, forward, backward, SGD with Nesterov's momentum.

  On CUDA float32 is TF32, as it is for ours.

  Attributes:
    compile_seconds: What the first step took beyond a later one where the network is compiled; else 0.
    peak_bytes: The most that PyTorch's allocator held for it, on CUDA; else None, see `resident_bytes`.
    bytes_accessed: None, unknown.
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
    """Takes the first steps; `mode` is "eager", or one of torch.compile."""
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
    """Unknown: every operation is dispatched by itself."""
    return None

  def run(self, count: int) -> float:
    """Seconds a step, over `count` steps."""
    start = time.perf_counter()
    for _ in range(count):
      self.step(torch.randint(len(self.data[0]), (self.batch,), device=DEVICE))
    if ON_GPU:
      torch.cuda.synchronize()
    return (time.perf_counter() - start) / count

  def step(self, index: torch.Tensor) -> torch.Tensor:
    """One step on some of the images; their loss before it."""
    torch.compiler.cudagraph_mark_step_begin()  # gradients of the step before are not needed any more
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
  """As many threads as XLA has, and on CUDA the same precision and the fastest algorithms."""
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.set_float32_matmul_precision("high")
  torch.backends.cudnn.benchmark = True


def rates(precision: str, size: int, length: int) -> tuple[float, float]:
  """FLOP/s of a matrix product of `size`, bytes/s read and written by a copy of `length` floats."""
  set_up()
  a = torch.rand(size, size, device=DEVICE, dtype=getattr(torch, precision))
  product, source = torch.empty_like(a), torch.rand(length, device=DEVICE)
  target = torch.empty_like(source)
  matmul, copy = _best(lambda: torch.mm(a, a, out=product)), _best(lambda: target.copy_(source))
  return 2 * size**3 / matmul, 8 * length / copy


def _best(function):
  """Seconds of the fastest call."""
  seconds = []
  for _ in range(5):
    start = time.perf_counter()
    function()
    if ON_GPU:
      torch.cuda.synchronize()
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def resident_bytes(fields: dict[str, Any], batch: int, precision: str) -> int:
  """`peak_bytes` of a step on the CPU: the growth of a process of its own."""
  request = json.dumps({"fields": fields, "batch": batch, "precision": precision})
  done = subprocess.run(
    [sys.executable, "-m", "experiments.benchmarks.pytorch_training", request],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=True,
  )
  return int(done.stdout)


def _growth(fields, batch, precision):
  """Bytes that two steps add; from any weights, so that nothing is compiled to make them."""
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
