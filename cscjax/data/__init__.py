"""Data sets: from a name to labelled arrays in host memory."""

from cscjax.data._cache import cache_folder
from cscjax.data._dataset import DataError, Dataset, Split
from cscjax.data._image_sets import IMAGE_SETS, one_line
from cscjax.data._load import (
  DATASETS,
  dataset_shape,
  fill_cache,
  find_data_dir,
  load_dataset,
  load_images,
)
from cscjax.data._shards import read_shards
from cscjax.data._synthetic import gaussian_centers

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
  "load_images",
  "one_line",
  "read_shards",
]
