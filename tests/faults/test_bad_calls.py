"""Invalid calls of the whole package: an error in one line that names the argument.

To add a case, add an entry to `CALLS`. Shapes, ranges and names in convolutions and solvers are tested
in tests/solvers/test_bad_input.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cscjax
from cscjax import data, models, plots, theory, training
from cscjax.dictionaries import CodedLayer

NAN = float("nan")
MATRIX = cscjax.MatrixDictionary(jnp.eye(3, 5) + 0.1)
FILTERS = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
CONV = cscjax.ConvDictionary(FILTERS)
VECTOR, IMAGE = jnp.ones(3), jnp.ones((6, 5, 2))
IMAGES = jnp.ones((3, 8, 8, 1))
BATCH, PICTURE = jnp.ones((2, 8, 8, 3)), jnp.ones((6, 5, 1))
WORDS = np.array(["a", "b", "c"])


def fista(x=VECTOR, beta=0.1, dictionary=MATRIX, **options):
  return cscjax.fista(dictionary, x, beta, **options)


def learn(images=IMAGES, beta=0.1, kernel=((3, 2),), **options):
  return cscjax.learn_dictionary(images, beta, kernel=kernel, **{"steps": 1, **options})


def effective(channels):
  return cscjax.effective_atoms([CodedLayer(MATRIX, VECTOR[None], jnp.ones((1, 5)))], channels)


def network(name="msd_csc", x=BATCH, **fields):
  model = models.create_model(name, **{"num_classes": 3, **fields})
  return jax.eval_shape(model.init, jax.random.key(0), x)


def layer(module):
  return jax.eval_shape(module.init, jax.random.key(0), BATCH)


def small(x):
  return network(x=x, depth=2, width=4)


def certify(dictionaries=(MATRIX,), x=VECTOR, noise=0.1, **options):
  return cscjax.certify(dictionaries, x, noise, **options)


# For each problem: the beginning of the message, and a call.
CALLS = {
  # data types of arrays
  "x complex": ("x", lambda: fista(VECTOR + 1j)),
  "x words": ("x", lambda: fista(WORDS)),
  "x objects": ("x", lambda: fista(np.array([None, 1, 2]))),
  "x None": ("x", lambda: fista(None)),
  "x ragged": ("x", lambda: fista([[1, 2, 3], [1]])),
  "x a random key": ("x", lambda: fista(jax.random.key(0))),
  "x complex, traced": ("x", lambda: jax.eval_shape(fista, jax.ShapeDtypeStruct((3,), jnp.complex64))),
  "x complex, omp": ("x", lambda: cscjax.omp(MATRIX, VECTOR + 1j, sparsity=1)),
  "x complex, admm": ("x", lambda: cscjax.admm(MATRIX, VECTOR + 1j, 0.1)),
  "x complex, beta_max": ("x", lambda: cscjax.beta_max(MATRIX, VECTOR + 1j)),
  "x complex, conv": ("x", lambda: CONV.analysis(IMAGE + 1j)),
  "x a list, conv": ("x", lambda: CONV.analysis(np.ones((6, 5, 2)).tolist())),
  "code a list, conv": ("code", lambda: CONV.synthesis([[1.0]])),
  "code words, matrix": ("code", lambda: MATRIX.synthesis(WORDS)),
  "filters None": ("filters", lambda: cscjax.ConvDictionary(None).analysis(IMAGE)),
  "filters a word": ("filters", lambda: cscjax.ConvDictionary("abc").analysis(IMAGE)),
  "filters complex": ("filters", lambda: cscjax.ConvDictionary(FILTERS * 1j).analysis(IMAGE)),
  "filters OIHW": ("x", lambda: cscjax.ConvDictionary(jnp.ones((4, 2, 3, 3))).analysis(IMAGE)),
  "images NCHW": ("x", lambda: CONV.analysis(jnp.ones((7, 2, 6, 5)))),
  "filters above the image, VALID": (
    "filters",
    lambda: cscjax.ConvDictionary(jnp.ones((9, 9, 2, 4)), padding="VALID").analysis(IMAGE),
  ),
  "atoms a ragged list": ("atoms", lambda: cscjax.MatrixDictionary([[1.0], [1.0, 2.0]])),
  "atoms a list of words": ("atoms", lambda: cscjax.MatrixDictionary([["word"]])),
  "atoms None": ("atoms", lambda: cscjax.MatrixDictionary(None).analysis(VECTOR)),
  "no atoms": ("atoms", lambda: cscjax.MatrixDictionary(jnp.ones((3, 0))).analysis(VECTOR)),
  "atoms complex": (
    "dictionary",
    lambda: fista(dictionary=cscjax.MatrixDictionary(1j * MATRIX.atoms)),
  ),
  "filters a ragged list": ("filters", lambda: cscjax.ConvDictionary([[1.0], [1.0, 2.0]])),
  "the identity beside atoms": (
    "conv",
    lambda: cscjax.IdentityAugmented(MATRIX).analysis(VECTOR),
  ),
  # static fields, checked when the dictionary is created
  "stride True": ("stride", lambda: cscjax.ConvDictionary(FILTERS, stride=True)),
  "stride 2.0": ("stride", lambda: cscjax.ConvDictionary(FILTERS, stride=2.0)),
  "stride an array of fractions": (
    "stride",
    lambda: cscjax.ConvDictionary(FILTERS, stride=np.array([1.0, 2.0])),
  ),
  "stride a set": ("stride", lambda: cscjax.ConvDictionary(FILTERS, stride={1, 2})),
  "stride of no axis": ("stride", lambda: cscjax.ConvDictionary(FILTERS, stride=())),
  "stride beyond 2^31": ("stride", lambda: cscjax.ConvDictionary(FILTERS, stride=2**31)),
  "stride traced": ("stride", lambda: jax.jit(lambda s: cscjax.ConvDictionary(FILTERS, stride=s))(2)),
  "dilation a word": ("dilation", lambda: cscjax.ConvDictionary(FILTERS, dilation="2")),
  "padding True": ("padding", lambda: cscjax.ConvDictionary(FILTERS, padding=((True, 1), (1, 1)))),
  "padding of triples": ("padding", lambda: cscjax.ConvDictionary(FILTERS, padding=((1, 1, 1),) * 2)),
  "padding an array of words": (
    "padding",
    lambda: cscjax.ConvDictionary(FILTERS, padding=np.array(["SAME"])),
  ),
  "padding an iterator": (
    "padding",
    lambda: cscjax.ConvDictionary(FILTERS, padding=iter([(1, 1), (1, 1)])),
  ),
  # solvers
  "beta a list of another length": ("beta", lambda: fista(beta=[0.1, 0.2])),
  "beta a ragged list": ("beta", lambda: fista(beta=[[0.1], [0.1, 0.2]])),
  "beta a list with NaN": ("beta", lambda: fista(beta=[0.1, NAN, 0.1, 0.1, 0.1])),
  "beta a list for a pair": (
    "beta",
    lambda: fista(IMAGE, [0.1, 0.2], cscjax.IdentityAugmented(CONV)),
  ),
  "beta None": ("beta", lambda: fista(beta=None)),
  "beta an object": ("beta", lambda: fista(beta=object())),
  "beta a random key": ("beta", lambda: fista(beta=jax.random.key(0))),
  "beta complex, traced": ("beta", lambda: jax.eval_shape(lambda b: fista(beta=b), 1j)),
  "init a list of another length": ("init", lambda: fista(init=[0.0])),
  "beta complex": ("beta", lambda: fista(beta=0.1j)),
  "beta a number in words": ("beta", lambda: fista(beta="0.1")),
  "beta a dict": ("beta", lambda: fista(beta={"a": 0.1})),
  "step complex": ("step", lambda: fista(step=1j)),
  "step unknown": ("step", lambda: fista(step="fast")),
  "tolerance NaN": ("tolerance", lambda: fista(tolerance=NAN)),
  "tolerance negative": ("tolerance", lambda: fista(tolerance=-1e-3)),
  "tolerance a word": ("tolerance", lambda: fista(tolerance="small")),
  "max_iterations 0": ("max_iterations", lambda: fista(tolerance=0.1, max_iterations=0)),
  "iterations True": ("iterations", lambda: fista(iterations=True)),
  "mask NaN": ("mask", lambda: fista(mask=jnp.array([NAN, 1, 1]))),
  "mask complex": ("mask", lambda: fista(mask=jnp.ones(3) * 1j)),
  "mask words": ("mask", lambda: fista(mask=WORDS)),
  "iterations beyond int32": ("iterations", lambda: fista(iterations=10**30)),
  "iterations beyond int32, ml_ista": (
    "iterations",
    lambda: cscjax.ml_ista([MATRIX], VECTOR, [0.1], iterations=2**31),
  ),
  "seed beyond int32": (
    "seed",
    lambda: data.gaussian_centers(2, 3, 4, 4, seed=10**30),
  ),
  "init an object": ("init", lambda: fista(init=object())),
  "init an object, admm": ("init", lambda: cscjax.admm(MATRIX, VECTOR, 0.1, init=object())),
  "init a word": ("init", lambda: fista(init="zero")),
  "restart a word": ("restart", lambda: fista(restart="no")),
  "restart 2": ("restart", lambda: fista(restart=2)),
  "init complex": ("init", lambda: fista(init=jnp.ones(5) * 1j)),
  "nonnegative a word": ("nonnegative", lambda: fista(nonnegative="no")),
  "nonnegative an array": ("nonnegative", lambda: fista(nonnegative=jnp.ones(3))),
  "nonnegative an array, layered_bp": (
    "nonnegative",
    lambda: cscjax.layered_bp([MATRIX], VECTOR, [0.1], nonnegative=jnp.ones(5, bool)),
  ),
  "nonnegative an array, ml_bp": (
    "nonnegative",
    lambda: cscjax.ml_bp([MATRIX], VECTOR, [0.1], nonnegative=jnp.ones(5, bool)),
  ),
  "record a number": ("record", lambda: fista(record=3)),
  "record unknown": ("record", lambda: fista(record=("time",))),
  "rho 0": ("rho", lambda: cscjax.admm(MATRIX, VECTOR, 0.1, rho=0)),
  "relaxation 3": ("relaxation", lambda: cscjax.admm(MATRIX, VECTOR, 0.1, relaxation=3)),
  "stride 2, admm": (
    "dictionary",
    lambda: cscjax.admm(cscjax.ConvDictionary(FILTERS, stride=2), IMAGE, 0.1),
  ),
  "code of another shape": ("code", lambda: cscjax.duality_gap(MATRIX, VECTOR, jnp.ones(3), 0.1)),
  "no layers": ("dictionaries", lambda: cscjax.layered_thresholding([], VECTOR, [])),
  "one layer, no list": ("dictionaries", lambda: cscjax.layered_thresholding(MATRIX, VECTOR, [0.1])),
  "one beta, no list": ("betas", lambda: cscjax.ml_ista([MATRIX], VECTOR, 0.1)),
  "one step, no list": ("steps", lambda: cscjax.ml_fista([MATRIX], VECTOR, [0.1], steps=0.1)),
  "beta < 0, ml_ista": ("betas", lambda: cscjax.ml_ista([MATRIX], VECTOR, [-1])),
  "beta < 0, layered_bp": ("betas", lambda: cscjax.layered_bp([MATRIX], VECTOR, [-1])),
  "step 0, unfolded": (
    "step",
    lambda: cscjax.unfolded_pursuit(MATRIX, VECTOR, [jnp.abs] * 2, step=0),
  ),
  "step NaN, unfolded": (
    "step",
    lambda: cscjax.unfolded_pursuit(MATRIX, VECTOR, [jnp.abs] * 2, step=NAN),
  ),
  # functions of a dictionary, theory
  "lipschitz of None": ("dictionary", lambda: cscjax.lipschitz(None, (3,))),
  "to_matrix of atoms": ("dictionary", lambda: cscjax.to_matrix(MATRIX.atoms, (3,))),
  "coherence of a list": ("dictionary", lambda: cscjax.mutual_coherence([1, 2])),
  "lipschitz, a seed for a key": ("key", lambda: cscjax.lipschitz(CONV, (6, 5, 2), key=3)),
  "lipschitz, tolerance beyond floats": (
    "tolerance",
    lambda: cscjax.lipschitz(CONV, (6, 5, 2), tolerance=10**400),
  ),
  "atoms of the channel 1.0": ("channels", lambda: effective([1.0])),
  "atoms of the channel True": ("channels", lambda: effective([True])),
  "atoms of one channel, no list": ("channels", lambda: effective(1)),
  "effective atoms of a dictionary": ("layers", lambda: cscjax.effective_atoms(MATRIX)),
  "effective atoms of dictionaries": ("layers", lambda: cscjax.effective_atoms([MATRIX])),
  "pooling of integers": ("x", lambda: cscjax.ops.max_pool(jnp.ones((1, 4, 4, 1), int))),
  "low-pass along True axes": (
    "spatial_axes",
    lambda: cscjax.tikhonov_lowpass(IMAGE, 1.0, spatial_axes=True),
  ),
  "coherence < 0": ("coherence", lambda: cscjax.uniqueness_bound(-0.5)),
  "coherence NaN": ("coherence", lambda: cscjax.uniqueness_bound(NAN)),
  "coherence as a dict": ("coherence", lambda: cscjax.uniqueness_bound({"mu": 0.5})),
  "sparsity of a word": ("code", lambda: theory.support_size(MATRIX, "code")),
  "stripes of words": ("code", lambda: theory.stripe_sparsity(MATRIX, [1.0, "code"])),
  "beta of failed dimensions as a dict": (
    "beta",
    lambda: cscjax.failed_dimensions(MATRIX, jnp.ones(5), jnp.ones(4), {"a": 1}),
  ),
  "layers that are none": ("layers", lambda: theory.layered_stability(None, 0.1)),
  "layers of dictionaries alone": ("layers", lambda: theory.layered_stability([MATRIX], 0.1)),
  "sparsity < 0": ("sparsity", lambda: theory.is_unique(-1, 0.5)),
  "failed dimensions of another x": (
    "x",
    lambda: cscjax.failed_dimensions(MATRIX, jnp.ones(5), jnp.ones(4), 0.1),
  ),
  "eigenvalues NaN": ("eigenvalues", lambda: theory.msd_csc_spectrum(jnp.array([NAN]), 2)),
  "certify nothing": ("dictionaries", lambda: certify((), betas=())),
  "certify a dictionary": ("dictionaries", lambda: certify(MATRIX, betas=[0.1])),
  "certify words": ("x", lambda: certify(x=WORDS, betas=[0.1])),
  "certify with noise NaN": ("noise", lambda: certify(noise=NAN, betas=[0.1])),
  "low-pass of complex": ("x", lambda: cscjax.tikhonov_lowpass(IMAGE * 1j, 1.0)),
  "low-pass of no image": ("x", lambda: cscjax.tikhonov_lowpass(jnp.ones((0, 6, 5, 1)), 1.0)),
  "low-pass strength NaN": ("strength", lambda: cscjax.tikhonov_lowpass(IMAGE, NAN)),
  # learning
  "no images": ("images", lambda: learn(jnp.ones((0, 8, 8, 1)))),
  "images NaN": ("images", lambda: learn(jnp.full((3, 8, 8, 1), NAN))),
  "images infinite": ("images", lambda: learn(jnp.full((3, 8, 8, 1), jnp.inf))),
  "images complex": ("images", lambda: learn(IMAGES * 1j)),
  "images of two axes": ("images", lambda: learn(jnp.ones((8, 8)))),
  "learning beta < 0": ("beta", lambda: learn(beta=-1)),
  "atoms above the images": ("kernel", lambda: learn(kernel=((9, 2),))),
  "learning init NaN": ("init", lambda: learn(init=jnp.full((3, 3, 1, 2), NAN))),
  "seed for a key": ("key", lambda: learn(key=3)),
  "rate for an optimizer": ("optimizer", lambda: learn(optimizer=0.1)),
  "state of another optimizer": ("state", lambda: learn(state=optax.EmptyState())),
  # networks
  "network: x of two axes": ("x", lambda: small(jnp.ones((8, 8)))),
  "network: x without pixels": ("x", lambda: small(jnp.ones((2, 0, 8, 3)))),
  "network: x without channels": ("x", lambda: small(jnp.ones((2, 8, 8, 0)))),
  "network: x complex": ("x", lambda: small(BATCH * 1j)),
  "network: x too small": ("x", lambda: network("ml_csc", jnp.ones((2, 4, 4, 3)))),
  "resnet: x of two axes": ("x", lambda: network("resnet", jnp.ones((8, 8)))),
  "network: no classes": ("num_classes", lambda: network(num_classes=0)),
  "network: width NaN": ("width", lambda: network(width=NAN)),
  "network: one dilation, no list": ("dilations", lambda: network(dilations=3)),
  "network: no dilations": ("dilations", lambda: network(dilations=())),
  "network: c NaN": ("c", lambda: network("res_csc", c=NAN)),
  "network: norm a word": ("norm", lambda: network(norm="no")),
  "network: norm a word, ml_csc": ("norm", lambda: network("ml_csc", norm="no")),
  "network: norm a word, resnet": ("norm", lambda: network("resnet", norm="no")),
  "layer: nonnegative a word": ("nonnegative", lambda: models.CSCLayer(4, nonnegative="no")),
  "layer: untied a word": ("untied", lambda: models.CSCLayer(4, untied="no")),
  "layer: signed < 0": ("signed", lambda: models.MSDCSCLayer(4, signed=-1)),
  "layer: more zeros than signed": ("zeros", lambda: models.MSDCSCLayer(4, signed=1, zeros=2)),
  "layer: more zeros than channels": (
    "zeros",
    lambda: layer(models.MSDCSCLayer(4, signed=3, zeros=3)),
  ),
  "block: rule unknown": ("rule", lambda: models.ResCSCBlock(4, rule="resnet20")),
  "block: c without correction": ("c", lambda: models.ResCSCBlock(4, rule="plain", c=0.5)),
  "block: stride 0": ("stride", lambda: models.ResCSCBlock(4, stride=0)),
  "block: fewer features than channels": ("features", lambda: layer(models.ResCSCBlock(2))),
  "network: c a word": ("c", lambda: network("res_csc", c="small")),
  # plots
  "plot: atoms in words": ("filters", lambda: plots.atoms("abc")),
  "plot: atoms complex": ("filters", lambda: plots.atoms(jnp.ones((3, 3, 1, 4)) * 1j)),
  "plot: code in words": ("code", lambda: plots.code(WORDS)),
  "plot: no code": ("code", lambda: plots.code(jnp.ones((3, 3, 0)))),
  "plot: image complex": ("image", lambda: plots.reconstruction(PICTURE * 1j, PICTURE)),
  "plot: two channels": ("image", lambda: plots.reconstruction(IMAGE, IMAGE)),
  "plot: rows of another file": ("rows", lambda: plots.learning_curves([{"epoch": 1}])),
  "plot: bands at NaN": (
    "x",
    lambda: plots.bands([1, NAN], {"a": {"b": ([1, 1], [0, 0])}}, xlabel="", ylabel=""),
  ),
  "plot: trace NaN": ("objectives", lambda: plots.convergence_curves({"ista": [1, NAN]})),
  "plot: negative bound": ("changes", lambda: plots.stability([1.0, 2.0], {"bound": [1.0, -1.0]})),
  # data, training
  "data set unknown": ("name", lambda: data.load_dataset("mnist")),
  "validation of no example": (
    "validation_fraction",
    lambda: data.load_dataset("digits", validation_fraction=1e-9),
  ),
  "images of NaN": (
    "images",
    lambda: data.make_dataset(np.full((2, 4, 1), NAN), [0, 1]),
  ),
  "labels without a class": ("labels", lambda: data.make_dataset(np.zeros((2, 4, 1)), [0, 2])),
  "noise NaN": ("noise", lambda: data.gaussian_centers(noise=NAN)),
  "schedule of rate 0": ("learning_rate", lambda: training.step_schedule(0.0, [])),
}


@pytest.mark.parametrize("what", CALLS)
def test_the_error_names_the_argument_in_one_line(what):
  name, call = CALLS[what]
  with pytest.raises(ValueError, match=rf"^{name}\b.+") as error:
    call()
  assert "\n" not in str(error.value)
  assert len(str(error.value)) < 400


BAD = VECTOR.at[0].set(NAN)
BAD_PICTURE = PICTURE.at[2, 3].set(NAN)


def title_of_reconstruction(image=PICTURE, reconstruction=PICTURE):
  return plots.reconstruction(image, reconstruction).axes[1].get_title()


def accuracy_of_nan():
  """Number of correct predictions of a network whose logit of the right class is NaN."""

  class Broken(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
      scale = self.param("scale", nn.initializers.ones, ())
      return scale * jnp.full((len(x), 3), NAN).at[:, 1:].set(0.0)

  trainer = training.Trainer(Broken(), optax.sgd(0.1), optax.constant_schedule(0.1), 4)
  state = trainer.create_state((8, 8, 1), jax.random.key(0))
  images, labels = jnp.zeros((4, 8, 8, 1)), jnp.zeros(4, jnp.int32)
  data = training.Examples(images, labels, jnp.zeros(1), jnp.ones(1))
  sums = trainer.evaluate_batches(state, data, training.EpochMetrics.zero(), 0, 1)
  return sums.correct


def layer_with_bad_filter():
  """The code of a valid atom beside an atom that is NaN: L is NaN, and with it all codes."""
  layer, x = models.CSCLayer(width=2, unfolding=1, norm=False), jnp.ones((1, 4, 4, 1))
  params = layer.init(jax.random.key(0), x)["params"]
  bad = {**params, "filters": params["filters"].at[0, 0, 0, 0].set(NAN)}
  return jax.jit(layer.apply)({"params": bad}, x)[..., 1]


# A check of these values would have to wait for the device, so the result shows the problem instead.
RESULTS = {
  "ista": lambda: cscjax.ista(MATRIX, BAD, 0.1).diverged,
  "ista, infinite": lambda: cscjax.ista(MATRIX, VECTOR.at[0].set(jnp.inf), 0.1).diverged,
  "ista, atoms": lambda: (
    cscjax.ista(MATRIX.replace(atoms=MATRIX.atoms.at[0].set(NAN)), BAD, 0.1).diverged
  ),
  "ista, init": lambda: cscjax.ista(MATRIX, VECTOR, 0.1, init=jnp.full(5, NAN)).diverged,
  "fista": lambda: fista(BAD).diverged,
  "fista, adaptive": lambda: fista(BAD, step="adaptive").diverged,
  "fista, to a tolerance": lambda: fista(BAD, tolerance=1e-3).diverged,
  "admm": lambda: cscjax.admm(MATRIX, BAD, 0.1).diverged,
  "omp": lambda: jnp.isnan(cscjax.omp(MATRIX, BAD, sparsity=1).residual_norm[-1]),
  "beta_max": lambda: jnp.isnan(cscjax.beta_max(MATRIX, BAD)),
  "duality_gap": lambda: jnp.isnan(cscjax.duality_gap(MATRIX, BAD, jnp.ones(5), 0.1)),
  "low-pass": lambda: jnp.isnan(cscjax.tikhonov_lowpass(IMAGE.at[0].set(NAN), 1.0)).any(),
  "hard threshold": lambda: jnp.isnan(cscjax.hard_threshold(BAD, 0.1)).any(),
  "failed dimensions": lambda: theory.failed_dimensions(MATRIX, jnp.zeros(5), BAD, 0.1)[0],
  "coherence, atoms": lambda: jnp.isnan(
    cscjax.mutual_coherence(MATRIX.replace(atoms=MATRIX.atoms.at[0, 0].set(NAN)))
  ),
  "uniqueness bound, traced": lambda: jnp.isnan(jax.jit(theory.uniqueness_bound)(NAN)),
  "uniqueness, traced": lambda: ~jax.jit(theory.is_unique)(1, NAN),
  "bp recovery, traced": lambda: ~jax.jit(theory.bp_recovery)(NAN, 1, 0.1).holds,
  "bp recovery, noise": lambda: ~theory.bp_recovery(0.1, 1, NAN, 0.1).holds,
  "thresholding recovery": lambda: ~theory.thresholding_recovery(0.1, 1, NAN, 1.0, 0.1).holds,
  "patch norm": lambda: jnp.isnan(theory.patch_norm(MATRIX, BAD)),
  "certificate": lambda: (
    cscjax.certify([MATRIX], BAD, 0.1, codes=[jnp.zeros(5)]).rows[0].failed == ("thresholding", "bp")
  ),
  "network: lipschitz constant": lambda: jnp.isnan(layer_with_bad_filter()).all(),
  "accuracy of an evaluation": lambda: accuracy_of_nan() == 0,
  "plot: reconstruction": lambda: "nan dB" in title_of_reconstruction(reconstruction=BAD_PICTURE),
  "plot: image": lambda: "nan dB" in title_of_reconstruction(image=BAD_PICTURE),
  "plot: in colour": lambda: (
    plots.reconstruction(IMAGE[..., :1].repeat(3, -1), BAD_PICTURE.repeat(3, -1))
    .axes[1]
    .images[0]
    .get_array()[2, 3, 3]
    == 0
  ),
  "plot: code": lambda: "1 not finite" in plots.code(BAD_PICTURE).get_suptitle(),
  "plot: atoms": lambda: (
    "6 not finite" in plots.atoms(jnp.ones((3, 3, 1, 2)).at[0].set(NAN)).get_suptitle()
  ),
}


@pytest.mark.parametrize("what", RESULTS)
def test_the_result_shows_that_a_signal_is_not_finite(what):
  assert bool(RESULTS[what]())


@pytest.mark.parametrize(
  "solve",
  [
    fista,
    lambda x: fista(x, tolerance=1e-3),
    lambda x: fista(x, step="adaptive"),
    lambda x: cscjax.ista(MATRIX, x, 0.1),
    lambda x: cscjax.admm(MATRIX, x, 0.1),
    lambda x: cscjax.omp(MATRIX, x, sparsity=1),
  ],
)
def test_an_empty_batch_has_an_empty_code(solve):
  assert solve(jnp.ones((0, 3))).code.shape == (0, 5)


def test_arrays_in_another_byte_order():
  """Those of FITS and HDF5 files: they are converted, or refused with the reason by `analysis`."""
  x, atoms = np.array([0.5, 1.0, -2.0], np.float32), np.asarray(MATRIX.atoms)
  other = atoms.dtype.newbyteorder("S")
  swapped = cscjax.MatrixDictionary(atoms.astype(other))
  found = cscjax.fista(swapped, x.astype(other), np.float32(0.1).astype(other), iterations=3)
  np.testing.assert_array_equal(found.code, fista(x, iterations=3).code)
  np.testing.assert_array_equal(swapped.analysis(x), MATRIX.analysis(x))
  filters = cscjax.ConvDictionary(np.asarray(FILTERS).astype(other))
  np.testing.assert_array_equal(filters.analysis(IMAGE), CONV.analysis(IMAGE))
  with pytest.raises(ValueError, match="x: expected values in the byte order of this machine"):
    CONV.analysis(np.asarray(IMAGE).astype(other))


def test_static_fields_can_be_given_as_lists_and_arrays():
  """They become equal, hashable values, so that one compiled program serves them all."""
  analysis = jax.jit(lambda d: d.analysis(IMAGE))
  expected = cscjax.ConvDictionary(FILTERS, stride=(2, 1), dilation=2, padding=((2, 1), (2, 1)))
  for stride in ([2, 1], np.array([2, 1]), range(2, 0, -1), (np.int64(2), jnp.int32(1))):
    for padding in (np.array([[2, 1], [2, 1]]), [[2, 1], [2, 1]], jnp.array([[2, 1], [2, 1]])):
      found = cscjax.ConvDictionary(FILTERS, stride=stride, dilation=np.int64(2), padding=padding)
      assert jax.tree.structure(found) == jax.tree.structure(expected)
      np.testing.assert_array_equal(analysis(found), expected.analysis(IMAGE))
  assert analysis._cache_size() == 1
  listed = cscjax.ConvDictionary(FILTERS.tolist())
  np.testing.assert_allclose(listed.analysis(IMAGE), CONV.analysis(IMAGE), rtol=1e-6)
  result = cscjax.ista(cscjax.MatrixDictionary([[1.0]]), [1.0], [0.1], step=0.5, init=[1.0])
  np.testing.assert_allclose(result.code, [0.9], rtol=1e-6)
  model = models.create_model("msd_csc", num_classes=3, depth=2, width=4, dilations=[1, np.int64(2)])
  assert hash(model) == hash(model.clone(dilations=(1, 2)))


def test_an_invalid_call_does_not_affect_later_ones():
  solve = jax.jit(lambda d, x: d.analysis(x))
  with pytest.raises(ValueError, match="padding"):
    solve(cscjax.ConvDictionary(FILTERS, padding=np.array([[2.0, 1.0], [2.0, 1.0]])), IMAGE)
  right = cscjax.ConvDictionary(FILTERS, padding=((2, 1), (2, 1)))
  assert solve(right, IMAGE).shape == (7, 6, 4)


@pytest.mark.parametrize("leaf", [object(), None, 0, jax.ShapeDtypeStruct((2,), jnp.float32)])
@pytest.mark.parametrize("dictionary", [MATRIX, CONV, cscjax.IdentityAugmented(CONV)])
def test_a_dictionary_can_hold_the_placeholders_of_jax(dictionary, leaf):
  held = jax.tree.structure(dictionary).unflatten([leaf])
  assert jax.tree.leaves(held, is_leaf=lambda node: node is None) == [leaf]
