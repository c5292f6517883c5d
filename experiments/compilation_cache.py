"""Compiled programs kept on disk, so that a second start of the same command compiles nothing."""

import os
import pathlib
import sys

import jax

from cscjax.data.cache import cache_folder
from cscjax.data.load import find_data_dir
from experiments.cli import UsageError
from experiments.config import Config

OFF = "off"


def use_compilation_cache(config: Config) -> None:
  """Turns on JAX's persistent cache; to be called before anything is compiled.

  Its entries depend on the program, the options, the device and the versions. Damaged ones are compiled
  again. Where the environment has a cache already (JAX_COMPILATION_CACHE_DIR) and no flag says
  otherwise, that one is used; where the default place cannot be written, none.

  Raises:
    UsageError: If the directory of --compilation_cache cannot be made.
    DataError: If --data_dir is not there.
  """
  if config.compilation_cache == OFF:
    jax.config.update("jax_enable_compilation_cache", False)
    return
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  if config.compilation_cache is None and "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  if config.compilation_cache is None:
    folder = cache_folder(find_data_dir(config.data_dir), "compiled")
  else:
    folder = pathlib.Path(config.compilation_cache).expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    problem = f"cannot write to {folder}: {error.strerror}"
    if config.compilation_cache is not None:
      raise UsageError(f"--compilation_cache: {problem}") from error
    print(f"warning: compiled programs are not kept ({problem})", file=sys.stderr)
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
