"""The plot of a network's layers: its content for given layers, and that every network can be drawn."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cscjax
from cscjax import plots
from cscjax.dictionaries import CodedLayer, effective_atoms, layer_reconstructions, scaled_fit
from cscjax.models import MODELS, create_model

RNG = np.random.default_rng(0)


def chain(depth=4, channels=1):
  """Layers with nonnegative codes of images [3, 6, 5, C]."""
  signal, found = jnp.asarray(RNG.normal(size=(3, 6, 5, channels)), jnp.float32), []
  for _ in range(depth):
    filters = jnp.asarray(RNG.normal(size=(3, 3, signal.shape[-1], 5)), jnp.float32)
    d = cscjax.ConvDictionary(filters)
    code = jax.nn.relu(d.analysis(signal) - 1)
    found.append(CodedLayer(d, signal, code))
    signal = code
  return found


def test_a_grey_dictionary_on_colour_images():
  colour = cscjax.ChannelwiseDictionary(cscjax.ConvDictionary(jnp.ones((3, 3, 1, 5)) / 3))
  signal = jnp.asarray(RNG.uniform(size=(2, 6, 5, 3)), jnp.float32)
  code = colour.analysis(signal)
  layer = CodedLayer(colour, signal, code)
  atoms = effective_atoms([layer])
  np.testing.assert_allclose(atoms[:, :, 1], np.full((3, 3, 5), 1 / 3), rtol=1e-6)
  assert not np.any(atoms[:, :, ::2])  # an atom lies in one channel
  tiles, activity, *_ = plots.layers([layer]).axes
  assert tiles.get_title() == "layer 1: 5 of 5 atoms, 3×3 pixels"
  np.testing.assert_allclose(pictures(activity), np.sum(code[0], axis=(-2, -1)), rtol=1e-5)


def pictures(panel):
  (drawn,) = panel.get_images()
  return np.ma.filled(drawn.get_array(), np.nan)


def test_rows_hold_atoms_activity_and_reconstruction():
  layers = chain()
  figure = plots.layers(layers, mean=0.5, std=0.1, rows=2, atoms=3, title="mine")
  assert figure.get_suptitle() == "mine"
  *rows, image, sparsity = figure.axes
  assert len(rows) == 6
  reconstructions = layer_reconstructions(layers)
  fit = scaled_fit(layers[0][1], reconstructions)
  for index, (tiles, activity, last) in zip((0, 3), (rows[:3], rows[3:]), strict=True):
    code = np.asarray(layers[index][2][0])
    np.testing.assert_allclose(pictures(activity), code.sum(-1), rtol=1e-5)
    fraction = np.mean(code != 0)
    assert activity.get_title() == f"Σ|code|, {fraction:.1%} ≠ 0"
    expected = np.clip(fit.scale[index, 0] * reconstructions[index, 0] * 0.1 + 0.5, 0, 1)
    np.testing.assert_allclose(pictures(last), expected[..., 0], atol=1e-6)
    assert last.get_title() == f"relative error {fit.error[index, 0]:.2f}"
    most = sorted(range(5), key=lambda j, code=code: -np.count_nonzero(code[..., j]))[:3]
    atoms = effective_atoms(layers[: index + 1], most)
    height, width = atoms.shape[:2]
    assert tiles.get_title() == f"layer {index + 1}: 3 of 5 atoms, {height}×{width} pixels"
    for k in range(3):
      tile = pictures(tiles)[1 : 1 + height, 1 + k * (width + 1) : (k + 1) * (width + 1)]
      atom = atoms[..., 0, k] / np.max(np.abs(atoms[..., k]))
      np.testing.assert_allclose(np.nan_to_num(tile), atom, atol=1e-6)
  np.testing.assert_allclose(
    pictures(image), np.clip(layers[0][1][0, ..., 0] * 0.1 + 0.5, 0, 1), atol=1e-6
  )
  (line,) = sparsity.get_lines()
  percentages = [100 * np.mean(np.asarray(code[:1]) != 0) for _, _, code in layers]
  np.testing.assert_allclose(line.get_xdata(), percentages, rtol=1e-5)
  np.testing.assert_array_equal(line.get_ydata(), [1, 2, 3, 4])
  assert sparsity.yaxis_inverted()


def test_rows_are_evenly_spaced():
  names = [panel.get_title() for panel in plots.layers(chain(9), rows=3).axes]
  assert [name.partition(":")[0] for name in names if name.startswith("layer")] == [
    "layer 1",
    "layer 5",
    "layer 9",
  ]


def test_given_reconstructions_and_fractions_are_used():
  layers = chain(2, channels=3)
  reconstructions = np.zeros((2, 3, 6, 5, 3))
  *_, first, _, _, second, _, sparsity = plots.layers(
    layers, reconstructions=reconstructions, nonzero_fractions=[0.5, 0.25]
  ).axes
  for panel in (first, second):
    assert panel.get_title() == "relative error 1.00"
    assert not pictures(panel).any()
  np.testing.assert_allclose(sparsity.get_lines()[0].get_xdata(), [50, 25])


def fields(name):
  """Fields that make a small network."""
  if MODELS[name].module.__name__ == "ResCSC":
    return {"depth": 8, "width": 2}
  if name in ("msd_csc", "msdnet"):
    return {"depth": 3, "width": 2}
  return {"width": 2}


NETWORKS = {name: (name, {}) for name in MODELS} | {
  f"{name} {solver} {unfolding}": (name, {"solver": solver, "unfolding": unfolding})
  for name in ("msd_csc", "ml_csc")
  for solver, unfolding in (("ista", 1), ("fista", 2))
}
FAST = ("msd_csc fista 2", "ml_csc", "res_csc")  # one per module class
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name not in FAST]


@pytest.mark.slow
@pytest.mark.parametrize(
  "shape", [pytest.param((8, 8, 1), marks=pytest.mark.slow), (32, 32, 3)], ids=str
)
@pytest.mark.parametrize("network", [*FAST, *SLOW])
def test_every_network_is_drawn(network, shape):
  name, more = NETWORKS[network]
  model = create_model(name, num_classes=3, **fields(name), **more)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, *shape)), jnp.float32)

  @jax.jit
  def layers():
    variables = model.init(jax.random.key(0), x)
    return model.bind(variables).pursuit_layers(x)

  file = io.BytesIO()
  plots.layers(layers(), rows=2, atoms=2).savefig(file, format="png", dpi=40)
  assert file.getvalue().startswith(b"\x89PNG")


BAD = {
  "layers": lambda: plots.layers([]),
  r"layers\[1\]": lambda: plots.layers([chain()[0], chain(1)[0]]),
  "rows": lambda: plots.layers(chain(), rows=0),
  "atoms": lambda: plots.layers(chain(), atoms=0),
  "nonzero_fractions": lambda: plots.layers(chain(), nonzero_fractions=[0.5]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_argument(name):
  with pytest.raises(ValueError, match=f"^{name}: expected"):
    BAD[name]()


def test_signals_must_be_images():
  with pytest.raises(ValueError, match=r"^layers: expected images"):
    plots.layers(chain(channels=2))
