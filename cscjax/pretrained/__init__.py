"""Pretrained dictionaries and networks: files of weights with a checksum and a card.

`load_pretrained` loads one by its name, `pretrained_names` lists the names, and `save_pretrained` writes
a dictionary or a trained network of your own to a folder. These are shipped with cscjax:

- `"grey-8x8"`, `"grey-multiscale"` and `"colour-8x8"` are dictionaries learned from photographs.
- `"digits"` is a small network that classifies handwritten digits of 8x8 pixels.

Print what `load_pretrained` returns to see its card: the data with their licence, how it was trained,
and its result.
"""

from cscjax.pretrained._pretrained import (
  CARD_FIELDS,
  Pretrained,
  load_pretrained,
  pretrained_names,
  save_pretrained,
)

__all__ = ["CARD_FIELDS", "Pretrained", "load_pretrained", "pretrained_names", "save_pretrained"]
