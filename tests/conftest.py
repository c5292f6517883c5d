"""Settings of the whole suite, and the fixture that a float64 test asks for."""

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile(
  "cscjax",
  deadline=None,  # the first example of a shape compiles
  derandomize=True,
  max_examples=40,
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


@pytest.fixture(autouse=True)
def _fast_compilation(request):
  """Most tests compile much and run little: XLA's optimizations cost them more than they save."""
  as_users_do = any(map(request.node.get_closest_marker, ("slow", "optimized")))
  jax.config.update("jax_disable_most_optimizations", not as_users_do)


@pytest.fixture
def x64():
  """Float64 for one test, whatever the default is."""
  with jax.enable_x64(True):
    yield
