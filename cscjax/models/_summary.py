"""A summary of a network: its dictionaries with their shapes, numbers of weights and FLOPs."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Literal, jaxprs_in_params

_PASS_ON = ("convert_element_type", "copy", "squeeze", "reshape", "stop_gradient", "pad")


@dataclasses.dataclass(frozen=True)
class LayerSummary:
  """One dictionary of a network, or several of equal shape that are stacked in a scan.

  Attributes:
    name: Path of the filters (or the matrix) in the tree of parameters, separated by "/".
    output: Shape of the code of one example.
    dictionary: Shape of the filters [kernel..., C, m], or of the matrix [n, m].
    stride: Stride of the filters along each axis; () for a matrix.
    dilation: Dilation of the filters along each axis; () for a matrix.
    repeats: Number of stacked dictionaries.
    weights: Number of weights of all repeats together.
    forward_flops: FLOPs of the forward pass of one example, all repeats together. A multiply-add of a
      convolution or matrix product counts as 2, including those with padding; elementwise operations do
      not count.

  Example:
    >>> from cscjax.models import create_model, describe
    >>> layers = describe(create_model("res_csc", num_classes=10), (32, 32, 3))
    >>> layers[1].name, layers[1].repeats, layers[1].output
    ('stage_0/filters_1', 3, (32, 32, 16))
  """

  name: str
  output: tuple[int, ...]
  dictionary: tuple[int, ...]
  stride: tuple[int, ...]
  dilation: tuple[int, ...]
  repeats: int
  weights: int
  forward_flops: int


def describe(model: nn.Module, example_shape: tuple[int, ...]) -> list[LayerSummary]:
  """Summarizes the dictionaries of a network, without computing any of their values.

  Args:
    model: A Flax module that is called as model(x, train=False).
    example_shape: Shape of one example, [H, W, C] or [L, C].

  Returns:
    One `LayerSummary` for each dictionary, in the order in which the network first uses them.

  Example:
    >>> from cscjax.models import create_model, describe
    >>> layers = describe(create_model("msdnet", num_classes=10, depth=6), (32, 32, 3))
    >>> for layer in layers[:2]:
    ...   print(layer.name, layer.dictionary, layer.dilation, layer.weights)
    layer_0/filters (3, 3, 3, 32) (1, 1) 864
    layer_1/filters (3, 3, 35, 32) (2, 2) 10080
  """
  x = jax.ShapeDtypeStruct((1, *example_shape), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  params = variables.pop("params")
  paths = jax.tree_util.tree_leaves_with_path(params)
  leaves = [_Parameter("/".join(key.key for key in path), leaf.shape) for path, leaf in paths]
  jaxpr = jax.make_jaxpr(lambda p, v, x: model.apply({"params": p, **v}, x))(params, variables, x).jaxpr
  layers: dict[str, LayerSummary] = {}
  for use in _uses(jaxpr, dict(zip(jaxpr.invars, leaves, strict=False)), 1):
    first = layers.get(use.name)
    flops = use.forward_flops + (first.forward_flops if first else 0)
    layers[use.name] = dataclasses.replace(first or use, forward_flops=flops)
  return list(layers.values())


class _Parameter(NamedTuple):
  """A parameter of a network.

  Attributes:
    name: Path of the parameter.
    shape: Shape of the parameter before any padding; in a scan, the shape of a slice.
  """

  name: str
  shape: tuple[int, ...]


def _uses(jaxpr: Any, known: dict[Any, _Parameter], repeats: int) -> Iterator[LayerSummary]:
  """Yields each convolution or matrix product with a parameter; `known` maps variables to parameters."""
  for eqn in jaxpr.eqns:
    kind = eqn.primitive.name
    operands = [None if isinstance(v, Literal) else known.get(v) for v in eqn.invars]
    if kind in _PASS_ON and operands[0]:
      known[eqn.outvars[0]] = operands[0]
    elif kind in ("csc_conv", "csc_conv_input_transpose", "dot_general") and operands[1]:
      yield _use(eqn, *operands[1], repeats)
    inner: Any
    for inner in jaxprs_in_params(eqn.params):
      found, times = {v: p for v, p in zip(inner.invars, operands, strict=False) if p}, repeats
      if kind == "scan":
        found = {v: p._replace(shape=v.aval.shape) for v, p in found.items()}
        times *= eqn.params["length"]
      yield from _uses(inner, found, times)


def _use(eqn: Any, name: str, shape: tuple[int, ...], repeats: int) -> LayerSummary:
  """Returns the summary of one convolution or matrix product."""
  # In analysis as in synthesis, each entry of the code is multiplied with each entry of its atom once.
  of_code = eqn.invars[0] if eqn.primitive.name == "csc_conv_input_transpose" else eqn.outvars[0]
  code = of_code.aval.shape
  return LayerSummary(
    name=name,
    output=code[1:],
    dictionary=shape,
    stride=eqn.params.get("strides", ()),
    dilation=eqn.params.get("dilations", ()),
    repeats=repeats,
    weights=math.prod(shape) * repeats,
    forward_flops=2 * math.prod(code) * math.prod(shape[:-1]) * repeats,
  )
