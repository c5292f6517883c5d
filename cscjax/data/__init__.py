"""Labelled data sets for classification, as NumPy arrays in host memory.

`load_dataset` loads one of `DATASETS`, an .npz file or a folder of images. `make_dataset` takes arrays,
and `gaussian_centers` simulates data of any size. The sets of natural images (`IMAGE_SETS`) are decoded
once into a cache, which `fill_cache` can write ahead of time.
"""

from cscjax.data._arrays import make_dataset
from cscjax.data._builtin import gaussian_centers
from cscjax.data._cache import cache_folder, find_cache_dir
from cscjax.data._dataset import IMAGE_SETS, DataError, Dataset, Split
from cscjax.data._info import DatasetInfo
from cscjax.data._load import (
  DATASETS,
  check_name,
  dataset_shape,
  fill_cache,
  find_data_dir,
  load_dataset,
)

__all__ = [
  "DATASETS",
  "IMAGE_SETS",
  "DataError",
  "Dataset",
  "DatasetInfo",
  "Split",
  "cache_folder",
  "check_name",
  "dataset_shape",
  "fill_cache",
  "find_cache_dir",
  "find_data_dir",
  "gaussian_centers",
  "load_dataset",
  "make_dataset",
]
