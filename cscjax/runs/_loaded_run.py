"""A trained network and what is done with it: predictions, codes, certificates, export, weights."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cscjax import checks, theory, training
from cscjax.data import DataError, Dataset, DatasetInfo, load_dataset
from cscjax.dictionaries import CodedLayer
from cscjax.runs._config import DEFAULT, Config
from cscjax.runs._weights import write_weights

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # of JAX
_BATCH = 256  # largest number of images that `predict` passes to the network at once


class Prediction(NamedTuple):
  """The prediction of a network for images, returned by `LoadedRun.predict`.

  Attributes:
    labels: The most probable class of each image, int32 [N].
    probabilities: The probability of each class, float32 [N, num_classes].
  """

  labels: np.ndarray
  probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class LoadedRun:
  """A trained network, loaded by `load_run` or `load_weights`.

  The methods take images as they are in the data set, not normalized: uint8 in 0..255, or floating-point
  values on the scale 0 to 1. If the data set consists of floating-point signals, they take these.

  Attributes:
    config: The configuration of the run.
    model: The network.
    variables: Parameters and running statistics for `model.apply`, in host memory.
    step: Number of training steps of the checkpoint.
    recorded: What the run recorded about its data set, None for a run of cscjax 0.1.0. See `info`.

  Example:
    >>> from cscjax import runs
    >>> config = runs.Config(
    ...   model="msdnet", dataset="digits", depth=1, width=4, epochs=3, workdir="runs/a",
    ...   compilation_cache="off",
    ... )
    >>> summary = runs.execute(runs.make_run(config), progress=False)
    >>> trained = runs.load_run("runs/a")
    >>> test = trained.load_dataset().test
    >>> prediction = trained.predict(test.images)
    >>> prediction.labels.shape, prediction.probabilities.shape
    ((360,), (360, 10))
    >>> abs(float((prediction.labels == test.labels).mean()) - summary["test_accuracy"]) < 1e-6
    True
    >>> trained
    LoadedRun(model='msdnet', dataset='digits', workdir='runs/a', step=33)
    >>> trained.info.class_names[4]
    '4'
  """

  config: Config
  model: nn.Module
  variables: dict[str, Any]
  step: int
  recorded: DatasetInfo | None

  def __repr__(self) -> str:
    shown = {name: getattr(self.config, name) for name in ("model", "dataset", "workdir")}
    fields = ", ".join(f"{name}={value!r}" for name, value in (shown | {"step": self.step}).items())
    return f"LoadedRun({fields})"

  @functools.cached_property
  def info(self) -> DatasetInfo:
    """Shape, type, classes and normalization of the data set.

    For a run of cscjax 0.1.0, which did not record them, they are computed from the data set.

    Raises:
      DataError: If they have to be computed, and the data are missing or damaged.
      MissingExtraError: If a package that reads the data is not installed.
    """
    if self.recorded is not None:
      return self.recorded
    try:
      return self.load_dataset().info
    except DataError as error:
      raise DataError(
        f"the run did not record the mean and std of its data set, and they cannot be computed: {error}"
      ) from error

  def predict(self, images: ArrayLike) -> Prediction:
    """Classifies images.

    Args:
      images: Any number of images [N, H, W, C] or signals [N, L, C], not normalized.

    Returns:
      The labels and the probabilities of all classes, in host memory.

    Raises:
      ValueError: If the images have another shape, type or scale than those of the data set.
      DataError: If the statistics of the data set are neither recorded nor can be computed.
    """
    images = self._checked(images)
    constants = jax.device_put((self.variables, self.info.mean, self.info.std))
    parts = [(np.zeros(0, np.int32), np.zeros((0, self.info.num_classes), np.float32))]
    with self._precision():
      for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        count = len(batch)
        # Batches are filled up to a power of two, so that few programs are compiled.
        filled = np.resize(batch, (1 << (count - 1).bit_length(), *batch.shape[1:]))
        labels, probabilities = jax.device_get(_classify(self.model, *constants, filled))
        parts.append((labels[:count], probabilities[:count]))
    return Prediction(*map(np.concatenate, zip(*parts, strict=True)))

  def codes(self, images: ArrayLike) -> list[CodedLayer]:
    """Computes the sparse codes of images in all layers.

    Args:
      images: Images [N, H, W, C] or signals [N, L, C], not normalized, at least one. All of them are
        encoded together, so their codes have to fit in the memory of the device.

    Returns:
      One `CodedLayer` (dictionary, signal, code) per layer, for `cscjax.plots.layers` and others. The
      signal of the first layer is the normalized images.

    Raises:
      ValueError: If there are no images, or they have another shape, type or scale than those of the
        data set.
      DataError: If the statistics of the data set are neither recorded nor can be computed.
    """
    images = self._checked(images, at_least=1)
    with self._precision():
      return _encode(self.model, self.variables, self.info.mean, self.info.std, images)

  def certify(self, images: ArrayLike, noise: float = 0.0) -> theory.Certificate:
    """Certifies the uniqueness and the stability of the codes of images, see `cscjax.certify`.

    Args:
      images: Images [N, H, W, C] or signals [N, L, C], not normalized, at least one.
      noise: The bound >= 0 on the noise of the normalized images, ||E||^P_{2,inf}. The default is 0.

    Returns:
      The certificate, which prints as a table with a row per layer.

    Raises:
      ValueError: If `noise` is negative, if there are no images, or if they have another shape, type or
        scale than those of the data set.
      DataError: If the statistics of the data set are neither recorded nor can be computed.
    """
    layers = self.codes(images)
    return theory.certify(_Coded(layers), layers[0].signal, noise)

  def certify_labels(self, images: ArrayLike, *, steps: int = 50) -> theory.LabelCertificate:
    """Certifies the radius within which the labels cannot change, see `cscjax.theory.certify_labels`.

    Args:
      images: Images [N, H, W, C] or signals [N, L, C], not normalized, at least one.
      steps: Number of gradient steps in each of the two parts of the attack, at least 1. The default is
        50.

    Returns:
      A `LabelCertificate`, whose distances are those of normalized images.

    Raises:
      ValueError: If `steps` is not an integer of at least 1, if there are no images, or if they have
        another shape, type or scale than those of the data set.
      DataError: If the statistics of the data set are neither recorded nor can be computed.
    """
    images = self._checked(images, at_least=1)
    with self._precision():
      return _certify_labels(self.model, steps, self.variables, self.info.mean, self.info.std, images)

  def export(self, platforms: Sequence[str] = ("cpu", "cuda")) -> jax.export.Exported:
    """Exports the network with its weights and normalization, for programs without cscjax.

    Args:
      platforms: The platforms that the exported function can run on, of "cpu", "cuda", "rocm" and "tpu".
        The default is ("cpu", "cuda").

    Returns:
      The exported function. It maps any number of images, of the type of the data set and not
      normalized, to the probabilities [N, num_classes]. Save `exported.serialize()`; then, in any
      process with JAX, `jax.export.deserialize(saved).call(images)` computes the same.

    Raises:
      ValueError: If there is no platform, or an unknown one.
      DataError: If the statistics of the data set are neither recorded nor can be computed.
    """
    info = self.info
    if isinstance(platforms, str) or not platforms:
      checks.fail("platforms", platforms, f"a sequence of {', '.join(_PLATFORMS)}")
    platforms = tuple(checks.one_of("platforms", platform, _PLATFORMS) for platform in platforms)

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
      return _classify(self.model, self.variables, info.mean, info.std, images)[1]

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *info.example_shape), info.dtype)
    with self._precision():
      return jax.export.export(probabilities, platforms=platforms)(images)

  def save_weights(self, path: str | os.PathLike[str]) -> None:
    """Saves the network to a single file, from which `load_weights` loads it.

    The file is in the format safetensors. Its tensors are the variables, named by their paths, such as
    "params/layer_0/filters". Its metadata describe the network and its data set; they do not contain
    paths of this machine.

    Args:
      path: The file, which is replaced if it exists.

    Raises:
      OSError: If the file cannot be written.
      DataError: If the statistics of the data set are neither recorded nor can be computed.
    """
    write_weights(pathlib.Path(path), self.config, self.variables, self.step, self.info)

  def load_dataset(self, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads the data set of the run, with the same splits and normalization.

    Args:
      data_dir: The data directory; by default that of the run.

    Returns:
      The data set, in host memory.

    Raises:
      DataError: If the data are missing or damaged, or not those with which the run was trained.
      MissingExtraError: If a package that reads the data is not installed.
    """
    dataset = load_dataset(
      self.config.dataset,
      data_dir=self.config.data_dir if data_dir is None else data_dir,
      cache_dir=self.config.cache_dir,
      validation_fraction=self.config.validation_fraction,
      train_examples=self.config.train_examples,  # the normalization depends on them
      download=self.config.download,
    )
    expected = None if self.recorded is None else self.recorded.fingerprint
    if expected not in (None, dataset.info.fingerprint):
      raise DataError(f"dataset: {self.config.dataset} has changed since the run was trained")
    return dataset

  def _checked(self, images: ArrayLike, at_least: int = 0) -> np.ndarray:
    """Returns the images as uint8 or float32 after checking that they are like those of the data set."""
    info, array = self.info, np.asarray(checks.real_array("images", images))
    if array.shape[1:] != info.example_shape:
      expected = ", ".join(map(str, ("N", *info.example_shape)))
      checks.fail("images", array.shape, f"an array of shape [{expected}]")
    if len(array) < at_least:
      checks.fail("images", array.shape, "at least one image")
    if info.dtype == array.dtype == np.uint8:
      return array
    if not jnp.issubdtype(array.dtype, jnp.floating):
      also = "uint8 or " if info.dtype == "uint8" else ""
      checks.fail("images", array.dtype.name, f"an array of {also}floating-point type")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
      checks.fail("images", "NaN or infinity", "finite values")
    if info.dtype == "uint8" and array.size and array.mean() > 1:
      expected = "floating-point images on the scale 0 to 1"
      checks.fail("images", f"a mean of {array.mean():.3g}", expected)
    return array

  def _precision(self) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which matrix products have the precision of the run."""
    if self.config.matmul_precision == DEFAULT:
      return contextlib.nullcontext()
    return jax.default_matmul_precision(self.config.matmul_precision)


class _Coded(NamedTuple):
  """Layers that are computed already, in the form of a network for `cscjax.certify`."""

  layers: list[CodedLayer]

  def pursuit_layers(self, x: jax.Array) -> list[CodedLayer]:
    del x
    return self.layers


@functools.partial(jax.jit, static_argnums=0)
def _classify(
  model: nn.Module, variables: Any, mean: Any, std: Any, images: Any
) -> tuple[jax.Array, jax.Array]:
  """Returns the labels and the probabilities of a batch."""
  logits: Any = model.apply(variables, training.normalize(images, mean, std), train=False)
  return jnp.argmax(logits, axis=-1).astype(jnp.int32), jax.nn.softmax(logits)


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Any, variables: Any, mean: Any, std: Any, images: Any) -> list[CodedLayer]:
  """Returns the layers of the pursuit for a batch."""
  return model.bind(variables).pursuit_layers(training.normalize(images, mean, std))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _certify_labels(
  model: Any, steps: int, variables: Any, mean: Any, std: Any, images: Any
) -> theory.LabelCertificate:
  """Certifies the labels of a batch, with one program for all networks of the same form."""
  x = training.normalize(images, mean, std)
  return theory.certify_labels(model.bind(variables), x, steps=steps)
