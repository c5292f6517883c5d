"""Settings of the whole suite, and the fixture that a float64 test asks for."""

import hypothesis
import jax
import pytest

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
def _shared_compilation_cache(tmp_path_factory):
  """Processes that the tests start compile a program once."""
  folder = tmp_path_factory.getbasetemp().parent / "compiled"  # of all workers
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    yield


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module():
  """A program holds memory maps, of which Linux allows a process 65,530; beyond that XLA aborts."""
  yield
  jax.clear_caches()


@pytest.fixture(autouse=True)
def _fast_compilation(request):
  """Most tests compile much and run little: XLA's optimizations cost them more than they save."""
  as_users_do = any(map(request.node.get_closest_marker, ("slow", "optimized")))
  jax.config.update("jax_disable_most_optimizations", not as_users_do)


PROMOTING = {
  "tests.dictionaries.test_protocol": "dictionaries as users write them, with promotions",
  "tests.experiments.test_notebooks": "notebooks as users write them, with promotions",
  "tests.faults.test_bad_calls": "JAX's own messages name promotions before the argument",
  "tests.models.test_pursuit_layers": "reference formulas",
  "tests.solvers.test_meshes": "its script writes formulas with promotions",
  "tests.training.test_loop": "a stand-in for the programs",
}
"""Modules that run without JAX's strict modes, and why."""


@pytest.fixture(autouse=True)
def _strict_modes(request, monkeypatch):
  """JAX promotes neither ranks nor types by itself, also in the processes that a test starts."""
  if request.module.__name__ in PROMOTING:
    yield
    return
  monkeypatch.setenv("JAX_NUMPY_RANK_PROMOTION", "raise")
  monkeypatch.setenv("JAX_NUMPY_DTYPE_PROMOTION", "strict")
  with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture
def x64():
  """Float64 for one test, whatever the default is."""
  with jax.enable_x64(True):
    yield
