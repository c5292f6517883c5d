"""Wrong calls of all core functions raise a ValueError that begins with the name of the argument."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import ops

ATOMS = jnp.ones((3, 5))
MATRIX = cscjax.MatrixDictionary(ATOMS)
FILTERS = jnp.ones((3, 3, 2, 4))
CONV = cscjax.ConvDictionary(FILTERS)
CONV_1D = cscjax.ConvDictionary(jnp.ones((3, 2, 4)))
PAIR = cscjax.IdentityAugmented(CONV)
VECTOR, IMAGE = jnp.ones(3), jnp.ones((6, 5, 2))


def conv(**fields):
  return cscjax.ConvDictionary(FILTERS, **fields).analysis(IMAGE)


def ista(dictionary=MATRIX, x=VECTOR, beta=0.1, **options):
  return cscjax.ista(dictionary, x, beta, **options)


def fista(dictionary=MATRIX, x=VECTOR):
  return cscjax.fista(dictionary, x, 0.1, iterations=1)


def layered(dictionaries=(MATRIX,), x=VECTOR, betas=(0.1,), **options):
  return cscjax.layered_thresholding(dictionaries, x, betas, **options)


# Maps what is wrong to (the argument that the message names, the call).
CALLS = {
  # convolution
  "conv: channels of x": ("x", lambda: CONV.analysis(jnp.ones((6, 5, 3)))),
  "conv: too few axes of x": ("x", lambda: CONV.analysis(jnp.ones((5, 2)))),
  "conv: filters of rank 2": ("filters", lambda: ops.conv(IMAGE, jnp.ones((3, 2)))),
  "conv: filters of rank 6": ("filters", lambda: ops.conv(IMAGE, jnp.ones((3, 3, 3, 3, 2, 4)))),
  "conv: no filters": ("filters", lambda: ops.conv(IMAGE, jnp.ones((3, 3, 2, 0)))),
  "conv: stride 0": ("stride", lambda: conv(stride=0)),
  "conv: stride of two thirds": ("stride", lambda: conv(stride=2 / 3)),
  "conv: three strides": ("stride", lambda: conv(stride=(1, 1, 1))),
  "conv: stride None": ("stride", lambda: conv(stride=None)),
  "conv: stride True": ("stride", lambda: conv(stride=True)),
  "conv: negative dilation": ("dilation", lambda: conv(dilation=-1)),
  "conv: dilation 1.5": ("dilation", lambda: conv(dilation=1.5)),
  "conv: second dilation 0": ("dilation", lambda: conv(dilation=(1, 0))),
  "conv: unknown padding": ("padding", lambda: conv(padding="REFLECT")),
  "conv: lower-case padding": ("padding", lambda: conv(padding="same")),
  "conv: padding as a number": ("padding", lambda: conv(padding=1)),
  "conv: padding of one axis": ("padding", lambda: conv(padding=((1, 1),))),
  "conv: padding not in pairs": ("padding", lambda: conv(padding=(1, 1))),
  "conv: negative padding": ("padding", lambda: conv(padding=((1, -1), (0, 0)))),
  "conv: padding by halves": ("padding", lambda: conv(padding=((0.5, 1), (0, 0)))),
  "conv: padding None": ("padding", lambda: conv(padding=None)),
  "conv: filter over the edge": ("filters", lambda: conv(padding="VALID", dilation=3)),
  "conv: signal of size 0": ("signal_shape", lambda: CONV.analysis(jnp.ones((0, 5, 2)))),
  # synthesis
  "synthesis: channels of the code": ("code", lambda: CONV.synthesis(jnp.ones((6, 5, 3)))),
  "synthesis: too few axes": ("code", lambda: CONV.synthesis(jnp.ones((5, 4)), (6, 5, 2))),
  "synthesis: too few axes, no shape": ("code", lambda: CONV.synthesis(jnp.ones((4,)))),
  "synthesis: spatial shape": ("code", lambda: CONV.synthesis(jnp.ones((6, 6, 4)), (6, 5, 2))),
  "synthesis: signal without channels": (
    "signal_shape",
    lambda: CONV.synthesis(jnp.ones((6, 5, 4)), (6, 5)),
  ),
  "synthesis: channels of the signal": (
    "signal_shape",
    lambda: CONV.synthesis(jnp.ones((6, 5, 4)), (6, 5, 3)),
  ),
  "conv_adjoint: shape with channels": (
    "signal_shape",
    lambda: ops.conv_adjoint(jnp.ones((6, 5, 4)), FILTERS, (6, 5, 2)),
  ),
  # other dictionaries
  "matrix: length of x": ("x", lambda: MATRIX.analysis(jnp.ones(5))),
  "matrix: length of the code": ("code", lambda: MATRIX.synthesis(jnp.ones(3))),
  "matrix: x a scalar": ("x", lambda: MATRIX.analysis(jnp.ones(()))),
  "matrix: atoms a vector": ("atoms", lambda: cscjax.MatrixDictionary(jnp.ones(3)).analysis(VECTOR)),
  "pair: stride 2": (
    "conv",
    lambda: cscjax.IdentityAugmented(cscjax.ConvDictionary(FILTERS, stride=2)).analysis(IMAGE),
  ),
  "pair: VALID": (
    "conv",
    lambda: cscjax.IdentityAugmented(cscjax.ConvDictionary(FILTERS, padding="VALID")).analysis(IMAGE),
  ),
  "pair: one array as the code": ("code", lambda: PAIR.synthesis(jnp.ones((2, 6, 5, 4)))),
  "pair: three parts": ("code", lambda: PAIR.synthesis((IMAGE, jnp.ones((6, 5, 4)), IMAGE))),
  "pair: kept part that broadcasts": (
    "code",
    lambda: PAIR.synthesis((jnp.ones((6, 5, 1)), jnp.ones((6, 5, 4)))),
  ),
  "pair: residual of another batch": (
    "code",
    lambda: PAIR.residual((IMAGE, jnp.ones((2, 6, 5, 4))), IMAGE),
  ),
  # compositions of dictionaries
  "scaled: filters, not a dictionary": ("dictionary", lambda: cscjax.ScaledDictionary(FILTERS, 2.0)),
  "scaled: length of the factor": ("factor", lambda: fista(cscjax.ScaledDictionary(MATRIX, [1.0, 2.0]))),
  "scaled: factor with more axes than the code": (
    "factor",
    lambda: cscjax.ScaledDictionary(MATRIX, jnp.ones((2, 5))).analysis(VECTOR),
  ),
  "masked: atoms, not a dictionary": (
    "dictionary",
    lambda: cscjax.MaskedDictionary([[1.0], [2.0]], VECTOR),
  ),
  "masked: no channels": ("mask", lambda: fista(cscjax.MaskedDictionary(CONV, jnp.ones((6, 5))), IMAGE)),
  "masked: mask with more axes than the signal": (
    "mask",
    lambda: cscjax.MaskedDictionary(MATRIX, jnp.ones((2, 3))).analysis(VECTOR),
  ),
  "stacked: one dictionary": ("dictionaries", lambda: cscjax.StackedDictionary(MATRIX)),
  "stacked: arrays": ("dictionaries", lambda: cscjax.StackedDictionary([FILTERS, FILTERS])),
  "product: a matrix": ("second", lambda: cscjax.ProductDictionary(MATRIX, ATOMS)),
  "channelwise: filters": ("dictionary", lambda: cscjax.ChannelwiseDictionary(FILTERS)),
  "channelwise: vectors": ("dictionary", lambda: fista(cscjax.ChannelwiseDictionary(MATRIX))),
  "complex: an array": (
    "imag",
    lambda: cscjax.dictionaries.ComplexDictionary(MATRIX, ATOMS),
  ),
  "complex: other codes": (
    "imag",
    lambda: fista(
      cscjax.dictionaries.ComplexDictionary(MATRIX, cscjax.MatrixDictionary(jnp.ones((3, 4)))),
      jnp.ones((2, 3)),
    ),
  ),
  # functions of a dictionary
  "lipschitz: no channels": ("signal_shape", lambda: cscjax.lipschitz(CONV, (6, 5))),
  "lipschitz: circular, no channels": (
    "signal_shape",
    lambda: cscjax.lipschitz(CONV.replace(padding="CIRCULAR"), (6, 2)),
  ),
  "lipschitz: with batch": ("signal_shape", lambda: cscjax.lipschitz(CONV, (8, 6, 5, 2))),
  "lipschitz: other channels": ("signal_shape", lambda: cscjax.lipschitz(CONV, (6, 5, 3))),
  "lipschitz: other length": ("signal_shape", lambda: cscjax.lipschitz(MATRIX, (4,))),
  "lipschitz: a number": ("signal_shape", lambda: cscjax.lipschitz(MATRIX, 3)),
  "lipschitz: tolerance 0": ("tolerance", lambda: cscjax.lipschitz(CONV, (6, 5, 2), tolerance=0)),
  "to_matrix: no channels": ("signal_shape", lambda: cscjax.to_matrix(CONV, (5, 2))),
  "to_matrix: a fraction": ("signal_shape", lambda: cscjax.to_matrix(MATRIX, (3.0,))),
  "coherence: no channels": ("signal_shape", lambda: cscjax.mutual_coherence(CONV_1D, (2,))),
  # ISTA and FISTA
  "ista: atoms, not a dictionary": ("dictionary", lambda: ista(ATOMS)),
  "ista: length of x": ("x", lambda: ista(x=jnp.ones(5), step=0.1)),
  "ista: x a scalar": ("x", lambda: ista(x=1.0)),
  "ista: image without channels": ("x", lambda: ista(CONV, jnp.ones((6, 5)))),
  "ista: negative beta": ("beta", lambda: ista(beta=-0.1)),
  "ista: one negative beta": ("beta", lambda: ista(beta=jnp.array([1.0, 1, 1, 1, -1]))),
  "ista: beta NaN": ("beta", lambda: ista(beta=float("nan"))),
  "ista: beta infinite": ("beta", lambda: ista(beta=np.inf)),
  "ista: beta None": ("beta", lambda: ista(beta=None)),
  "ista: beta a word": ("beta", lambda: ista(beta="small")),
  "ista: shape of beta": ("beta", lambda: ista(beta=jnp.ones(3))),
  "ista: beta with more axes than the code": ("beta", lambda: ista(beta=jnp.ones((2, 5)))),
  "ista: pair of betas for one code": ("beta", lambda: ista(beta=(0.1, 0.1))),
  "ista: three betas for a pair": ("beta", lambda: ista(PAIR, IMAGE, (0.1, 0.1, 0.1))),
  "ista: step 0": ("step", lambda: ista(step=0)),
  "ista: negative step": ("step", lambda: ista(step=-1.0)),
  "ista: step NaN": ("step", lambda: ista(step=np.nan)),
  "ista: step infinite": ("step", lambda: ista(step=np.inf)),
  "ista: step True": ("step", lambda: ista(step=True)),
  "ista: beta True": ("beta", lambda: ista(beta=True)),
  "ista: tolerance True": ("tolerance", lambda: ista(tolerance=True)),
  "objective: code that broadcasts": (
    "code",
    lambda: cscjax.Lasso(MATRIX, jnp.ones((2, 3)), 0.1).objective(jnp.ones(5)),
  ),
  "ista: a step for each coefficient": ("step", lambda: ista(step=jnp.ones(5))),
  "ista: negative iterations": ("iterations", lambda: ista(iterations=-1)),
  "ista: iterations 2.0": ("iterations", lambda: ista(iterations=2.0)),
  "ista: traced iterations": ("iterations", lambda: jax.jit(lambda n: ista(iterations=n))(3)),
  "ista: shape of init": ("init", lambda: ista(init=jnp.zeros(3))),
  "ista: init that broadcasts": ("init", lambda: ista(x=jnp.ones((2, 3)), init=jnp.zeros(5))),
  "ista: one init for a pair": ("init", lambda: ista(PAIR, IMAGE, init=jnp.zeros((6, 5, 6)))),
  "fista: negative beta": ("beta", lambda: cscjax.fista(MATRIX, VECTOR, -1)),
  "fista: step 0": ("step", lambda: cscjax.fista(MATRIX, VECTOR, 0.1, step=0.0)),
  "fista: negative iterations": ("iterations", lambda: cscjax.fista(MATRIX, VECTOR, 0.1, iterations=-5)),
  "fista: shape of init": ("init", lambda: cscjax.fista(MATRIX, VECTOR, 0.1, init=jnp.zeros((1, 5)))),
  # layers
  "layered: fewer betas": ("betas", lambda: layered((MATRIX, MATRIX))),
  "layered: more steps": ("steps", lambda: layered(steps=(1, 1))),
  "layered: step 0": ("steps", lambda: layered(steps=(0,))),
  "layered: beta NaN": ("betas", lambda: layered(betas=(np.nan,))),
  "layered: negative beta, signed": ("betas", lambda: layered(betas=(-0.1,))),
  "layered: shape of a beta": ("betas", lambda: layered(betas=(jnp.ones(3),))),
  "layered: pair for one code": ("betas", lambda: layered(betas=((0.1, 0.1),))),
  "layered: layers that do not fit": (
    "x",
    lambda: layered((MATRIX, MATRIX), betas=(0.1, 0.1), steps=(1, 1)),
  ),
  "unfolded: no proxes": ("proxes", lambda: cscjax.unfolded_pursuit(MATRIX, VECTOR, [], step=1)),
}


@pytest.mark.parametrize("what", CALLS)
def test_names_the_argument(what):
  name, call = CALLS[what]
  with pytest.raises(ValueError, match=rf"^{name}\b.+"):
    call()


@pytest.mark.parametrize(
  ("what", "parts"),
  [
    ("conv: channels of x", ["(6, 5, 3)", "[..., H, W, 2]"]),
    ("conv: unknown padding", ["REFLECT", "CIRCULAR"]),
    ("synthesis: spatial shape", ["(6, 6, 4)", "(6, 5)"]),
    ("ista: shape of beta", ["(3,)", "(5,)"]),
    ("ista: shape of init", ["(3,)", "(5,)"]),
    ("ista: negative beta", ["-0.1", ">= 0"]),
    ("ista: step 0", ["0", "> 0"]),
    ("layered: fewer betas", ["1", "2 dictionaries"]),
  ],
)
def test_says_what_came_and_what_fits(what, parts):
  with pytest.raises(ValueError) as error:  # noqa: PT011
    CALLS[what][1]()
  for part in parts:
    assert part in str(error.value)


def test_shapes_are_checked_while_tracing():
  with pytest.raises(ValueError, match=r"^x\b"):
    jax.eval_shape(CONV.analysis, jax.ShapeDtypeStruct((6, 5, 3), jnp.float32))
  with pytest.raises(ValueError, match=r"^beta\b"):
    jax.eval_shape(lambda x, beta: ista(x=x, beta=beta), VECTOR, jnp.ones(3))


# Unusual but correct calls.
@pytest.mark.parametrize(
  "call",
  [
    lambda: ista(beta=0),
    lambda: ista(beta=np.float32(0.1), step=np.float32(0.1)),
    lambda: ista(beta=jnp.ones((1, 5)), x=jnp.ones((2, 3))),
    lambda: ista(iterations=np.int64(3)),
    lambda: conv(stride=np.int64(2), dilation=[1, np.int32(2)], padding=[[1, 1], [0, 2]]),
    lambda: CONV.synthesis(jnp.ones((7, 6, 5, 4)), [7, 6, 5, 2]),
    lambda: PAIR.synthesis((IMAGE, jnp.ones((6, 5, 4)))),
    lambda: cscjax.lipschitz(MATRIX, [3]),
    lambda: fista(cscjax.ScaledDictionary(MATRIX, [1.0, 2.0, 1.0, 2.0, 1.0])),
    lambda: fista(cscjax.MaskedDictionary(MATRIX, [1, 0, 1])),
    lambda: fista(cscjax.SeparableDictionary([[[1.0], [2.0]], [[3.0]]], [[1.0], [2.0]]), IMAGE),
    lambda: layered(betas=(-0.1,), nonnegative=True),
  ],
)
def test_is_accepted(call):
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(call()))
