"""`fit` trains any Flax classifier, alone or as the training loop of a run."""

import contextlib
import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cscjax import data, training

RNG = np.random.default_rng(0)


def split(count):
  """Signals of three classes, which differ in their largest value."""
  labels = RNG.integers(0, 3, count).astype(np.int32)
  signals = np.eye(3)[labels] + 0.3 * RNG.normal(size=(count, 3))
  return data.Split(signals[..., None].astype(np.float32), labels)


DATA = data.Dataset("peaks", 3, *map(split, (22, 7, 5)), np.float32([0.3]), np.float32([0.5]))
NO_VALIDATION = dataclasses.replace(DATA, validation=None)


class Linear(nn.Module):
  """A model of a user: logits that are linear in the normalized signal, whose mean it keeps."""

  @nn.compact
  def __call__(self, x, *, train=False):
    """Returns the logits [N, 3]."""
    x = x[..., 0]
    mean = self.variable("batch_stats", "mean", jnp.zeros, ())
    if train and not self.is_initializing():
      mean.value = 0.9 * mean.value + 0.1 * jnp.mean(x)
    self.sow("intermediates", "code", x)
    kernel = self.param("kernel", nn.initializers.normal(), (3, 3))
    return jnp.dot(x, kernel)


TRAINER = training.Trainer(Linear(), optax.sgd(0.5), optax.constant_schedule(0.5), 4)  # compiled once


LARGE = dataclasses.replace(TRAINER, batch_size=23)


def fitted(dataset=DATA, **options):
  return training.fit(TRAINER, dataset, **{"epochs": 3, **options})


def untimed(rows):
  return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def assert_same(left, right):
  jax.tree.map(np.testing.assert_array_equal, left.variables, right.variables)
  assert untimed(left.rows) == untimed(right.rows)


def test_it_is_adam_on_the_normalized_examples():
  """The reference repeats the steps of the first epoch in NumPy's order of the examples."""
  key = jax.random.key(3)
  outcome = training.fit(Linear(), DATA, epochs=1, batch_size=4, key=key)
  parameter_key, training_key = jax.random.split(key)
  x, y = (DATA.train.images - 0.3) / 0.5, DATA.train.labels
  params = Linear().init(parameter_key, x[:1])["params"]
  shuffle_key, _ = jax.random.split(training_key)
  order = np.asarray(jax.random.permutation(jax.random.fold_in(shuffle_key, 0), 22))[:20]
  optimizer, kernel = optax.adam(1e-3), params["kernel"]
  moments, mean = optimizer.init(kernel), 0.0
  for batch in order.reshape(5, 4):
    logits = np.asarray(x[batch, :, 0] @ kernel)
    errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[y[batch]]
    with jax.numpy_dtype_promotion("standard"):  # Optax promotes types
      changes, moments = optimizer.update(jnp.float32(x[batch, :, 0].T @ errors / 4), moments)
    kernel = kernel + changes
    mean = 0.9 * mean + 0.1 * x[batch].mean()
  np.testing.assert_allclose(outcome.variables["params"]["kernel"], kernel, atol=1e-5)
  np.testing.assert_allclose(outcome.variables["batch_stats"]["mean"], mean, atol=1e-5)
  assert {row["learning_rate"] for row in outcome.rows} == {None}  # it is the optimizer's own


def test_the_validation_split_is_watched_and_the_test_split_comes_last():
  assert [(r["step"], r["split"]) for r in fitted(epochs=2).rows] == [
    (5, "train"),
    (5, "validation"),
    (10, "train"),
    (10, "validation"),
    (10, "test"),
  ]
  assert [r["split"] for r in fitted(NO_VALIDATION, epochs=2).rows] == ["train", "test"] * 2


def test_it_learns():
  outcome = fitted(epochs=40)
  assert outcome.status == "ok"
  assert outcome.rows[-1]["accuracy"] > 0.8
  logits = Linear().apply(outcome.variables, training.normalize(DATA.test.images, DATA.mean, DATA.std))
  assert np.mean(np.argmax(logits, 1) == DATA.test.labels) == outcome.rows[-1]["accuracy"]


def test_a_trainer_and_a_plan_are_used_as_they_are():
  plan = training.Plan(total_steps=12, steps_per_epoch=5, split="validation", evaluate_epochs=2)
  outcome = fitted(epochs=plan)
  assert [r["step"] for r in outcome.rows if r["split"] == "validation"] == [10, 12]
  assert {r["learning_rate"] for r in outcome.rows} == {0.5}


def calls(count) -> Callable[[], bool]:
  """Returns a `stopped` that is True from the call after `count` others."""
  left = iter([False] * count)
  return lambda: next(left, True)


def test_it_resumes_from_its_checkpoints(tmp_path):
  def run(**options):
    checkpoints = training.Checkpoints(str(tmp_path / "checkpoints"))
    with contextlib.closing(checkpoints):
      log = training.MetricsLog(str(tmp_path / "metrics.jsonl"))
      return fitted(epochs=10, checkpoints=checkpoints, log=log, **options)

  stopped = run(stopped=calls(12))
  assert stopped.status == "interrupted"
  assert 0 < int(stopped.state.step) < 50
  resumed = run()
  assert_same(resumed, fitted(epochs=10))
  assert resumed.rows == training.read_metrics(str(tmp_path / "metrics.jsonl"))
  assert run().rows == resumed.rows  # nothing is left to do


def test_training_goes_on_from_a_state():
  first = fitted(epochs=1)
  assert_same(fitted(epochs=3, state=first.state), fitted(epochs=3))


def test_a_state_from_before_the_last_checkpoint_is_refused(tmp_path):
  """The later checkpoints would be restored afterwards, instead of those of the new training."""
  with contextlib.closing(training.Checkpoints(tmp_path / "checkpoints")) as checkpoints:
    last = fitted(epochs=2, checkpoints=checkpoints).state
    assert checkpoints.steps() == [5, 10]
    older = checkpoints.restore(last, step=5).state
    with pytest.raises(ValueError, match=r"^state: expected one of step 10, .* got 'a state of step 5'"):
      fitted(epochs=2, checkpoints=checkpoints, state=older)
    fitted(epochs=3, checkpoints=checkpoints, state=last)
    assert checkpoints.steps() == [10, 15]
  with contextlib.closing(training.Checkpoints(tmp_path / "others")) as checkpoints:
    fitted(epochs=2, checkpoints=checkpoints, state=older)
    assert checkpoints.steps()[-1] == 10


def test_a_new_start_drops_the_rows_of_an_old_one():
  log = training.MetricsLog(None)
  for _ in range(2):
    fitted(epochs=1, log=log)
  assert [row["split"] for row in log.rows] == ["train", "validation", "test"]


def test_progress_is_reported():
  seen = []

  class Progress:
    def trained(self, step, metrics, images_per_second):
      seen.append(step)

    def evaluated(self, row):
      seen.append(row["split"])

  fitted(epochs=1, progress=Progress())
  assert seen[-4:] == [5, "train", "validation", "test"]


def test_progress_is_shown_on_request(capsys):
  fitted(epochs=1)
  assert capsys.readouterr().err == ""
  fitted(epochs=1, progress=True)
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith("step 1/5  loss")
  assert [line.split()[2] for line in lines[1:]] == ["train", "validation", "test"]


def test_a_loss_that_is_not_finite_is_told():
  bad = dataclasses.replace(DATA, mean=np.float32([np.nan]))
  assert fitted(bad).status == "diverged"


class TwoClasses(nn.Module):
  """A model for too few classes, with which the loss of the third class would be NaN."""

  @nn.compact
  def __call__(self, x, *, train=False):
    """Returns logits [N, 2]."""
    del train
    return nn.Dense(2)(x[..., 0])


@pytest.mark.parametrize(
  ("message", "model", "options"),
  [
    ("batch_size: expected at most 22, the training examples, got 23", Linear(), {"batch_size": 23}),
    ("batch_size: expected an integer >= 1", Linear(), {"batch_size": 0}),
    ("epochs: expected an integer >= 1", Linear(), {"epochs": 0, "batch_size": 4}),
    ("key: expected a key made by jax.random.key, got 0", Linear(), {"key": 0, "batch_size": 4}),
    ("batch_size: expected None with a Trainer, which has its own, got 4", TRAINER, {"batch_size": 4}),
    ("optimizer: expected None with a Trainer", TRAINER, {"optimizer": optax.sgd(0.1)}),
    ("optimizer: expected an Optax optimizer, got 'adam'", Linear(), {"optimizer": "adam"}),
    ("model: expected a Flax module", jax.nn.relu, {}),
    (
      "epochs: expected a plan with steps_per_epoch=5, .* got Plan",
      TRAINER,
      {"epochs": training.Plan(8, 4)},
    ),
    ("batch_size: expected at most 22", LARGE, {"epochs": training.Plan(8, 4)}),
    (r"model: expected logits \[N, 3\] for images .*, got \(1, 2\)", TwoClasses(), {"batch_size": 4}),
  ],
)
def test_bad_arguments(message, model, options):
  with pytest.raises(ValueError, match=f"^{message}"):
    training.fit(model, DATA, **{"epochs": 1, **options})


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("total_steps", 0),
    ("steps_per_epoch", 2.0),
    ("evaluate_epochs", 0),
    ("split", "train"),
    ("checkpoint_seconds", -1),
    ("dispatch_seconds", float("nan")),
    ("keep_best", "no"),
  ],
)
def test_a_plan_out_of_range(name, value):
  with pytest.raises(ValueError, match=f"^{name}: expected "):
    training.Plan(**{"total_steps": 10, "steps_per_epoch": 5, name: value})


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("shift", -1), ("flip", "no")])
def test_a_trainer_out_of_range(name, value):
  with pytest.raises(ValueError, match=f"^{name}: expected "):
    dataclasses.replace(TRAINER, **{name: value})


def test_data_that_are_not_a_data_set():
  with pytest.raises(ValueError, match=r"^data: expected a data set, such as one of"):
    training.fit(Linear(), (DATA.train.images, DATA.train.labels), epochs=1)


def test_a_plan_for_a_split_that_is_not_there():
  plan = training.Plan(10, 5, split="validation")
  with pytest.raises(
    ValueError, match=r"^split: expected a split of the data set, which has no validation"
  ):
    fitted(NO_VALIDATION, epochs=plan)
