"""Dictionaries and networks in two files: NAME.safetensors, and NAME.json with the card."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from cscjax import checks
from cscjax.dictionaries import ConvDictionary

if TYPE_CHECKING:  # importing the networks takes a second
  from cscjax.runs import LoadedRun

CARD_FIELDS = ("description", "data", "licence", "protocol", "result", "device", "date")
"""The fields of a card, each with a text."""
_SHIPPED = pathlib.Path(__file__).parent / "files"


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A pretrained dictionary or network, as `load_pretrained` returns it.

  `print` shows its name and its card.

  Attributes:
    name: The name.
    card: How it was made, a text for each of `cscjax.pretrained.CARD_FIELDS`: its description, the data
      and their licence, the protocol of the training, the result, the device, and the date.

  Example:
    >>> import cscjax
    >>> shipped = cscjax.load_pretrained("grey-8x8")
    >>> shipped.dictionary.filters.shape
    (8, 8, 1, 64)
    >>> print(shipped)
    grey-8x8
    description: ...
    licence: ...
  """

  name: str
  card: dict[str, str]
  _value: "ConvDictionary | LoadedRun" = dataclasses.field(repr=False)

  @property
  def dictionary(self) -> ConvDictionary:
    """The dictionary.

    Raises:
      ValueError: If this is a network.
    """
    if not isinstance(self._value, ConvDictionary):
      raise ValueError(f"{self.name} is a network; use .network")
    return self._value

  @property
  def network(self) -> "LoadedRun":
    """The network, with `predict`, `codes`, `certify` and `export`.

    Raises:
      ValueError: If this is a dictionary.
    """
    if isinstance(self._value, ConvDictionary):
      raise ValueError(f"{self.name} is a dictionary; use .dictionary")
    return self._value

  def __str__(self) -> str:
    fields = [f"{key}: {value}" for key, value in self.card.items()]
    lines = [textwrap.fill(field, 100, subsequent_indent="  ") for field in fields]
    return "\n".join([self.name, *lines])


def pretrained_names(folder: str | os.PathLike[str] | None = None) -> list[str]:
  """Lists the names that `load_pretrained` can load.

  Args:
    folder: A directory with files of `save_pretrained`. If None, the names of the dictionaries and
      networks that are shipped with cscjax.

  Returns:
    The names in alphabetical order.

  Example:
    >>> from cscjax.pretrained import pretrained_names
    >>> pretrained_names()
    ['colour-8x8', 'digits', 'grey-8x8', 'grey-multiscale']
  """
  return sorted(path.stem for path in _place(folder).glob("*.safetensors"))


def load_pretrained(name: str, *, folder: str | os.PathLike[str] | None = None) -> Pretrained:
  """Loads a pretrained dictionary or network by its name.

  The checksum of its file is verified.

  Args:
    name: One of `cscjax.pretrained.pretrained_names(folder)`.
    folder: A directory with files of `save_pretrained`. If None, the dictionaries and networks that are
      shipped with cscjax.

  Returns:
    A `Pretrained`: `.dictionary` is a `ConvDictionary`, `.network` a `cscjax.runs.LoadedRun`, and
    `.card` describes how it was made.

  Raises:
    ValueError: If the name is unknown, its files are damaged, or it is of another version of the
      network.
    OSError: If a file cannot be read.

  Example:
    >>> import cscjax
    >>> D = cscjax.load_pretrained("colour-8x8").dictionary
    >>> D.filters.shape
    (8, 8, 3, 64)
    >>> network = cscjax.load_pretrained("digits").network
    >>> images = network.load_dataset().test.images
    >>> network.predict(images[:3]).labels.tolist(), images.shape
    ([7, 6, 3], (360, 8, 8, 1))
  """
  names = pretrained_names(folder)
  if not names:
    checks.fail("folder", folder, "a directory with files of save_pretrained")
  checks.one_of("name", name, names)
  path = _place(folder) / f"{name}.safetensors"
  weights = path.read_bytes()
  try:
    found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    card = _checked_card(found["card"])
    if found["sha256"] != hashlib.sha256(weights).hexdigest():
      raise ValueError("its checksum is not the one of its card")
    if checks.one_of("kind", found["kind"], ("dictionary", "network")) == "network":
      from cscjax.runs import load_weights

      return Pretrained(name, card, load_weights(path))
    filters = jnp.asarray(safetensors.numpy.load(weights)["filters"])
    return Pretrained(name, card, ConvDictionary(filters, **found["geometry"]))
  except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
    raise ValueError(f"name: {path} cannot be used: {checks.one_line(error)}") from error


def save_pretrained(
  value: "ConvDictionary | LoadedRun",
  name: str,
  folder: str | os.PathLike[str],
  card: Mapping[str, str],
) -> None:
  """Writes a dictionary or a trained network to a folder, from which `load_pretrained` loads it.

  Two files are written: NAME.safetensors with the weights, and NAME.json with the card and the SHA-256
  of the other file. Neither contains paths of this machine. Files of the same name are replaced.

  Args:
    value: The dictionary, or a network that `cscjax.runs.load_run` loaded.
    name: The name, of letters, digits, dots, hyphens and underscores.
    folder: The directory, which is created if it does not exist.
    card: How it was made: a text for each of `cscjax.pretrained.CARD_FIELDS`.

  Raises:
    ValueError: If an argument is not as described.
    OSError: If the files cannot be written.

  Example:
    >>> import jax
    >>> import cscjax
    >>> from cscjax.pretrained import CARD_FIELDS, save_pretrained
    >>> D = cscjax.ConvDictionary(jax.random.normal(jax.random.key(0), (5, 5, 1, 4)), padding="CIRCULAR")
    >>> card = dict.fromkeys(CARD_FIELDS, "unknown") | {"description": "Four random atoms."}
    >>> save_pretrained(D, "random", "published", card)
    >>> loaded = cscjax.load_pretrained("random", folder="published")
    >>> bool((loaded.dictionary.filters == D.filters).all()), loaded.dictionary.padding
    (True, 'CIRCULAR')
    >>> loaded.card["description"]
    'Four random atoms.'
  """
  if not re.fullmatch(r"\w[\w.-]*", str(name), re.ASCII):
    checks.fail("name", name, "letters, digits, dots, hyphens and underscores")
  description: dict[str, Any] = {"card": _checked_card(card)}
  if not (isinstance(value, ConvDictionary) or hasattr(value, "save_weights")):
    checks.fail("value", value, "a ConvDictionary or a LoadedRun")
  from cscjax.runs import replaced

  path = pathlib.Path(folder) / f"{name}.safetensors"
  path.parent.mkdir(parents=True, exist_ok=True)
  # Both files are complete before either replaces a former one.
  with replaced(path) as weights, replaced(path.with_suffix(".json")) as text:
    if isinstance(value, ConvDictionary):
      filters = {"filters": np.asarray(value.filters, order="C")}
      weights.write_bytes(safetensors.numpy.save(filters))
      description |= {"kind": "dictionary", "geometry": value.geometry}
    else:
      value.save_weights(weights)
      description |= {"kind": "network"}
    description["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    text.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _place(folder: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns the directory of the files."""
  return _SHIPPED if folder is None else pathlib.Path(folder)


def _checked_card(card: Mapping[str, str]) -> dict[str, str]:
  """Returns a card after checking that it has a text for each field."""
  is_complete = isinstance(card, Mapping) and set(card) == set(CARD_FIELDS)
  if not is_complete or not all(isinstance(text, str) and text for text in card.values()):
    checks.fail("card", card, "a text for each of " + ", ".join(CARD_FIELDS))
  return {key: card[key] for key in CARD_FIELDS}
