"""Settings of the whole suite, and the fixture for tests in float64."""

import os
import shutil

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

hypothesis.settings.register_profile(
  "cscjax",
  deadline=None,  # the first example of a shape compiles
  derandomize=True,
  max_examples=20,
  suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture,
    hypothesis.HealthCheck.too_slow,
  ],
)
hypothesis.settings.load_profile("cscjax")


@pytest.fixture(scope="session", autouse=True)
def _processes_compile_fast(tmp_path_factory, request):
  """Makes the processes that the tests start share compiled programs, and optimize as the tests do."""
  folder = tmp_path_factory.getbasetemp().parent / "compiled"  # of all workers
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    if not request.config.getoption("--optimized"):
      patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    yield


COMPILED_LIMIT = 2**30
"""The size in bytes beyond which the compiled programs of earlier runs of the suite are deleted."""


def _compiled(config):
  """Returns the directory of compiled programs, which later runs read, or None if there can be none."""
  try:
    return config.cache.mkdir("compiled")
  except (AttributeError, OSError):  # -p no:cacheprovider, a directory that cannot be written
    return None


def pytest_configure(config):
  """Chooses XLA's faster compilation, and deletes compiled programs that are too many."""
  if jax.__version_info__ < (0, 11) and not config.getoption("--optimized"):
    # Without these emitters, which later versions always use, XLA compiles in two thirds of the time.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
  # A program that another worker is writing, or was killed while it did: JAX compiles it again.
  config.addinivalue_line(
    "filterwarnings", "ignore:Error (reading|writing) persistent compilation cache"
  )
  folder = None if hasattr(config, "workerinput") else _compiled(config)
  if folder and sum(file.stat().st_size for file in folder.iterdir()) > COMPILED_LIMIT:
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module(request):
  """Reads compiled programs from disk, and frees their memory after each module.

  Compiling takes most of the time of most tests. Each program in memory holds memory maps; Linux
  allows a process 65,530 of these, and XLA aborts beyond that.
  """
  if folder := _compiled(request.config):
    compilation_cache.reset_cache()  # tests of training runs have this cache elsewhere or turn it off
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  yield
  jax.clear_caches()


def pytest_addoption(parser):
  """Adds the option with which `.ci/run` runs the tests of the library a second time."""
  parser.addoption(
    "--optimized", action="store_true", help="compile with XLA's optimizations, as users' programs are"
  )


@pytest.fixture(autouse=True)
def _fast_compilation(request, monkeypatch):
  """Disables XLA's optimizations, which cost most tests more time than they save.

  Tests marked as optimized, and all tests under `--optimized`, keep them.
  """
  optimizes = request.node.get_closest_marker("optimized") or request.config.getoption("--optimized")
  jax.config.update("jax_disable_most_optimizations", not optimizes)
  if optimizes:
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)


PROMOTING = {
  "tests.dictionaries.test_protocol": "its dictionaries rely on promotion, as users' own may",
  "tests.experiments.test_notebooks": "notebooks rely on promotion, as users' own may",
  "tests.experiments.test_pretrained": "schedules of optax rely on promotion",
  "tests.faults.test_bad_calls": "JAX refuses a promotion before cscjax checks the argument",
  "tests.models.test_pursuit_layers": "its reference formulas rely on promotion",
  "tests.solvers.test_meshes": "its script relies on promotion",
  "tests.training.test_loop": "its replacement for a network relies on promotion",
}
"""The modules that run without JAX's strict modes, each with the reason."""


@pytest.fixture(autouse=True)
def _strict_modes(request, monkeypatch):
  """Turns implicit promotion of ranks and types into errors, also in processes that a test starts."""
  if request.module.__name__ in PROMOTING:
    yield
    return
  monkeypatch.setenv("JAX_NUMPY_RANK_PROMOTION", "raise")
  monkeypatch.setenv("JAX_NUMPY_DTYPE_PROMOTION", "strict")
  with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture
def x64():
  """Enables float64 for one test."""
  with jax.enable_x64(True):
    yield
