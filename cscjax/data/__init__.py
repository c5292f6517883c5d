"""Data sets: from a name to labelled arrays in host memory."""

from cscjax.data.dataset import DataError, Dataset, Split
from cscjax.data.load import DATASETS, dataset_shape, load_dataset
from cscjax.data.synthetic import gaussian_centers

__all__ = [
  "DATASETS",
  "DataError",
  "Dataset",
  "Split",
  "dataset_shape",
  "gaussian_centers",
  "load_dataset",
]
