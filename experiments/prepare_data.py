"""Fills the cache of a data set ahead of a run.

    python -m experiments.prepare_data --dataset=cifar10 --data_dir=DIR
    python -m experiments.prepare_data --dataset=cifar10 --data_dir=DIR --shards=FOLDER

The first reads what TFDS has prepared in DIR, or downloads. The second reads a folder of image
sheets (see `experiments.image_sheets`) and needs neither TFDS nor a network. Copied to another machine,
DIR/cscjax_cache is all that a run needs there.
"""

from absl import flags

from cscjax.data import IMAGE_SETS, cache_folder, fill_cache, find_data_dir
from experiments import cli
from experiments.image_sheets import read_sheets


def define_flags() -> None:
  """Defines this command's flags; not at import, where they would clash with other commands'."""
  flags.DEFINE_enum("dataset", "cifar10", tuple(IMAGE_SETS), "Data set to prepare.")
  cli.define_path("data_dir", None, "TFDS's data directory; TFDS's own by default.")
  cli.define_path("shards", None, "Folder of image sheets to read instead of TFDS.")


def main() -> None:
  """Fills the cache that the flags ask for and says in one line what is there now."""
  name, data_dir, shards = flags.FLAGS.dataset, flags.FLAGS.data_dir, flags.FLAGS.shards
  splits = None if shards is None else read_sheets(shards, name)
  train, test = fill_cache(name, data_dir=data_dir, splits=splits)
  folder = cache_folder(find_data_dir(data_dir), name)
  print(f"{name}: {len(train)} train and {len(test)} test images in {folder}")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
