"""Trains on a folder of own images and fine-tunes from that run: a program that needs the wheel alone.

    python own_data.py FOLDER

Makes pictures of two classes in FOLDER, trains a network on them, and starts another run from it, on
larger pictures of three classes. Prints the test accuracies of the three networks: trained, fine-tuned,
and loaded without the pictures.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image

from cscjax import data, runs


def write_pictures(folder, counts, size):
  """Writes noisy stripes as PNG files: horizontal, vertical or diagonal, in a folder for each class."""
  generator = np.random.default_rng(0)
  rows, columns = np.mgrid[:size, :size]
  phases = {"across": rows, "down": columns, "slanted": rows + columns}
  for name, count in counts.items():
    (folder / name).mkdir(parents=True)
    for i in range(count):
      wave = np.sin(2 * np.pi * (phases[name] / 4 + generator.random()))
      picture = 128 + 60 * wave[..., None] + generator.normal(0, 20, (size, size, 3))
      Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i:03}.png")


def main(folder):
  """Prints a JSON object of the accuracies."""
  write_pictures(folder / "two", {"down": 100, "across": 100}, 12)
  write_pictures(folder / "three", {"down": 40, "across": 40, "slanted": 40}, 16)
  fields = {"model": "msd_csc", "depth": 2, "width": 8, "unfolding": 1, "batch_size": 32, "epochs": 6}
  fields |= {"learning_rate": 0.1, "compilation_cache": "off"}
  first = runs.Config(dataset=f"folder:{folder / 'two'}", workdir=str(folder / "first"), **fields)
  trained = runs.execute(runs.make_run(first), progress=False)
  second = runs.Config(
    dataset=f"folder:{folder / 'three'}",
    init_from=str(folder / "first"),
    workdir=str(folder / "second"),
    **fields,
  )
  tuned = runs.execute(runs.make_run(second), progress=False)

  test = data.load_dataset(second.dataset).test
  shutil.rmtree(folder / "three")
  loaded = runs.load_run(folder / "second")
  labels = loaded.predict(test.images).labels
  found = {
    "trained": trained["test_accuracy"],
    "fine-tuned": tuned["test_accuracy"],
    "loaded": float(np.mean(labels == test.labels)),
    "classes": list(loaded.info.class_names),
  }
  print(json.dumps(found))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
