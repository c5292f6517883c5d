"""Solvers, bounds and certificates request full float32 precision; the networks keep JAX's setting.

Without the request, a GPU may compute products and convolutions in TF32. The tests lower programs for a
GPU and read the precision from their text.
"""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import dictionaries, learning, ops, solvers, theory
from cscjax.dictionaries import MatrixDictionary

BETA = 0.1
IMAGE, VECTOR = (8, 7, 2), (4,)


def _normal(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def _conv(**geometry):
  return cscjax.ConvDictionary(_normal(3, 3, 2, 4), **geometry)


DICTIONARIES = {
  "dense": (cscjax.MatrixDictionary(_normal(4, 6)), VECTOR),
  "dilated": (_conv(dilation=2), IMAGE),
  "strided": (_conv(stride=2), IMAGE),
  "circular": (_conv(padding="CIRCULAR"), IMAGE),
  "augmented": (cscjax.IdentityAugmented(_conv()), IMAGE),
}
SOLVED = ("dense", "dilated", "circular")  # use products, convolutions and Fourier transforms
ANY = ("dense", "augmented")


def _code(dictionary, x):
  """Returns a code of the shape that fits a signal."""
  return jax.tree.map(lambda part: jnp.full(part.shape, 0.5), jax.eval_shape(dictionary.analysis, x))


class _Analysis:
  """The analysis of a dictionary as a classifier."""

  def __init__(self, dictionary):
    self.dictionary = dictionary

  def __call__(self, x):
    return self.dictionary.analysis(x)

  def margin_gains(self, signal_shape):
    del signal_shape
    return jnp.ones((6, 6))


def _step(solver, dictionary, x):
  """Returns the solution after one step of a solver."""
  problem = cscjax.Lasso(dictionary, x, BETA)
  return solver.solution(problem, solver.step(problem, solver.init(problem)))


CASES = {
  "ista": (ANY, lambda d, x: solvers.ista(d, x, BETA, tolerance=1e-3, record=("gap",))),
  "fista": (("strided",), lambda d, x: solvers.fista(d, x, BETA, iterations=5, differentiate="remat")),
  "fista, implicit": (("dense", "dilated"), lambda d, x: solvers.fista(d, x, BETA, tolerance=1e-3)),
  "fista, adaptive": (("dilated",), lambda d, x: solvers.fista(d, x, BETA, step="adaptive")),
  "admm": ((*SOLVED, "augmented"), lambda d, x: solvers.admm(d, x, BETA, tolerance=1e-3)),
  "basis_pursuit": (("dense",), lambda d, x: solvers.basis_pursuit(d, x, 1.0)),
  "fista, a step": (("dilated",), lambda d, x: _step(solvers.FISTA(), d, x)),
  "WorkingSet, a step": (("dense",), lambda d, x: _step(solvers.WorkingSet(), d, x)),
  "admm, a step": (("circular",), lambda d, x: _step(solvers.ADMM(), d, x)),
  "beta_max": (("strided",), solvers.beta_max),
  "duality_gap": (ANY, lambda d, x: solvers.duality_gap(d, x, _code(d, x), BETA)),
  "polished": (("dilated",), lambda d, x: solvers.polished(d, x, _code(d, x), BETA)),
  "layered_thresholding": (("strided",), lambda d, x: solvers.layered_thresholding([d], x, [BETA])),
  "layered_bp": (("strided",), lambda d, x: solvers.layered_bp([d], x, [BETA], iterations=3)),
  "ml_ista": (("augmented",), lambda d, x: solvers.ml_ista([d], x, [BETA], iterations=3)),
  "ml_fista": (("dense",), lambda d, x: solvers.ml_fista([d], x, [BETA], iterations=3)),
  "ml_bp": (("strided",), lambda d, x: solvers.ml_bp([d], x, [BETA], iterations=3)),
  "ml_projection": (("dense",), lambda d, x: solvers.ml_projection([d], x, [2])),
  "omp": (ANY, lambda d, x: solvers.omp(d, x, sparsity=2)),
  "lipschitz": ((*SOLVED, "augmented"), lambda d, x: dictionaries.lipschitz(d, x.shape)),
  "lipschitz_bound": (("strided", "augmented"), lambda d, x: dictionaries.lipschitz_bound(d, x.shape)),
  "symbol_on_grid": (("strided",), lambda d, x: dictionaries.symbol_on_grid(d, x.shape[:-1])[0]),
  "mutual_coherence": (ANY, lambda d, x: dictionaries.mutual_coherence(d, x.shape)),
  "mutual_coherence, shifts": (("dilated",), lambda d, x: dictionaries.mutual_coherence(d)),
  "atom_norms": (("dilated",), lambda d, x: dictionaries.atom_norms(d, x.shape)),
  "to_matrix": (ANY, lambda d, x: dictionaries.to_matrix(d, x.shape)),
  "failed_dimensions": (ANY, lambda d, x: theory.failed_dimensions(d, _code(d, x), x, BETA)),
  "layered_stability": (
    ANY,
    lambda d, x: [
      s.error for s in theory.layered_stability([dictionaries.CodedLayer(d, x, _code(d, x))], 0.1)
    ],
  ),
  "certify_labels": (("dense",), lambda d, x: theory.certify_labels(_Analysis(d), x[None], steps=2)),
  "learn_dictionary": (
    ("circular",),
    lambda d, x: learning.learn_dictionary(x[None], BETA, kernel=((3, 4),), steps=2, init=d.filters),
  ),
  "power_iteration": (("dense",), lambda d, x: ops.power_iteration(lambda v: _frame(d, v), x, 3)),
  "lanczos_max": (("dense",), lambda d, x: ops.lanczos_max(lambda v: _frame(d, v), x, 3)),
  "lanczos_vector": (("dense",), lambda d, x: ops.lanczos_vector(lambda v: _frame(d, v), x, 3)),
}
WITHOUT_DERIVATIVE = (
  "certify_labels",
  "learn_dictionary",
)

# The other public functions. Parts of networks keep the setting of JAX; `IN_NUMPY` cannot be lowered.
NETWORKS = ("initialized_thresholding", "layered_pursuit", "multilayer_pursuit", "unfolded_pursuit")
IN_NUMPY = (
  *("babel_function", "certify", "check_conformance", "effective_atoms", "encoder_gap"),
  *("exact_recovery_coefficient", "layer_reconstructions", "recovery", "stability"),
)
WITHOUT_PRODUCTS = (
  *(
    "as_callbacks",
    "as_mask",
    "as_signal",
    "check_coded_layers",
    "check_dictionary",
    "check_one_per_dictionary",
  ),
  *("certify_classifier", "check_signal_shape", "circulant_embedding"),
  *("ill_conditioned_example", "is_unique", "join", "split", "msd_csc_spectrum", "nonzero_fraction"),
  *(
    "bp_recovery",
    "patch_norm",
    "patch_sparsity",
    "rank1_factors",
    "scaled_fit",
    "stripe_sparsity",
    "support_size",
  ),
  *("iteration_limit", "momentum_weights"),
  *("looks_like_an_image", "relative", "report", "thresholding_recovery", "uniqueness_bound"),
  "warn_about_integers",
  "with_methods",
)


def _frame(dictionary, x):
  return dictionary.synthesis(dictionary.analysis(x))


def _products(function, *arguments, platform="cuda"):
  """Returns the products and convolutions in the lowered program of a function."""
  text = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
  found = re.findall(r".*stablehlo\.(?:convolution|dot_general|dot)\b.*", text)
  assert found
  return found


def _below_highest(products):
  return [line for line in products if line.count("HIGHEST") != 2]


def _with_derivative(function):
  def total(*arguments):
    leaves = jax.tree.leaves(function(*arguments))
    return sum(jnp.sum(jnp.real(leaf).astype(jnp.float32)) for leaf in leaves)

  return jax.value_and_grad(total, argnums=(0, 1))


def test_every_public_function_is_listed():
  packages = (solvers, dictionaries, theory, learning)
  public = {
    name
    for package in packages
    for name in package.__all__
    if inspect.isfunction(getattr(package, name))
  }
  classes = {"WorkingSet"}  # solvers that no function calls
  listed = {name.partition(",")[0] for name in CASES} - set(ops.__all__) - classes
  assert public == listed.union(NETWORKS, IN_NUMPY, WITHOUT_PRODUCTS)


def _cases():
  """Yields each function with the dictionaries of its list; those after the first are slow."""
  for name, (kinds, _) in CASES.items():
    for kind in kinds:
      yield pytest.param(name, kind, marks=[] if kind == kinds[0] else pytest.mark.slow)


@pytest.mark.parametrize(("name", "kind"), list(_cases()))
def test_requests_the_highest_precision(name, kind):
  dictionary, shape = DICTIONARIES[kind]
  function = CASES[name][1]
  if name not in WITHOUT_DERIVATIVE:
    function = _with_derivative(function)
  assert _below_highest(_products(function, dictionary, _normal(*shape))) == []


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("fista", "dilated"),
    ("fista, implicit", "dilated"),
    ("lipschitz", "dilated"),
    ("lipschitz", "circular"),
  ],
)
def test_requests_it_inside_other_transformations(name, kind):
  """Inside a lower setting, for a batch, and for a derivative of a compiled function."""
  dictionary, shape = DICTIONARIES[kind]
  function = jax.jit(jax.vmap(CASES[name][1], in_axes=(None, 0)))
  with jax.default_matmul_precision("tensorfloat32"):
    assert _below_highest(_products(_with_derivative(function), dictionary, _normal(3, *shape))) == []


class Recording(MatrixDictionary):
  """A dictionary that records the precision setting at each use."""

  def synthesis(self, code, signal_shape=None):
    """Records the setting and returns D code."""
    seen.append(jax.config.jax_default_matmul_precision)
    return super().synthesis(code, signal_shape)

  def analysis(self, x):
    """Records the setting and returns D^T x."""
    seen.append(jax.config.jax_default_matmul_precision)
    return super().analysis(x)


seen = []


@pytest.mark.parametrize("name", IN_NUMPY)
def test_functions_in_numpy_request_it_too(name):
  seen.clear()
  dictionary = Recording(_normal(4, 6))
  layer = dictionaries.CodedLayer(dictionary, _normal(4), jnp.ones(6))
  if name == "certify":
    theory.certify([dictionary], layer[1], 0.1, codes=[layer[2]])
  elif name in ("encoder_gap", "stability"):
    getattr(theory, name)(dictionary, layer[1], BETA)
  elif name == "babel_function":
    theory.babel_function(dictionary, 2)
  elif name in ("exact_recovery_coefficient", "recovery"):
    getattr(theory, name)(dictionary, layer[2])
  elif name == "check_conformance":
    dictionaries.check_conformance(dictionary, (4,))
  else:
    getattr(dictionaries, name)([layer])
  assert set(seen) == {"highest"}


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", [None, "highest"])
def test_convolutions_keep_the_setting_of_the_call(platform, precision):
  """Also in derivatives of any order, in batches, and if lowered after the setting has ended."""
  x, w = _normal(2, 8, 7, 2), _normal(3, 3, 2, 4)

  def loss(x, w):
    code = ops.conv(x, w, dilation=2)
    return jnp.sum(jnp.square(ops.conv_adjoint(jnp.square(code), w, x.shape[-3:-1], dilation=2)))

  @jax.jit
  def inside(x, w):
    with jax.default_matmul_precision(precision):
      return loss(x, w)

  def derivative(x, w):
    return jax.grad(lambda x: jnp.sum(jnp.sin(jax.grad(inside, 1)(x, w))))(x)

  over_filters = jax.vmap(derivative, in_axes=(None, 0))
  for products in (
    _products(derivative, x, w, platform=platform),
    _products(over_filters, x, jnp.stack([w, w]), platform=platform),
  ):
    below = _below_highest(products)
    assert below == (products if precision is None else [])


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_of_networks_keep_the_setting(name):
  dictionary, x = _conv(), _normal(*IMAGE)

  def run(dictionary, x):
    if name == "initialized_thresholding":
      init = jnp.ones((8, 7, 4))
      return solvers.initialized_thresholding(dictionary, x, init, jnp.tanh, c=-0.1)
    if name == "unfolded_pursuit":
      return solvers.unfolded_pursuit(dictionary, x, [jnp.tanh] * 3, step=0.1)
    return getattr(solvers, name)([dictionary], x, [[jnp.tanh] * 3], steps=[0.1])

  function = _with_derivative(run)
  products = _products(function, dictionary, x)
  assert _below_highest(products) == products
  with jax.default_matmul_precision("highest"):
    assert _below_highest(_products(function, dictionary, x)) == []
