"""Sets up JAX's cache of compiled programs on disk, so that a repeated run does not compile anything."""

import os
import pathlib
import tempfile
import warnings

import jax
from jax.experimental.compilation_cache import compilation_cache

from cscjax.data import DataError, find_cache_dir
from cscjax.runs._config import Config, RunError

OFF = "off"


def use_compilation_cache(config: Config) -> None:
  """Turns on JAX's persistent compilation cache; must be called before anything is compiled.

  The key of an entry includes the program, the options, the device and the versions. A damaged entry is
  compiled again. The cache is in `config.compilation_cache`; if that is None, in the directory named by
  JAX_COMPILATION_CACHE_DIR; and if that is not set, in the cache directory, beside the decoded
  images. If such a default cannot be written, a warning is given and there is no cache.

  Raises:
    RunError: If the directory `config.compilation_cache` cannot be written.
  """
  compilation_cache.reset_cache()  # JAX keeps the cache of an earlier run of this process
  jax.config.update("jax_enable_compilation_cache", config.compilation_cache != OFF)
  if config.compilation_cache == OFF:
    return
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  of_jax = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if config.compilation_cache is None and of_jax and "://" in of_jax:
    return  # a bucket, which JAX opens itself
  try:
    given = config.compilation_cache or of_jax
    folder = given or find_cache_dir(config.cache_dir) / "compiled"
    folder = pathlib.Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except (DataError, OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
    if config.compilation_cache is not None:
      problem = f"cannot write to {config.compilation_cache}: {error}"
      raise RunError(problem, "compilation_cache") from error
    warnings.warn(f"compiled programs are not cached ({error})", stacklevel=2)
    jax.config.update("jax_enable_compilation_cache", False)
    return
  # If the disk fails later, JAX would warn once for each program.
  warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
  jax.config.update("jax_compilation_cache_dir", str(folder))
