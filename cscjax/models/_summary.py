"""What a network is made of: its layers with their dictionaries, parameters and FLOPs."""

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
  """One dictionary of a network, or several equal ones stacked in a scan.

  Attributes:
    name: Path of its filters (or matrix) among the parameters, with "/" between the parts.
    output: Shape of its code for one example, without the batch.
    dictionary: Shape of its filters [kernel..., C, m], or of its matrix [n, m].
    stride: Of the filters, an entry an axis; () for a matrix.
    dilation: Likewise.
    repeats: How many there are.
    weights: Of the filters or the matrix, all repeats together.
    forward_flops: Of an example's forward pass, all repeats together: 2 a multiply-add of convolutions
      and matrix products. Padding counts; what is done to each element alone does not.
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
  """The dictionaries of a network in the order in which they are first used. Computes nothing.

  Args:
    model: Called as model(x, train=False).
    example_shape: Of one example, [H, W, C] or [L, C].
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
    name: Its path.
    shape: Its own shape, without zeros that it is padded with; in a scan that of a slice.
  """

  name: str
  shape: tuple[int, ...]


def _uses(jaxpr: Any, known: dict[Any, _Parameter], repeats: int) -> Iterator[LayerSummary]:
  """Each convolution or matrix product of a jaxpr with a parameter, given the parameters' variables."""
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


def _use(eqn, name, shape, repeats) -> LayerSummary:
  # Each entry of the code meets each entry of its atom once, in analysis and in synthesis.
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
