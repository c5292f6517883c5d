"""The networks in PyTorch, written from the paper, to be set beside ours. They train, no more.

Images are [N, C, H, W], in memory channels last, filters [m, C, kh, kw]. Parameters have the names and
the values of ours: a network is made from one of ours and its variables, with batch norm, bounded steps
and the usual pursuit of each.
"""

from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from cscjax.models import MLCSC, MSDCSC, ResCSC

POWER_ITERATIONS = 2  # of a training step


def create(model: Any, variables: dict[str, Any]) -> nn.Module:
  """The network of one of ours, its parameters and the power method's vectors from `variables`."""
  networks = {MSDCSC: MSDNetwork, ResCSC: ResNetwork, MLCSC: MLNetwork}
  weights, spectral = convert(variables["params"]), convert(variables.get("spectral", {}))
  return networks[type(model)](model, weights, spectral).to(memory_format=torch.channels_last)


def convert(tree: Any, name: str = "") -> Any:
  """A tree of ours as tensors in PyTorch's layouts; the blocks of a scanned stage become a list."""
  if name.startswith("stage_"):
    count = len(jax.tree.leaves(tree)[0])
    return [convert(jax.tree.map(lambda leaf, i=i: leaf[i], tree)) for i in range(count)]
  if isinstance(tree, dict):
    return {key: convert(value, key) for key, value in tree.items()}
  if name == "state":  # of the power method: (value, vector)
    return torch.tensor(np.moveaxis(np.asarray(tree[1]), -1, 1))
  array = np.asarray(tree)
  if array.ndim > 1:  # HWIO, or the classifier's [in, out]
    array = np.moveaxis(array, (-1, -2), (0, 1))
  return torch.tensor(array)


class Layer(nn.Module):
  """Parameters, `count` batch norms that share scale and bias, and the step of a pursuit."""

  filters: Tensor
  filters_1: Tensor
  filters_2: Tensor
  scale: Tensor
  bias: Tensor
  kernel: Tensor
  step_logit: Tensor
  mean: Tensor
  var: Tensor
  vector: Tensor
  floor: Tensor

  def __init__(self, weights: dict[str, Any], spectral: dict[str, Any] | None = None, count: int = 1):
    super().__init__()
    for name, value in weights.items():
      if isinstance(value, Tensor):
        self.register_parameter(name, nn.Parameter(value))
    if "scale" in weights:
      ones = torch.ones(count, *weights["scale"].shape)
      self.register_buffer("mean", 0 * ones)
      self.register_buffer("var", ones)
    if spectral:
      self.register_buffer("vector", spectral["state"])

  def norm(self, z: Tensor, index: int = 0) -> Tensor:
    """N_index by the batch's statistics."""
    return F.batch_norm(z, self.mean[index], self.var[index], self.scale, self.bias, training=True)

  def code(self, z: Tensor, index: int = 0) -> Tensor:
    """relu(N_index(z))."""
    return F.relu(self.norm(z, index), inplace=True)

  def step(self, filters: Tensor, identity: int = 0, **geometry: Any) -> Tensor:
    """2 sigmoid(k) / L, after the power method's iterations for L on D^T D."""
    with torch.no_grad(), torch.autocast(filters.device.type, enabled=False):
      vector = self.vector / torch.linalg.vector_norm(self.vector)
      for _ in range(POWER_ITERATIONS):
        vector = F.conv2d(F.conv_transpose2d(vector, filters, **geometry), filters, **geometry)
        value = torch.linalg.vector_norm(vector)
        vector = vector / value
      self.vector.copy_(vector)
    return 2 * torch.sigmoid(self.step_logit) / (value + identity)


class ResBlock(Layer):
  """relu(X_prev + N_2(D_2^T (X + c D_2 X_prev))), X = relu(N_1(D_1^T X_prev)) (eq. 5), or a part."""

  def __init__(self, weights: dict[str, Any], spectral: dict[str, Any] | None, stride: int, rule: str):
    super().__init__(weights, spectral)
    self.norm_1, self.norm_2 = Layer(weights["norm_1"]), Layer(weights["norm_2"])
    self.stride = stride
    self.keep, self.correct = rule in ("resnet", "res_csc"), rule in ("simplified", "res_csc")

  def forward(self, x: Tensor) -> Tensor:
    """X_prev -> the code. Sizes are even."""
    if self.stride == 1:
      code, previous = F.conv2d(x, self.filters_1, padding=1), x
    else:
      code = F.conv2d(x, self.filters_1, stride=2, padding=1)
      previous = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, code.shape[1] - x.shape[1]))
    code = self.norm_1.code(code)
    if self.correct:
      step = self.step(self.filters_2, padding=1)
      synthesis = F.conv_transpose2d(previous, self.filters_2, padding=1)
      code = torch.addcmul(code, synthesis, step, value=-1)
    update = self.norm_2.norm(F.conv2d(code, self.filters_2, padding=1))
    return F.relu(previous + update if self.keep else update, inplace=True)


class ResNetwork(Layer):
  """Res-CSC, ResNet, simplified and plain (Table 2)."""

  def __init__(self, model: ResCSC, weights: dict[str, Any], spectral: dict[str, Any]):
    super().__init__(weights)
    self.norm_0, self.classifier = Layer(weights["norm"]), Layer(weights["classifier"])
    blocks: list[Any] = []
    for stage in range(3):
      name = f"transition_{stage}"
      if stage > 0:
        blocks.append((weights[name], spectral.get(name), 2))
      name = f"stage_{stage}"
      equal = weights.get(name, [])
      blocks += zip(equal, spectral.get(name, [None] * len(equal)), [1] * len(equal), strict=True)
    self.blocks = nn.Sequential(*(ResBlock(w, s, stride, model.rule) for w, s, stride in blocks))

  def forward(self, x: Tensor) -> Tensor:
    """Images -> logits."""
    x = self.norm_0.code(F.conv2d(x, self.filters, padding=1))
    return classify(self.blocks(x), self.classifier)


class MSDLayer(Layer):
  """X -> (a, z) concatenated: unfolded pursuit over [I, F^T] (Proposition 1)."""

  def __init__(
    self, model: MSDCSC, index: int, weights: dict[str, Any], spectral: dict[str, Any] | None
  ):
    super().__init__(weights, spectral, model.unfolding + 1)
    self.unfolding, self.accelerate = model.unfolding, model.solver == "fista"
    dilation = model.dilations[index % len(model.dilations)]
    self.geometry: dict[str, Any] = {"padding": dilation, "dilation": dilation}
    signed = weights["filters"].shape[1] - index * model.width
    floor = torch.zeros(1, weights["filters"].shape[1], 1, 1)
    floor[:, :signed] = -torch.inf
    self.register_buffer("floor", floor)  # of a: the image's own channels are not clipped

  def forward(self, x: Tensor) -> Tensor:
    """Channels so far -> those and the new ones."""
    a, z = x, self.code(F.conv2d(x, self.filters, **self.geometry))
    previous, t = (a, z), 1.0
    step: Any = self.step(self.filters, identity=1, **self.geometry) if self.unfolding else None
    for k in range(1, self.unfolding + 1):
      t, weight = momentum(t)
      code = (a, z)
      if self.accelerate and weight > 0:
        a, z = (torch.lerp(old, new, 1 + weight) for old, new in zip(previous, code, strict=True))
      previous = code
      residual = F.conv_transpose2d(z, self.filters, **self.geometry)
      if k > 1:  # before that a = x
        residual = residual + (a - x)
      gradient = F.conv2d(residual, self.filters, **self.geometry)
      z = self.code(torch.addcmul(z, gradient, step, value=-1), k)
      a = torch.clamp(torch.addcmul(a, residual, step, value=-1), min=self.floor.to(a.dtype))
    return torch.cat((a, z), dim=1)


class MSDNetwork(nn.Module):
  """MSD-CSC, and MSDNet as unfolding 0 (Table 3)."""

  def __init__(self, model: MSDCSC, weights: dict[str, Any], spectral: dict[str, Any]):
    super().__init__()
    names = [f"layer_{i}" for i in range(model.depth)]
    self.layers = nn.ModuleList(
      MSDLayer(model, i, weights[name], spectral.get(name)) for i, name in enumerate(names)
    )
    self.classifier = Layer(weights["classifier"])
    self.pooled = {model.depth // 3, 2 * model.depth // 3} - {0}

  def forward(self, x: Tensor) -> Tensor:
    """Images -> logits."""
    for i, layer in enumerate(self.layers):
      x = layer(pool(x) if i in self.pooled else x)
    return classify(x, self.classifier)


class MLNetwork(nn.Module):
  """ML-CSC by ML-ISTA or ML-FISTA over the first three of six layers, and feed-forward (Table 3)."""

  layers: Any

  def __init__(self, model: MLCSC, weights: dict[str, Any], spectral: dict[str, Any]):
    super().__init__()
    self.unfolding, self.accelerate = model.unfolding, model.solver == "fista"
    names = [f"layer_{i}" for i in range(6)]
    self.layers = nn.ModuleList(
      Layer(weights[name], spectral.get(name), model.unfolding + 1 if i < 3 else 1)
      for i, name in enumerate(names)
    )
    self.classifier = Layer(weights["classifier"])

  def forward(self, x: Tensor) -> Tensor:
    """Images of sizes that 8 divides -> logits."""
    x = self.pursuit(x)
    for i, layer in enumerate(self.layers[3:]):
      x = layer.code(F.conv2d(x, layer.filters, padding=1))
      if i > 0:
        x = pool(x)
    return classify(x, self.classifier)

  def pursuit(self, x: Tensor) -> Tensor:
    """The third layer's code (Sulam et al. 2020)."""
    geometry: dict[str, Any] = {"stride": 2, "padding": 1}
    layers: Any = self.layers[:3]
    codes = [x]
    for layer in layers:
      codes.append(layer.code(F.conv2d(codes[-1], layer.filters, **geometry)))
    steps = [layer.step(layer.filters, **geometry) for layer in layers] if self.unfolding else []
    previous, t = codes[-1], 1.0
    for k in range(1, self.unfolding + 1):
      t, weight = momentum(t)
      deepest = codes[-1]
      points = [torch.lerp(previous, deepest, 1 + weight) if self.accelerate and weight > 0 else deepest]
      previous = deepest
      for layer in reversed(layers):
        points.insert(0, F.conv_transpose2d(points[0], layer.filters, **geometry))
      codes = [x]
      for i, layer in enumerate(layers):
        gradient = F.conv2d(points[i] - codes[-1], layer.filters, **geometry)
        codes.append(layer.code(torch.addcmul(points[i + 1], gradient, steps[i], value=-1), k))
    return codes[-1]


def momentum(t: float) -> tuple[float, float]:
  """FISTA's next t, and the weight of its extrapolation."""
  following = (1 + (1 + 4 * t * t) ** 0.5) / 2
  return following, (t - 1) / following


def pool(x: Tensor) -> Tensor:
  """2x2 max-pooling, of what there is at the border."""
  return F.max_pool2d(x, 2, ceil_mode=True)


def classify(x: Tensor, classifier: Layer) -> Tensor:
  """Global average pooling and the linear classifier, in float32 at least."""
  x = x.to(torch.promote_types(x.dtype, torch.float32)).mean((2, 3))
  with torch.autocast(x.device.type, enabled=False):
    return F.linear(x, classifier.kernel, classifier.bias)
