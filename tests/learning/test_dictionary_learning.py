"""Tests of learn_dictionary: planted dictionaries, a step in dense algebra, supports, resuming."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal

from cscjax.learning import DictionaryLearner, LearningState, learn_dictionary
from tests import references

ATOMS, SIZE = 4, 5


def _planted(rank=2, side=24, channels=1, images=12, nonnegative=False):
  """Returns filters [k.., C, m] of norm 1 and periodic images, with codes that are 2 % nonzero."""
  rng = np.random.default_rng(0)
  filters = rng.normal(size=(*(SIZE,) * rank, channels, ATOMS))
  filters /= _norms(filters)
  shape = (images, *(side,) * rank, ATOMS)
  code = rng.choice([-1, 1], shape) * rng.uniform(1, 2, shape) * (rng.uniform(size=shape) < 0.02)
  code = np.abs(code) if nonnegative else code
  d = references.conv_matrix(filters, (side,) * rank, padding="CIRCULAR")
  x = code.reshape(images, -1) @ d.T
  return filters, np.float32(x.reshape(images, *(side,) * rank, channels))


def _norms(filters):
  return np.linalg.norm(np.asarray(filters).reshape(-1, filters.shape[-1]), axis=0)


def _of_rank_1(filters):
  """Returns the nearest filters whose atoms have rank 1, as matrices of taps and channels."""
  left, values, right = np.linalg.svd(np.moveaxis(filters, -1, 0).reshape(filters.shape[-1], -1, 2))
  nearest = values[:, :1, None] * left[:, :, :1] * right[:, :1]
  return np.moveaxis(nearest, 0, -1).reshape(filters.shape)


def _recovered(learned, planted, signed):
  """Returns how many planted atoms have a correlation above 0.95 with a learned atom at some shift."""
  found = 0
  for a in np.moveaxis(planted, -1, 0):
    best = 0
    for b in np.moveaxis(np.asarray(learned, np.float64), -1, 0):
      # The channels must not be shifted: shift 0 is in the middle of the last axis.
      correlation = scipy.signal.correlate(a, b)[..., a.shape[-1] - 1]
      best = max(best, np.max(correlation if signed else np.abs(correlation)))
    found += best > 0.95
  return found


@pytest.mark.slow
@pytest.mark.parametrize(
  ("rank", "side", "channels", "nonnegative"), [(2, 16, 3, True), (1, 200, 1, False)]
)
def test_recovers_a_planted_dictionary(rank, side, channels, nonnegative):
  """The kernel has room for a shift, and there are two atoms too many."""
  planted, x = _planted(rank, side, channels, nonnegative=nonnegative)
  arguments = {"kernel": ((SIZE + 2, ATOMS + 2),), "batch_size": 4, "nonnegative": nonnegative}
  result = learn_dictionary(x, 0.3, steps=100, key=jax.random.key(1), **arguments)
  learned = result.dictionary.filters
  assert _recovered(learned, planted, nonnegative) >= 3
  np.testing.assert_allclose(_norms(learned), 1, rtol=1e-5)
  assert np.mean(result.objective[-10:]) < 0.75 * result.objective[0]
  # Noise does not meet the criterion.
  noise = np.random.default_rng(1).normal(size=learned.shape)
  assert _recovered(noise / _norms(noise), planted, nonnegative) == 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
  ("padding", "nonnegative", "rank1", "masked"),
  [
    ("CIRCULAR", False, False, True),
    ("SAME", True, False, False),
    pytest.param("SAME", False, True, True, marks=pytest.mark.slow),
  ],
)
def test_one_step_against_dense_algebra(padding, nonnegative, rank1, masked):
  rng = np.random.default_rng(1)
  x, filters = rng.normal(size=(3, 4, 5, 2)), rng.normal(size=(3, 2, 2, 3))
  weights = rng.choice([0, 0.3, 1], size=(3, 4, 5, 1)) if masked else np.ones((1, 1, 1, 1))
  filters = _of_rank_1(filters) if rank1 else filters
  filters /= _norms(filters)
  beta, rate = np.array([0.5, 0.3, 0.4]), 0.2
  result = learn_dictionary(
    np.where(weights > 0, x, np.nan),
    beta,
    mask=weights[..., 0] if masked else None,
    kernel=(((3, 2), 3),),
    steps=1,
    coding_iterations=800,
    padding=padding,
    nonnegative=nonnegative,
    rank1=rank1,
    optimizer=optax.sgd(rate),
    init=filters,
  )
  roots = np.sqrt(np.broadcast_to(weights, x.shape)).reshape(3, -1)
  d = references.conv_matrix(filters, (4, 5), padding=padding)
  betas = np.tile(beta, 20)
  codes = [
    references.pursue(
      *(root[:, None] * d, root * signal.ravel(), betas, 3000),
      nonnegative=nonnegative,
      accelerate=True,
    )
    for signal, root in zip(x, roots, strict=True)
  ]
  assert result.objective[0] == pytest.approx(np.mean([trace[-1] for _, trace in codes]))
  used = np.mean([np.count_nonzero(code.reshape(20, 3), axis=0) for code, _ in codes], axis=0)
  np.testing.assert_allclose(result.support_size[0], used)

  def data_term(filters):
    d = references.conv_matrix(filters, (4, 5), padding=padding)
    errors = [
      root * (signal.ravel() - d @ code) for signal, root, (code, _) in zip(x, roots, codes, strict=True)
    ]
    return np.mean([0.5 * error @ error for error in errors])

  gradient = np.zeros_like(filters)
  for index in np.ndindex(filters.shape):
    step = np.zeros_like(filters)
    step[index] = 0.5
    # This difference is exact, because the data term is quadratic.
    gradient[index] = data_term(filters + step) - data_term(filters - step)
  energy = np.mean([np.sum(code.reshape(20, 3) ** 2, axis=0) for code, _ in codes], axis=0)
  expected = filters - rate * gradient / energy.max()
  expected = _of_rank_1(expected) if rank1 else expected
  np.testing.assert_allclose(result.dictionary.filters, expected / _norms(expected), atol=1e-6)


def _noise_images(images=6, side=12, channels=1):
  return np.float32(np.random.default_rng(2).normal(size=(images, side, side, channels)))


def test_atoms_of_several_sizes_keep_their_supports():
  kernel = ((3, 4), ((5, 2), 3), (6, 2))
  result = learn_dictionary(_noise_images(channels=3), 0.5, kernel=kernel, steps=5)
  filters = np.asarray(result.dictionary.filters)
  assert filters.shape == (6, 6, 3, 9)
  np.testing.assert_allclose(_norms(filters), 1, rtol=1e-5)
  for atoms, rows, columns in (
    (filters[..., :4], slice(1, 4), slice(1, 4)),
    (filters[..., 4:7], slice(0, 5), slice(2, 4)),
    (filters[..., 7:], slice(0, 6), slice(0, 6)),
  ):
    assert np.all(atoms[rows, columns] != 0)
    outside = atoms.copy()
    outside[rows, columns] = 0
    assert np.all(outside == 0)


def test_a_resumed_run_ends_with_the_same_bits():
  x = _noise_images(images=5)
  arguments = {"kernel": ((3, 2), (4, 3)), "batch_size": 2}
  whole = learn_dictionary(x, 0.5, steps=4, key=jax.random.key(3), **arguments)
  parts, state = [], None
  for steps in (1, 3):
    key = jax.random.key(3) if state is None else None
    parts.append(learn_dictionary(x, 0.5, steps=steps, key=key, state=state, **arguments))
    state = jax.tree.map(np.asarray, parts[-1].state)  # as if it came from a file
  for got, expected in zip(jax.tree.leaves(state), jax.tree.leaves(whole.state), strict=True):
    np.testing.assert_array_equal(got, expected)
  np.testing.assert_array_equal(np.concatenate([p.objective for p in parts]), whole.objective)
  np.testing.assert_array_equal(np.concatenate([p.support_size for p in parts]), whole.support_size)
  assert whole.state.step == 4


def test_minibatches_take_their_turns():
  """Image i has energy 4^i and a zero code, so that the objective shows which images were drawn."""
  x = np.zeros((5, 4, 4, 1), np.float32)
  x[:, 0, 0, 0] = np.sqrt(2 * 2 * 4.0 ** np.arange(5))
  with pytest.warns(match="^beta: expected less than"):
    result = learn_dictionary(x, 1e3, kernel=((2, 1),), steps=8, batch_size=2, key=jax.random.key(4))
  drawn = []
  for value in np.rint(np.asarray(result.objective)).astype(int):
    images = [i for i in range(5) if value // 4**i % 4]
    assert len(images) == 2
    assert value == sum(4**i for i in images)
    drawn.append(images)
  for first, second in zip(drawn[::2], drawn[1::2], strict=True):
    assert not set(first) & set(second)
  assert len({tuple(sorted(images)) for images in drawn}) > 2


def test_unused_atoms_keep_their_value():
  init = np.random.default_rng(5).normal(size=(3, 3, 1, 2))
  init /= _norms(init)
  with pytest.warns(match="^beta: expected less than"):
    result = learn_dictionary(
      _noise_images(), 1e3, kernel=((3, 2),), steps=3, init=init, replace_unused=None
    )
  assert not np.any(result.support_size)
  np.testing.assert_allclose(result.dictionary.filters, init, rtol=1e-6)


def test_init_is_projected_and_zeros_are_replaced():
  init = np.ones((3, 3, 1, 2)) * [2.0, 0.0]
  with pytest.warns(match="^beta: expected less than"):
    result = learn_dictionary(_noise_images(), 1e3, kernel=((2, 1), (3, 1)), steps=1, init=init)
  filters = np.asarray(result.dictionary.filters)
  np.testing.assert_allclose(filters[:2, :2, 0, 0], 0.5, rtol=1e-6)
  assert not np.any(filters[2, :, 0, 0])
  np.testing.assert_allclose(_norms(filters), 1, rtol=1e-6)
  assert np.std(filters[..., 1]) > 0.1


def test_key_jit_and_types():
  x = _noise_images()
  learn = jax.jit(lambda x, beta, key: learn_dictionary(x, beta, kernel=((3, 2),), steps=2, key=key))
  got = learn(x, 0.5, jax.random.key(0))
  expected = learn_dictionary(x, 0.5, kernel=((3, 2),), steps=2)
  np.testing.assert_allclose(got.dictionary.filters, expected.dictionary.filters, atol=1e-5)
  other = learn(x, 0.5, jax.random.key(1))
  assert np.max(np.abs(other.dictionary.filters - got.dictionary.filters)) > 0.01
  assert got.objective.dtype == got.dictionary.filters.dtype == jnp.float32
  integers = learn_dictionary(np.int32(10 * x), 5, kernel=((3, 2),), steps=1)
  assert integers.dictionary.filters.dtype == jnp.float32


@pytest.mark.slow
def test_images_that_a_compiled_function_closes_over():
  images = jnp.asarray(_noise_images())
  learn = functools.partial(learn_dictionary, images, kernel=((3, 2),), steps=2)
  got = jax.jit(lambda beta: learn(beta).dictionary.filters)(0.5)
  np.testing.assert_allclose(got, learn(0.5).dictionary.filters, atol=1e-5)


_X = np.zeros((2, 6, 6, 1), np.float32)
_FILTERS = jnp.zeros((3, 3, 1, 2))
_STATE = LearningState(
  filters=_FILTERS,
  optimizer=optax.sgd(0.1).init(_FILTERS),
  key=jnp.zeros(2, jnp.uint32),
  step=0,
  objective=0.0,
  support_size=jnp.zeros(2),
  unused=jnp.zeros(2, jnp.int32),
)


@pytest.mark.parametrize(
  ("name", "arguments"),
  [
    ("images", {"images": _X[:0]}),
    ("images", {"images": _X[0, 0]}),
    ("images", {"images": _X[None, None]}),
    ("images", {"images": np.full_like(_X, np.nan)}),
    ("kernel", {"kernel": ((7, 2),)}),
    ("kernel", {"kernel": ((3, 0),)}),
    ("kernel", {"kernel": (((3, 3, 3), 2),)}),
    ("kernel", {"kernel": ()}),
    ("kernel", {"kernel": (3, 2)}),
    ("kernel", {"kernel": 3}),
    ("beta", {"beta": -0.1}),
    ("beta", {"beta": np.ones(3)}),
    ("beta", {"beta": np.nan}),
    ("steps", {"steps": 0}),
    ("batch_size", {"batch_size": 3}),
    ("batch_size", {"batch_size": 0}),
    ("coding_iterations", {"coding_iterations": 0}),
    ("padding", {"padding": "VALID"}),
    ("padding", {"padding": ((1, 1), (1, 1))}),
    ("tolerance", {"steps": None, "tolerance": -1}),
    ("tolerance", {"steps": None, "tolerance": np.ones(2)}),
    ("steps", {"tolerance": 1e-3}),
    ("max_steps", {"max_steps": 5}),
    ("replace_unused", {"replace_unused": 0}),
    ("mask", {"mask": np.ones((2, 6, 5))}),
    ("mask", {"mask": np.full((6, 6), 2.0)}),
    ("images", {"images": np.full_like(_X, np.nan), "mask": np.eye(6)}),
    ("init", {"init": np.ones((3, 3, 1, 3))}),
    ("init", {"init": np.full((3, 3, 1, 2), np.inf)}),
    ("state", {"state": _STATE}),  # the state of another optimizer
    ("state", {"state": _STATE, "optimizer": optax.sgd(0.1), "kernel": ((3, 3),)}),
    ("state", {"state": _STATE, "optimizer": optax.sgd(0.1), "key": jax.random.key(0)}),
  ],
)
def test_bad_input_names_the_argument(name, arguments):
  arguments = {"images": _X, "beta": 0.1, "kernel": ((3, 2),), "steps": 1, **arguments}
  with pytest.raises(ValueError, match=f"^{name}: "):
    learn_dictionary(**arguments)


def test_the_scale_of_the_images_does_not_matter():
  """The squares of these images underflow or overflow in float32."""
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
  run = functools.partial(learn_dictionary, kernel=((3, 4),), steps=3, coding_iterations=5)
  expected = run(images, 0.1)
  for scale in (2.0**-90, 2.0**90):
    result = run(np.float32(scale) * images, np.float32(0.1 * scale))
    np.testing.assert_allclose(result.dictionary.filters, expected.dictionary.filters, atol=1e-6)
    np.testing.assert_array_equal(result.support_size, expected.support_size)


def test_the_scale_of_the_initial_atoms_does_not_matter():
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
  init = np.random.default_rng(1).normal(size=(3, 3, 1, 4)).astype(np.float32)
  run = functools.partial(learn_dictionary, images, 0.1, kernel=((3, 4),), steps=1)
  expected = run(init=init).dictionary.filters
  for scale in (1e-30, 1e30):
    np.testing.assert_allclose(
      run(init=np.float32(scale) * init).dictionary.filters, expected, atol=1e-5
    )


@pytest.mark.slow
def test_a_callback_follows_each_step(capfd):
  _, x = _planted(side=12, images=4)
  run = functools.partial(learn_dictionary, 1e-3 * x, 3e-4, kernel=((SIZE, ATOMS),), steps=5)
  history = []
  result = run(callback=history.append, progress=True)
  assert [stats.iteration for stats in history] == [1, 2, 3, 4, 5]
  assert [stats.is_last for stats in history] == [False] * 4 + [True]
  assert {stats.residual for stats in history} == {None}
  np.testing.assert_array_equal([stats.objective for stats in history], result.objective)
  assert "learn_dictionary: 100%" in capfd.readouterr().err
  DictionaryLearner(kernel=((SIZE, ATOMS),), beta=3e-4).run(1e-3 * x, steps=5, progress=True)
  assert "DictionaryLearner: 100%" in capfd.readouterr().err
  plain = run()
  np.testing.assert_allclose(plain.dictionary.filters, result.dictionary.filters, atol=1e-6)
  run(callback=history.append, state=result.state)  # counts the steps of the call
  assert [stats.iteration for stats in history[5:]] == [1, 2, 3, 4, 5]


def test_without_a_callback_the_program_has_none():
  def program(**arguments):
    run = functools.partial(learn_dictionary, beta=0.1, kernel=((2, 3),), steps=2, **arguments)
    return jax.make_jaxpr(run)(jnp.ones((2, 4, 1)))

  assert program(callback=print).effects
  assert not program().effects
