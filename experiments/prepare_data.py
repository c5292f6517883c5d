"""Fills the cache of a data set ahead of a run.

    python -m experiments.prepare_data --dataset=cifar10 --data_dir=DIR
    python -m experiments.prepare_data --dataset=cifar10 --data_dir=DIR --shards=FOLDER

The first reads what TFDS has prepared in DIR, or downloads. The second reads a folder of image
sheets (see `cscjax.data.shards`) and needs neither TFDS nor a network. Copied to another machine,
DIR/cscjax_cache is all that a run needs there.
"""

from absl import flags

from cscjax.data import IMAGE_SETS, cache_folder, fill_cache, find_data_dir, load_images, read_shards
from experiments import cli


def define_flags() -> None:
  """Defines this command's flags; not at import, where they would clash with other commands'."""
  flags.DEFINE_enum("dataset", "cifar10", tuple(IMAGE_SETS), "Data set to prepare.")
  cli.define_path("data_dir", None, "TFDS's data directory; TFDS's own by default.")
  cli.define_path("shards", None, "Folder of image sheets to read instead of TFDS.")


def main() -> None:
  """Fills the cache that the flags ask for and says in one line what is there now."""
  name, shards = flags.FLAGS.dataset, flags.FLAGS.shards
  if shards is None:
    data_dir = find_data_dir(flags.FLAGS.data_dir)
    train, test = load_images(name, data_dir, download=True, require_cache=True)
  else:
    data_dir = find_data_dir(flags.FLAGS.data_dir, create=True)
    train, test = fill_cache(name, data_dir, *read_shards(shards, name))
  print(f"{name}: {len(train)} train and {len(test)} test images in {cache_folder(data_dir, name)}")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
