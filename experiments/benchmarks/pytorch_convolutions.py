"""The convolutions of the suite `convolutions` in eager PyTorch, for comparison with ours.

Signals and codes have shape [N, C, H, W] and filters [m, C, kh, kw], in the memory format channels last.
"""

import time
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch.nn.grad import conv2d_weight  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.convolutions import APPLICATIONS, Arrays, Geometry
from experiments.benchmarks.pytorch_training import DEVICE, ON_GPU, set_up

_SIGNAL, _FILTERS = (0, 3, 1, 2), (3, 2, 0, 1)  # permutations of our axes to PyTorch's


class TorchMap:
  """One of the maps, applied to our arrays."""

  def __init__(self, geometry: Geometry, operation: str, arrays: Arrays, precision: str):
    set_up()
    self.geometry, self.operation = geometry, operation
    self.signal, self.filters, self.code = (
      torch.tensor(array.transpose(axes)).to(
        DEVICE, getattr(torch, precision), memory_format=torch.channels_last
      )
      for array, axes in zip(arrays, (_SIGNAL, _FILTERS, _SIGNAL), strict=True)
    )

  def run(self, count: int) -> float:
    """Runs `count * APPLICATIONS` applications and returns the seconds per `APPLICATIONS` of them."""
    start = time.perf_counter()
    for _ in range(count * APPLICATIONS):
      self.apply()
    if ON_GPU:
      torch.cuda.synchronize()
    return (time.perf_counter() - start) / count

  def result(self) -> np.ndarray:
    """Returns the value of the map with our axes, in float32."""
    axes = _FILTERS if self.operation == "filter_gradient" else _SIGNAL
    return self.apply().float().permute(*np.argsort(axes)).cpu().numpy()

  def apply(self) -> torch.Tensor:
    """Returns the value of the map with PyTorch's axes."""
    size, stride, dilation = self.geometry.size, self.geometry.stride, self.geometry.dilation
    span = (self.geometry.taps - 1) * dilation + 1
    # PyTorch pads both sides equally. If "SAME" has one more zero at the end, F.pad appends it first.
    low, odd = divmod((self.geometry.code_size - 1) * stride + span - size, 2)
    settings: dict[str, Any] = {"stride": stride, "padding": low, "dilation": dilation}
    if self.operation == "synthesis":
      return F.conv_transpose2d(self.code, self.filters, **settings)[..., :size, :size]
    signal = F.pad(self.signal, (0, odd, 0, odd)) if odd else self.signal
    if self.operation == "analysis":
      return F.conv2d(signal, self.filters, **settings)
    return conv2d_weight(signal, self.filters.shape, self.code, **settings)
