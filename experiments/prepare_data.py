"""Fills the cache of a data set before a run.

    python -m experiments.prepare_data --dataset=cifar10 --cache_dir=DIR
    python -m experiments.prepare_data --dataset=cifar10 --cache_dir=DIR --shards=FOLDER

The first command reads the data that TensorFlow Datasets (TFDS) has prepared, or downloads them.
The second one reads a folder of image sheets (see `experiments.image_sheets`) and needs neither TFDS nor
a network. A run on another machine needs nothing but a copy of DIR, as its --cache_dir.
"""

from absl import flags

from cscjax.data import IMAGE_SETS, cache_folder, fill_cache, find_cache_dir
from experiments import cli
from experiments.image_sheets import read_sheets


def define_flags() -> None:
  """Defines the flags of this command; not at import, where they would clash with other commands."""
  flags.DEFINE_enum("dataset", "cifar10", tuple(IMAGE_SETS), "Data set to prepare.")
  cli.define_path(
    "data_dir",
    None,
    "Data directory of TensorFlow Datasets. $TFDS_DATA_DIR or ~/tensorflow_datasets if not given.",
  )
  cli.define_path(
    "cache_dir",
    None,
    "Directory of the cache. If it is not given, it is that of a run without --cache_dir.",
  )
  cli.define_path(
    "shards", None, "Folder of image sheets to read instead of the data of TensorFlow Datasets."
  )


def main() -> None:
  """Fills the cache of the data set and prints the number of its images and their folder."""
  args = flags.FLAGS
  name, cache_dir = args.dataset, args.cache_dir
  splits = None if args.shards is None else read_sheets(args.shards, name)
  train, test = fill_cache(name, data_dir=args.data_dir, cache_dir=cache_dir, splits=splits)
  folder = cache_folder(find_cache_dir(cache_dir), name)
  print(f"{name}: {len(train)} train and {len(test)} test images in {folder}")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
