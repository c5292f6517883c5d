"""The content of the figures: arrays, lines and labels, not their appearance."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import cscjax
from cscjax import plots


def images(figure):
  """The arrays of all images of a figure, without colour bars, in order."""
  return [np.asarray(drawn.get_array()) for panel in figure.axes for drawn in panel.get_images()]


def titles(figure):
  return [panel.get_title() for panel in figure.axes if panel.get_title()]


def test_does_not_touch_pyplot():
  code = (
    "import sys, cscjax.plots; assert 'matplotlib' not in sys.modules;"
    "cscjax.plots.convergence_curves({'a': [1.0]}); assert 'matplotlib.pyplot' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_tiles_are_the_atoms_in_reading_order():
  filters = np.random.default_rng(0).normal(size=(2, 3, 1, 5))
  (picture,) = images(plots.atoms(filters, scale="shared", columns=2))
  assert picture.shape == (3 * 3 + 1, 2 * 4 + 1)
  for index in range(5):
    row, column = divmod(index, 2)
    tile = picture[3 * row + 1 : 3 * row + 3, 4 * column + 1 : 4 * column + 4]
    np.testing.assert_allclose(tile, filters[..., 0, index])
  assert np.ma.is_masked(np.ma.masked_invalid(picture)[0, 0])  # a gap between tiles
  assert np.isnan(picture.filled(np.nan) if np.ma.isMA(picture) else picture)[7:, 5:].all()  # unused


def test_each_atom_fills_the_range():
  filters = np.random.default_rng(0).normal(size=(3, 3, 1, 4)) * [1, 10, 100, 1000]
  figure = plots.atoms(filters, columns=4)
  (picture,) = images(figure)
  for index in range(4):
    tile = picture[1:4, 4 * index + 1 : 4 * index + 4]
    assert np.max(np.abs(tile)) == pytest.approx(1)
  (drawn,) = figure.axes[0].get_images()
  assert drawn.get_clim() == (-1, 1)  # zero is the neutral colour


def test_coloured_atoms_are_mid_grey_at_zero():
  filters = np.zeros((1, 3, 3, 1))
  filters[0, :, :, 0] = [[0.5, 0, -0.5], [0, 0, 0], [0.25, 0.25, 0.25]]
  (picture,) = images(plots.atoms(filters))
  np.testing.assert_allclose(picture[1, 1:4], [[1, 0.5, 0], [0.5] * 3, [0.75] * 3])
  np.testing.assert_allclose(picture[0], 1)  # gaps are white


def test_a_smaller_atom_is_a_smaller_tile():
  filters = np.ones((4, 4, 1, 2))
  filters[..., 1] = 0
  filters[1:3, 0:3, 0, 1] = [[1, 0, 1], [0, 1, 0]]
  picture = np.ma.filled(np.ma.masked_invalid(images(plots.atoms(filters, columns=2))[0]), np.nan)
  np.testing.assert_array_equal(np.isfinite(picture[1:5, 1:5]), True)
  expected = np.full((4, 4), np.nan)
  expected[1:3, 0:3] = [[1, 0, 1], [0, 1, 0]]  # zeros inside the bounding box stay
  np.testing.assert_array_equal(picture[1:5, 6:10], expected)


def test_one_dimensional_atoms_are_lines():
  filters = np.random.default_rng(0).normal(size=(7, 2, 3))
  figure = plots.atoms(filters, title="waves")
  assert figure.get_suptitle() == "waves"
  for index, panel in enumerate(figure.axes[:3]):
    _, *lines = panel.get_lines()  # the first line is the axis
    np.testing.assert_allclose([line.get_ydata() for line in lines], filters[..., index].T)
  assert not figure.axes[3].axison  # 2 x 2 panels for three atoms


def test_lines_end_where_a_small_atom_ends():
  """A colour bar tells the channels."""
  filters = np.zeros((6, 3, 2))
  filters[:, :, 0] = 1
  filters[2:4, :2, 1] = [[1, 0], [0, 2]]
  first, second, *_, bar = plots.atoms(filters).axes
  _, *lines = first.get_lines()
  assert np.all(np.isfinite([line.get_ydata() for line in lines]))
  _, *lines = second.get_lines()
  expected = np.full((3, 6), np.nan)
  expected[:, 2:4] = [[1, 0], [0, 2], [0, 0]]
  np.testing.assert_array_equal([line.get_ydata() for line in lines], expected)
  assert len({tuple(line.get_color()) for line in lines}) == 3
  assert bar.get_ylabel() == "channel"


def test_code_of_a_signal_is_vertical_lines():
  code = np.zeros((20, 3))
  code[[3, 7], 2] = [1.0, -2.0]
  code[3, 0] = -4.0
  figure = plots.code(code, channels=2, title="mine")
  assert figure.get_suptitle() == "mine: 5.00% of 60 coefficients are nonzero"
  assert titles(figure) == ["activity Σ|code|", "channel 2: 2 nonzeros", "channel 0: 1 nonzeros"]

  def stems(panel):
    (lines,) = panel.collections
    return [tuple(map(tuple, segment)) for segment in lines.get_segments()]

  assert [stems(panel) for panel in figure.axes] == [
    [((3, 0), (3, 5)), ((7, 0), (7, 2))],
    [((3, 0), (3, 1)), ((7, 0), (7, -2))],
    [((3, 0), (3, -4))],
  ]
  colors = figure.axes[1].collections[0].get_colors()
  assert colors[0][0] > colors[0][2]  # positive is red
  assert colors[1][0] < colors[1][2]


def test_signal_draws_the_channels_below_each_other():
  rng = np.random.default_rng(0)
  signal = rng.uniform(-1, 1, size=(50, 3))
  signal[4, 1] = 2.0  # the largest magnitude, which is the distance of the channels
  estimate, observed = 0.9 * signal, 1.001 * signal
  figure = plots.signal(signal, estimate, observed=observed, title="mine")
  top, bottom = figure.axes
  assert figure.get_suptitle() == "mine"
  texts = [text.get_text() for text in top.get_legend().get_texts()]
  assert texts == ["observed: 60.0 dB", "signal", "reconstruction: 20.0 dB"]
  offsets = -2.0 * 1.001 * np.arange(3)
  drawn = np.array([line.get_ydata() for line in top.get_lines()]).reshape(3, 3, 50)
  for values, lines in zip((observed, signal, estimate), drawn, strict=True):
    np.testing.assert_allclose(lines, (values + offsets).T)
  difference = np.array([line.get_ydata() for line in bottom.get_lines()])
  np.testing.assert_allclose(difference, (estimate - signal + offsets).T)
  (alone,) = plots.signal(signal[:, :1]).axes
  assert alone.get_legend() is None
  np.testing.assert_allclose(alone.get_lines()[0].get_ydata(), signal[:, 0])


def test_signals_of_many_channels_that_are_zero_or_not_finite():
  zeros = np.zeros((5, 30))
  (panel,) = plots.signal(zeros).axes
  assert [text.get_text() for text in panel.get_yticklabels()] == list(map(str, range(0, 30, 3)))
  missing = np.where(np.arange(5)[:, None] == 2, np.nan, zeros)
  top, _ = plots.signal(zeros, missing).axes
  assert top.get_legend().get_texts()[1].get_text() == "reconstruction: nan dB"


def test_code_shows_activity_and_the_most_used_channels():
  code = np.zeros((4, 5, 3))
  code[1, 2, 0] = -2
  code[[0, 3, 3], [4, 0, 1], 2] = [1, -3, 5]
  code[1, 2, 2] = 1
  figure = plots.code(jnp.asarray(code), channels=2, title="mine")
  (activity,) = images(figure)
  np.testing.assert_allclose(activity, np.abs(code).sum(-1))
  assert titles(figure) == ["activity Σ|code|", "channel 2: 4 nonzeros", "channel 0: 1 nonzeros"]
  assert figure.get_suptitle() == "mine: 8.33% of 60 coefficients are nonzero"
  points = figure.axes[1].collections[0]
  found = {
    tuple(place): value for place, value in zip(points.get_offsets(), points.get_array(), strict=True)
  }
  assert found == {(4, 0): 1, (2, 1): 1, (0, 3): -3, (1, 3): 5}  # (column, row)
  assert points.get_clim() == (-5, 5)


def test_a_code_of_zeros_is_drawn():
  assert plots.code(np.zeros((3, 3, 2)), title="").get_suptitle().startswith("0.00% of 18")


def test_reconstruction_shows_the_difference_and_psnr():
  rng = np.random.default_rng(0)
  image = rng.uniform(0, 255, size=(6, 5, 1))
  estimate = image + 255 * 0.1 * rng.choice([-1, 1], size=image.shape)  # 20 dB
  observed = image + 255 * 0.01  # 40 dB
  figure = plots.reconstruction(image, estimate, observed=observed, peak=255)
  assert titles(figure) == ["image", "observed: 40.0 dB", "reconstruction: 20.0 dB", "difference"]
  first, _, third, difference = images(figure)
  np.testing.assert_allclose(first, image[..., 0] / 255)
  np.testing.assert_allclose(third, np.clip(estimate[..., 0] / 255, 0, 1))
  np.testing.assert_allclose(difference, (estimate - image)[..., 0])


def test_reconstruction_in_colour():
  image = np.random.default_rng(0).uniform(size=(4, 4, 3))
  estimate = image.copy()
  estimate[0, 0] -= [0.2, 0, 0]
  figure = plots.reconstruction(image, estimate)
  *_, difference = images(figure)
  np.testing.assert_allclose(difference[0, 0], [0, 0.5, 0.5], atol=1e-12)
  np.testing.assert_allclose(difference[1:], 0.5)
  assert titles(figure)[1] == f"reconstruction: {-10 * math.log10(0.04 / 48):.1f} dB"
  assert titles(plots.reconstruction(image, image))[1] == "reconstruction: inf dB"


def test_convergence_curves_are_relative_gaps():
  traces = {"a": jnp.asarray([4.0, 3.0, 2.5]), "b": np.array([4.0, 2.0])}
  figure = plots.convergence_curves(traces, optimum=2.0)
  (panel,) = figure.axes
  assert panel.get_yscale() == "log"
  lines = {line.get_label(): line.get_ydata() for line in panel.get_lines()}
  np.testing.assert_allclose(lines["a"], [1, 0.5, 0.25])
  np.testing.assert_allclose(lines["b"], [1, 0])
  assert panel.get_xlabel() == "iteration"
  assert "gap" in panel.get_ylabel()
  (panel,) = plots.convergence_curves(traces).axes
  np.testing.assert_allclose(panel.get_lines()[0].get_ydata(), traces["a"])


def test_stability_leaves_out_what_has_no_logarithm():
  figure = plots.stability([0.1, 0.2, 0.4], {"bound": [0.2, 0.5, np.inf], "random": [0.0, 0.1, 0.3]})
  (panel,) = figure.axes
  assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
  lines = {line.get_label(): line.get_xydata().tolist() for line in panel.get_lines()}
  assert lines == {"bound": [[0.1, 0.2], [0.2, 0.5]], "random": [[0.2, 0.1], [0.4, 0.3]]}


def test_bands_are_means_and_deviations():
  x, mean, deviation = [0, 5, 9], [3.0, 2.0, 1.0], [0.5, 0.25, 0.0]
  panels = {"left": {"a": (mean, deviation), "b": (np.zeros(3), np.zeros(3))}, "right": {"b": (mean, x)}}
  figure = plots.bands(x, panels, xlabel="steps", ylabel="lost", title="both")
  left, right = figure.axes
  assert (figure.get_suptitle(), titles(figure)) == ("both", ["left", "right"])
  np.testing.assert_allclose(left.get_lines()[0].get_xydata(), [[0, 3], [5, 2], [9, 1]])
  corners = left.collections[0].get_paths()[0].vertices
  for point in ([0, 2.5], [0, 3.5], [5, 1.75], [5, 2.25], [9, 1]):
    assert np.min(np.abs(corners - point).sum(axis=1)) < 1e-12
  assert left.get_lines()[1].get_color() == right.get_lines()[0].get_color()  # same name, same colour
  assert left.get_lines()[0].get_color() != left.get_lines()[1].get_color()
  assert (left.get_xlabel(), left.get_ylabel(), right.get_ylabel()) == ("steps", "lost", "")


def test_figure_s1():
  """The paper's example: the filter (1 2, 3 4) on 4x4 pixels, with mu = 0.47 and 0."""
  filters = np.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None]
  figure = plots.convolutional_matrices(filters, (4, 4, 1))
  assert titles(figure) == ["dilation 1: µ = 0.47", "dilation 2: µ = 0.00"]
  first, second = images(figure)
  assert (first.shape, second.shape) == ((9, 16), (4, 16))
  np.testing.assert_allclose(first[0], [1, 2, 0, 0, 3, 4] + 10 * [0])
  np.testing.assert_allclose(second[3], 5 * [0] + [1, 0, 2] + 5 * [0] + [3, 0, 4])


def test_learning_curves_skip_missing_values():
  rows = [
    {"epoch": 1, "split": "train", "loss": 2.0, "accuracy": 0.1},
    {"epoch": 2, "split": "train", "loss": None, "accuracy": 0.4},
    {"epoch": 2, "split": "test", "loss": 1.0, "accuracy": 0.5},
  ]
  loss, accuracy = plots.learning_curves(rows).axes
  assert [line.get_label() for line in loss.get_lines()] == ["test", "train"]
  np.testing.assert_allclose(loss.get_lines()[1].get_xydata(), [[1, 2]])
  np.testing.assert_allclose(accuracy.get_lines()[1].get_xydata(), [[1, 10], [2, 40]])


def test_every_figure_can_be_written(tmp_path):
  """Uses the results of a solver on a small problem."""
  filters = jax.random.normal(jax.random.key(0), (3, 3, 1, 4))
  dictionary = cscjax.ConvDictionary(filters, padding="CIRCULAR")
  x = jax.random.uniform(jax.random.key(1), (8, 8, 1))
  result = cscjax.fista(dictionary, x, 0.1, iterations=5)
  figures = [
    plots.atoms(filters, scale="shared"),
    plots.atoms(filters[0]),
    plots.code(result.code),
    plots.code(result.code[0]),
    plots.signal(x[0], x[1], observed=x[2]),
    plots.reconstruction(x, dictionary.synthesis(result.code)),
    plots.convergence_curves({"FISTA": result.objective}),
    plots.stability([0.1, 1.0], {"bound": [0.2, 3.0]}),
    plots.stability([0.1], {"bound": [np.inf]}),
    plots.learning_curves([{"epoch": 1, "split": "train", "loss": None, "accuracy": None}]),
    plots.convolutional_matrices(filters, (4, 4, 1), dilations=np.array([1, 2]), padding="SAME"),
  ]
  for index, figure in enumerate(figures):
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / f"{index}.png", dpi=40)


PAIR = ([1.0, 1.0], [0.0, 0.0])
BAD = {
  "filters": lambda: plots.atoms(np.zeros((3, 3, 2, 4))),
  "scale": lambda: plots.atoms(np.zeros((3, 3, 1, 4)), scale="all"),
  "columns": lambda: plots.atoms(np.zeros((3, 3, 1, 4)), columns=0),
  "code": lambda: plots.code(np.zeros((1, 3, 3, 4))),
  "signal": lambda: plots.signal(np.zeros((2, 3, 3))),
  "channels": lambda: plots.code(np.zeros((3, 3, 4)), channels=0),
  "image": lambda: plots.reconstruction(np.zeros((3, 3)), np.zeros((3, 3))),
  "reconstruction": lambda: plots.reconstruction(np.zeros((3, 3, 1)), np.zeros((3, 4, 1))),
  "observed": lambda: plots.reconstruction(*[np.zeros((3, 3, 1))] * 2, observed=np.zeros((3, 3, 3))),
  "peak": lambda: plots.reconstruction(*[np.zeros((3, 3, 1))] * 2, peak=0),
  "objectives": lambda: plots.convergence_curves({}),
  r"objectives\['a'\]": lambda: plots.convergence_curves({"a": np.zeros((2, 2))}),
  "optimum": lambda: plots.convergence_curves({"a": [1.0]}, optimum=0),
  "changes": lambda: plots.stability([1.0], {}),
  r"changes\['a'\]": lambda: plots.stability([1.0], {"a": [1.0, 2.0]}),
  "noise": lambda: plots.stability([0.0, 1.0], {"a": [1.0, 2.0]}),
  "objectives: expected a dict": lambda: plots.convergence_curves([[1.0]]),
  r"objectives\['b'\]": lambda: plots.convergence_curves({"b": ["word"]}),
  "optimum: expected a finite": lambda: plots.convergence_curves({"a": [1.0]}, optimum=[1.0, 2.0]),
  "noise: expected a vector": lambda: plots.stability(0.1, {"a": 1.0}),
  "x": lambda: plots.bands(np.ones((2, 2)), {"p": {"a": PAIR}}, xlabel="", ylabel=""),
  r"panels\['p'\]\['b'\]": lambda: plots.bands([0, 1], {"p": {"b": ([1, 1], 0)}}, xlabel="", ylabel=""),
  "dilations: expected a sequence": lambda: plots.convolutional_matrices(
    np.ones((2, 2, 1, 1)), (4, 4, 1), dilations=1
  ),
  "panels": lambda: plots.bands([0, 1], {}, xlabel="", ylabel=""),
  r"panels\['p'\]\['a'\]": lambda: plots.bands([0, 1], {"p": {"a": ([1], [0])}}, xlabel="", ylabel=""),
  "dilations": lambda: plots.convolutional_matrices(np.ones((2, 2, 1, 1)), (4, 4, 1), dilations=()),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_argument(name):
  with pytest.raises(ValueError, match=f"^{name}" if "expected" in name else f"^{name}: expected"):
    BAD[name]()


@pytest.mark.parametrize("name", ["reconstruction", "observed"])
def test_signals_of_another_shape(name):
  with pytest.raises(ValueError, match=f"^{name}: expected the shape of the signal"):
    plots.signal(np.zeros((5, 2)), **{name: np.zeros((4, 2))})
