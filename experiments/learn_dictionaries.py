"""Learns the dictionaries that are shipped with cscjax.

    python -m experiments.learn_dictionaries --folder=cscjax/pretrained/files

Writes the dictionaries and their cards to --folder, for `cscjax.load_pretrained`. Needs the extra
`notebooks`. The photographs are part of scikit-image and in the public domain. Tests and notebooks use
the dictionaries on other photographs.
"""

import datetime
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags as absl_flags

from cscjax import runs
from cscjax.dictionaries import ConvDictionary
from cscjax.extras import needs
from cscjax.learning import learn_dictionary
from cscjax.ops import tikhonov_lowpass
from cscjax.pretrained import save_pretrained
from cscjax.solvers import fista
from experiments import cli, publish
from experiments.cli import UsageError

SIZE = 40  # size of the patches in pixels
LOWPASS = 5.0  # strength of the low-pass filter whose result is subtracted
FLAT = 0.02  # patches with a lower standard deviation are left out
BETA, STEPS, BATCH, CODING_ITERATIONS, LEARNING_RATE = 0.1, 400, 8, 15, 0.3
COLOUR = ("chelsea", "coffee", "rocket")
GREY = (*COLOUR, "camera", "brick", "grass", "gravel")
LICENCE = (
  "The photographs are in the public domain (CC0, or released to it by their authors), as skimage.data"
  " documents; the dictionary has the licence of cscjax, Apache-2.0."
)


class Recipe(NamedTuple):
  """What a dictionary is learned from, and its atoms."""

  description: str
  photographs: tuple[str, ...]
  channels: int
  kernel: tuple[tuple[int, int], ...]


RECIPES = {
  "grey-8x8": Recipe("64 atoms of 8x8 for grey images", GREY, 1, ((8, 64),)),
  "grey-multiscale": Recipe(
    "16 atoms of 5x5, 32 of 8x8 and 24 of 12x12 for grey images",
    *(GREY, 1, ((5, 16), (8, 32), (12, 24))),
  ),
  "colour-8x8": Recipe("64 atoms of 8x8 for RGB images", COLOUR, 3, ((8, 64),)),
}


def define_flags() -> None:
  """Defines the flags of this command; not at import, where they would clash with other commands."""
  absl_flags.DEFINE_enum("name", None, list(RECIPES), "Learn only this dictionary.")
  cli.define_path("folder", None, "Directory to which the files are written.")


def main() -> None:
  """Learns the dictionaries that the flags name."""
  args = absl_flags.FLAGS
  if args.folder is None:
    raise UsageError("--folder: expected a directory, got None")
  for name in RECIPES if args.name is None else (args.name,):
    print(f"{name}: {learn(name, args.folder)}", flush=True)


def learn(name: str, folder: str) -> str:
  """Learns a dictionary, writes it to a folder and returns the result on its card."""
  recipe = RECIPES[name]
  images = patches(recipe)
  learned = learn_dictionary(
    images,
    BETA,
    kernel=recipe.kernel,
    steps=STEPS,
    batch_size=BATCH,
    coding_iterations=CODING_ITERATIONS,
    padding="SAME",
    optimizer=optax.sgd(optax.cosine_decay_schedule(LEARNING_RATE, STEPS), momentum=0.9),
  )
  noise = learned.dictionary.replace(filters=_normalized_noise(learned.dictionary.filters))
  found, before = (objective(D, images) for D in (learned.dictionary, noise))
  result = f"objective per patch {found:.2f}, with Gaussian noise as atoms {before:.2f}"
  card = {
    "description": f"{recipe.description}, of norm 1, for images in 0..1 minus their low-pass part"
    f" tikhonov_lowpass(image, {LOWPASS:g}).",
    "data": f"{len(images)} patches of {SIZE}x{SIZE} pixels of the photographs"
    f" {', '.join(recipe.photographs)} of scikit-image"
    + (", converted to grey by the mean of the channels." if recipe.channels == 1 else "."),
    "licence": LICENCE,
    "protocol": f"cscjax.learn_dictionary with beta {BETA:g}, {STEPS} steps of {BATCH} patches,"
    f" {CODING_ITERATIONS} FISTA iterations per step, zero padding, SGD with momentum 0.9 and a cosine"
    f" schedule from {LEARNING_RATE:g}; experiments/learn_dictionaries.py.",
    "result": result,
    **publish.provenance(runs.environment(), datetime.datetime.now(datetime.UTC)),
  }
  save_pretrained(learned.dictionary, name, folder, card)
  return result


@jax.jit
def objective(dictionary: ConvDictionary, images: jax.Array) -> jax.Array:
  """Returns the mean objective 1/2 ||x - D code||^2 + beta ||code||_1 over images."""

  def encode(x: jax.Array) -> jax.Array:
    code = fista(dictionary, x, BETA, iterations=50, step="adaptive", record=()).code
    return jnp.sum(jnp.square(dictionary.residual(code, x))) / 2 + BETA * jnp.sum(jnp.abs(code))

  return jnp.mean(jax.lax.map(encode, images))


def _normalized_noise(filters: jax.Array) -> jax.Array:
  """Returns Gaussian noise of norm 1 with the support of the filters."""
  noise = jnp.where(filters == 0, 0, jax.random.normal(jax.random.key(0), filters.shape))
  return noise / jnp.sqrt(jnp.sum(jnp.square(noise), axis=(0, 1, 2)))


def patches(recipe: Recipe) -> np.ndarray:
  """Returns the high-pass parts of the patches [N, SIZE, SIZE, channels] that are not flat."""
  with needs("notebooks", "the photographs need scikit-image"):
    from skimage import data  # pyright: ignore[reportMissingImports]
  found = []
  for name in recipe.photographs:
    image = np.atleast_3d(getattr(data, name)()).astype(np.float32) / 255
    if recipe.channels == 1:
      image = image.mean(axis=-1, keepdims=True)
    image -= np.asarray(tikhonov_lowpass(jnp.asarray(image), LOWPASS))
    rows, columns = (range(0, size - SIZE + 1, SIZE) for size in image.shape[:2])
    found += [image[i : i + SIZE, j : j + SIZE] for i in rows for j in columns]
  return np.stack([patch for patch in found if patch.std() > FLAT])


if __name__ == "__main__":
  define_flags()
  cli.run(main)
