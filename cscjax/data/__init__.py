"""Data sets: from a name to labelled arrays in host memory.

`load_dataset` gives one of `DATASETS`, `gaussian_centers` makes one of other sizes. Natural images
(`IMAGE_SETS`) are decoded once into a cache, which `fill_cache` writes ahead of time.
"""

from cscjax.data._builtin import gaussian_centers
from cscjax.data._cache import cache_folder
from cscjax.data._dataset import IMAGE_SETS, DataError, Dataset, Split
from cscjax.data._load import DATASETS, dataset_shape, fill_cache, find_data_dir, load_dataset

__all__ = [
  "DATASETS",
  "IMAGE_SETS",
  "DataError",
  "Dataset",
  "Split",
  "cache_folder",
  "dataset_shape",
  "fill_cache",
  "find_data_dir",
  "gaussian_centers",
  "load_dataset",
]
