"""Checksums within JSON objects: a sealed object tells whether any of its values was changed."""

import hashlib
import json
from typing import Any

CHECKSUM = "checksum"
"""The key under which a sealed object holds its checksum."""


def seal(fields: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields followed by a checksum of them.

  Args:
    fields: A JSON object without the key "checksum".

  Example:
    >>> seal({"step": 1})
    {'step': 1, 'checksum': '66acd07fcea20439'}
  """
  return {**fields, CHECKSUM: _checksum(fields)}


def unseal(sealed: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields of an object from `seal`, after checking them; the inverse of `seal`.

  Args:
    sealed: A JSON object. One without a checksum is returned as it is.

  Raises:
    ValueError: If the checksum does not match the fields.

  Example:
    >>> unseal(seal({"step": 1}))
    {'step': 1}
  """
  fields = {key: value for key, value in sealed.items() if key != CHECKSUM}
  if CHECKSUM in sealed and sealed[CHECKSUM] != _checksum(fields):
    raise ValueError("its checksum does not match its values")
  return fields


def _checksum(fields):
  return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]
