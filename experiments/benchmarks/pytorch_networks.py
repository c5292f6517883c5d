"""The networks in PyTorch, written from the paper for comparison with ours. They only support training.

Images have shape [N, C, H, W] in the memory format channels last, and filters [m, C, kh, kw]. A network
is created from one of ours and its variables, so its parameters have our names and values. All networks
use batch norm, step sizes bounded by 2/L, and the default pursuit.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from cscjax import ConvDictionary
from cscjax.dictionaries import symbol_on_grid
from cscjax.models import MLCSC, MSDCSC, ResCSC
from cscjax.solvers import momentum_weights


def create(model: Any, variables: dict[str, Any]) -> nn.Module:
  """Returns the PyTorch network that corresponds to one of ours.

  Args:
    model: One of our networks.
    variables: Variables of `model`, from which the parameters are taken.
  """
  networks = {MSDCSC: MSDNetwork, ResCSC: ResNetwork, MLCSC: MLNetwork}
  network = networks[type(model)](model, convert(variables["params"]))
  return network.to(memory_format=torch.channels_last)


def convert(tree: Any, name: str = "") -> Any:
  """Converts a tree of our parameters to tensors in PyTorch's layouts.

  The blocks of a scanned stage become a list.
  """
  if name.startswith("stage_"):
    count = len(jax.tree.leaves(tree)[0])
    return [convert(jax.tree.map(lambda leaf, i=i: leaf[i], tree)) for i in range(count)]
  if isinstance(tree, dict):
    return {key: convert(value, key) for key, value in tree.items()}
  array = np.asarray(tree)
  if array.ndim > 1:  # HWIO, or the classifier's [in, out]
    array = np.moveaxis(array, (-1, -2), (0, 1))
  return torch.tensor(array)


class LayerParameters(nn.Module):
  """The parameters of a layer, its batch norms and the step size of its pursuit.

  Each of the `count` batch norms has its own statistics; all share the scale and the bias.
  """

  filters: Tensor
  filters_1: Tensor
  filters_2: Tensor
  scale: Tensor
  bias: Tensor
  kernel: Tensor
  step_logit: Tensor
  mean: Tensor
  var: Tensor
  floor: Tensor

  def __init__(self, weights: dict[str, Any], count: int = 1):
    super().__init__()
    for name, value in weights.items():
      if isinstance(value, Tensor):
        self.register_parameter(name, nn.Parameter(value))
    if "scale" in weights:
      ones = torch.ones(count, *weights["scale"].shape)
      self.register_buffer("mean", 0 * ones)
      self.register_buffer("var", ones)

  def norm(self, z: Tensor, index: int = 0) -> Tensor:
    """Applies the batch norm N_index with the statistics of the batch."""
    return F.batch_norm(z, self.mean[index], self.var[index], self.scale, self.bias, training=True)

  def code(self, z: Tensor, index: int = 0) -> Tensor:
    """Returns relu(N_index(z))."""
    return F.relu(self.norm(z, index), inplace=True)

  def step(self, filters: Tensor, signal: Tensor, identity: int = 0, **geometry: int) -> Tensor:
    """Returns the step size 2 sigmoid(k) / L, where L is the `lipschitz_bound` of our networks."""
    with torch.no_grad(), torch.autocast(filters.device.type, enabled=False):
      fourier = transform(filters.dtype, filters.shape[-1], tuple(signal.shape[2:]), **geometry)
      fourier = fourier.to(filters.device)
      symbol = torch.einsum("frpt,mct->frpcm", fourier, filters.flatten(2)).flatten(2, 3)
      if symbol.shape[2] > symbol.shape[3]:
        symbol = symbol.transpose(2, 3)
      bound = identity + largest_eigenvalues(symbol.flatten(1, 2)).amax()
    return 2 * torch.sigmoid(self.step_logit) / bound


@torch.compiler.assume_constant_result
def transform(dtype: torch.dtype, taps: int, sizes: tuple[int, ...], **geometry: int) -> Tensor:
  """Returns the transform [F, 2, phases, taps^2] from filters to their symbol.

  It holds the real and imaginary part of the phases of the symbol at F frequencies, for each tap of a
  filter, scaled by the square root of the grid's correction. It is constant during training.
  """
  return _transform(dtype, taps, sizes, **geometry)


@functools.cache
def _transform(
  dtype: torch.dtype, taps: int, sizes: tuple[int, ...], padding: int, stride: int = 1, dilation: int = 1
) -> Tensor:
  unit = jnp.eye(taps * taps).reshape(taps, taps, 1, -1)
  pads = ((padding, padding),) * len(sizes)
  conv = ConvDictionary(unit, stride=stride, dilation=dilation, padding=pads)
  waves, correction = symbol_on_grid(conv, sizes)
  waves = np.asarray(waves).reshape(len(waves), 2, -1, taps * taps)
  return torch.tensor(waves * correction**0.5, dtype=dtype)


def largest_eigenvalues(symbol: Tensor) -> Tensor:
  """Returns the bound (tr G^32)^(1/32) of the largest eigenvalue of G = S S^H.

  Args:
    symbol: S of shape [F, 2 s, q], with its real part above its imaginary part.
  """
  gram = hermitian_square(symbol)
  norm = torch.linalg.vector_norm(gram, dim=(1, 2))
  bound, power = norm, 1
  for _ in range(2):
    gram = gram / norm[:, None, None]
    for _ in range(2):
      gram = hermitian_square(gram)
    norm, power = torch.linalg.vector_norm(gram, dim=(1, 2)), 4 * power
    bound = bound * norm ** (1 / power)
  return bound


def hermitian_square(matrix: Tensor) -> Tensor:
  """Returns A A^H for complex matrices A, stored as real part above imaginary part."""
  size = matrix.shape[1] // 2
  blocks = matrix @ matrix.mT
  real = blocks[:, :size, :size] + blocks[:, size:, size:]
  return torch.cat((real, blocks[:, size:, :size] - blocks[:, :size, size:]), dim=1)


class ResBlock(LayerParameters):
  """A block of a Res-CSC network (eq. 5), or of a simplified rule, which omits terms.

  The code is relu(X_prev + N_2(D_2^T (X + c D_2 X_prev))) with X = relu(N_1(D_1^T X_prev)).
  """

  def __init__(self, weights: dict[str, Any], stride: int, rule: str):
    super().__init__(weights)
    self.norm_1, self.norm_2 = LayerParameters(weights["norm_1"]), LayerParameters(weights["norm_2"])
    self.stride = stride
    self.keep, self.correct = rule in ("resnet", "res_csc"), rule in ("simplified", "res_csc")

  def forward(self, x: Tensor) -> Tensor:
    """Returns the code for X_prev, whose height and width are even."""
    if self.stride == 1:
      code, previous = F.conv2d(x, self.filters_1, padding=1), x
    else:
      code = F.conv2d(x, self.filters_1, stride=2, padding=1)
      previous = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, code.shape[1] - x.shape[1]))
    code = self.norm_1.code(code)
    if self.correct:
      step = self.step(self.filters_2, code, padding=1)
      synthesis = F.conv_transpose2d(previous, self.filters_2, padding=1)
      code = torch.addcmul(code, synthesis, step, value=-1)
    update = self.norm_2.norm(F.conv2d(code, self.filters_2, padding=1))
    return F.relu(previous + update if self.keep else update, inplace=True)


class ResNetwork(LayerParameters):
  """The networks of Table 2: Res-CSC, Res-CSC-simplified, ResNet and the plain network."""

  def __init__(self, model: ResCSC, weights: dict[str, Any]):
    super().__init__(weights)
    self.norm_0, self.classifier = (
      LayerParameters(weights["norm"]),
      LayerParameters(weights["classifier"]),
    )
    blocks: list[Any] = []
    for stage in range(3):
      name = f"transition_{stage}"
      if stage > 0:
        blocks.append((weights[name], 2))
      blocks += [(equal, 1) for equal in weights.get(f"stage_{stage}", [])]
    self.blocks = nn.Sequential(*(ResBlock(w, stride, model.rule) for w, stride in blocks))

  def forward(self, x: Tensor) -> Tensor:
    """Returns the logits of images."""
    x = self.norm_0.code(F.conv2d(x, self.filters, padding=1))
    return classify(self.blocks(x), self.classifier)


class MSDLayer(LayerParameters):
  """A layer of MSD-CSC: unfolded pursuit over [I, F^T] (Proposition 1), with code (a, z)."""

  def __init__(self, model: MSDCSC, index: int, weights: dict[str, Any]):
    super().__init__(weights, model.unfolding + 1)
    self.extrapolations = momentum_weights(model.solver, model.unfolding)
    dilation = model.dilations[index % len(model.dilations)]
    self.geometry: dict[str, Any] = {"padding": dilation, "dilation": dilation}
    signed = weights["filters"].shape[1] - index * model.width
    floor = torch.zeros(1, weights["filters"].shape[1], 1, 1)
    floor[:, :signed] = -torch.inf
    self.register_buffer("floor", floor)  # lower bound of a; the channels of the image are not clipped

  def forward(self, x: Tensor) -> Tensor:
    """Returns the channels of `x`, updated, and the new channels."""
    a, z = x, self.code(F.conv2d(x, self.filters, **self.geometry))
    previous = (a, z)
    step: Any = self.step(self.filters, x, 1, **self.geometry) if self.extrapolations else None
    for k, weight in enumerate(self.extrapolations, 1):
      code = (a, z)
      if weight > 0:
        a, z = (torch.lerp(old, new, 1 + weight) for old, new in zip(previous, code, strict=True))
      previous = code
      residual = F.conv_transpose2d(z, self.filters, **self.geometry)
      if k > 1:  # in the first iteration a = x
        residual = residual + (a - x)
      gradient = F.conv2d(residual, self.filters, **self.geometry)
      z = self.code(torch.addcmul(z, gradient, step, value=-1), k)
      a = torch.clamp(torch.addcmul(a, residual, step, value=-1), min=self.floor.to(a.dtype))
    return torch.cat((a, z), dim=1)


class MSDNetwork(nn.Module):
  """MSD-CSC, and MSDNet, which is MSD-CSC with unfolding 0 (Table 3)."""

  def __init__(self, model: MSDCSC, weights: dict[str, Any]):
    super().__init__()
    names = [f"layer_{i}" for i in range(model.depth)]
    self.layers = nn.ModuleList(MSDLayer(model, i, weights[name]) for i, name in enumerate(names))
    self.classifier = LayerParameters(weights["classifier"])
    self.pooled = {model.depth // 3, 2 * model.depth // 3} - {0}

  def forward(self, x: Tensor) -> Tensor:
    """Returns the logits of images."""
    for i, layer in enumerate(self.layers):
      x = layer(pool(x) if i in self.pooled else x)
    return classify(x, self.classifier)


class MLNetwork(nn.Module):
  """ML-CSC and the feed-forward network (Table 3).

  The pursuit is ML-ISTA or ML-FISTA over the first three of six layers.
  """

  layers: Any

  def __init__(self, model: MLCSC, weights: dict[str, Any]):
    super().__init__()
    self.extrapolations = momentum_weights(model.solver, model.unfolding)
    names = [f"layer_{i}" for i in range(6)]
    self.layers = nn.ModuleList(
      LayerParameters(weights[name], model.unfolding + 1 if i < 3 else 1) for i, name in enumerate(names)
    )
    self.classifier = LayerParameters(weights["classifier"])

  def forward(self, x: Tensor) -> Tensor:
    """Returns the logits of images whose height and width are multiples of 8."""
    x = self.pursuit(x)
    for i, layer in enumerate(self.layers[3:]):
      x = layer.code(F.conv2d(x, layer.filters, padding=1))
      if i > 0:
        x = pool(x)
    return classify(x, self.classifier)

  def pursuit(self, x: Tensor) -> Tensor:
    """Returns the code of the third layer (Sulam et al. 2020)."""
    geometry: dict[str, Any] = {"stride": 2, "padding": 1}
    layers: Any = self.layers[:3]
    codes = [x]
    for layer in layers:
      codes.append(layer.code(F.conv2d(codes[-1], layer.filters, **geometry)))
    signals = zip(layers, codes, strict=False) if self.extrapolations else ()
    steps = [layer.step(layer.filters, signal, **geometry) for layer, signal in signals]
    previous = codes[-1]
    for k, weight in enumerate(self.extrapolations, 1):
      deepest = codes[-1]
      points = [torch.lerp(previous, deepest, 1 + weight) if weight > 0 else deepest]
      previous = deepest
      for layer in reversed(layers):
        points.insert(0, F.conv_transpose2d(points[0], layer.filters, **geometry))
      codes = [x]
      for i, layer in enumerate(layers):
        gradient = F.conv2d(points[i] - codes[-1], layer.filters, **geometry)
        codes.append(layer.code(torch.addcmul(points[i + 1], gradient, steps[i], value=-1), k))
    return codes[-1]


def pool(x: Tensor) -> Tensor:
  """Applies 2x2 max-pooling, with smaller windows at the border of odd sizes."""
  return F.max_pool2d(x, 2, ceil_mode=True)


def classify(x: Tensor, classifier: LayerParameters) -> Tensor:
  """Applies global average pooling and the linear classifier, at least in float32."""
  x = x.to(torch.promote_types(x.dtype, torch.float32)).mean((2, 3))
  with torch.autocast(x.device.type, enabled=False):
    return F.linear(x, classifier.kernel, classifier.bias)
