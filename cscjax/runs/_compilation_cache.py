"""Compiled programs kept on disk, so that a second start of the same command compiles nothing."""

import os
import pathlib
import tempfile
import warnings

import jax

from cscjax.data import DataError, cache_folder, find_data_dir
from cscjax.runs._config import Config, RunError

OFF = "off"


def use_compilation_cache(config: Config) -> None:
  """Turns on JAX's persistent cache; to be called before anything is compiled.

  Its entries depend on the program, the options, the device and the versions. Damaged ones are compiled
  again. Where the environment has a cache already (JAX_COMPILATION_CACHE_DIR) and the configuration
  names none, that one is used; where this or the default place cannot be written, none, with a warning.

  Raises:
    RunError: If the directory `config.compilation_cache` cannot be made.
    DataError: If `config.data_dir` is not there.
  """
  if config.compilation_cache == OFF:
    jax.config.update("jax_enable_compilation_cache", False)
    return
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  of_jax = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if config.compilation_cache is None and of_jax and "://" in of_jax:
    return  # a bucket, which is JAX's business
  try:
    folder = pathlib.Path(config.compilation_cache or of_jax or _beside_the_data(config)).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except (OSError, RuntimeError) as error:  # the latter where there is no home directory
    if config.compilation_cache is not None:
      problem = f"cannot write to {config.compilation_cache}: {error}"
      raise RunError(problem, "compilation_cache") from error
    warnings.warn(f"compiled programs are not kept ({error})", stacklevel=2)
    jax.config.update("jax_enable_compilation_cache", False)
    return
  # Of a disk that fails later JAX would warn once for each program.
  warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
  jax.config.update("jax_compilation_cache_dir", str(folder))


def _beside_the_data(config):
  try:
    return cache_folder(find_data_dir(config.data_dir), "compiled")
  except DataError as error:
    if config.data_dir is None:
      raise RuntimeError(error) from error
    raise
