"""Missing optional packages: the error names the extra that installs them."""

import sys

import jax.numpy as jnp
import pytest

from cscjax import MatrixDictionary, fista, plots
from cscjax.data import load_dataset
from cscjax.extras import MissingExtraError, needs
from cscjax.runs import Config, make_run


def test_the_message_names_the_extra_in_one_line():
  with pytest.raises(ImportError) as error, needs("plots", "plots need nothing_of_this_name"):
    import nothing_of_this_name  # noqa: F401
  expected = "plots need nothing_of_this_name (No module named 'nothing_of_this_name'): "
  assert str(error.value) == expected + "pip install 'cscjax[plots]'"
  assert isinstance(error.value.__cause__, ModuleNotFoundError)


def test_other_exceptions_are_not_changed():
  with pytest.raises(ValueError, match=r"^other$"), needs("plots", "plots need matplotlib"):
    raise ValueError("other")


@pytest.mark.parametrize(
  ("module", "extra", "use"),
  [
    ("matplotlib.figure", "plots", lambda: plots.convergence_curves({"a": [2.0, 1.0]})),
    ("sklearn.datasets", "digits", lambda: load_dataset("digits")),
    ("PIL", "images", lambda: load_dataset("folder:pets")),
    ("tensorboardX", "tensorboard", lambda: make_run(Config(dataset="digits", tensorboard=True))),
    ("tqdm", "progress", lambda: fista(MatrixDictionary(jnp.eye(2)), jnp.ones(2), 0.1, progress=True)),
  ],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, module, extra, use):
  for name in ("pets/cat/a.png", "pets/dog/a.png"):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, module, None)  # simulates a missing package
  with pytest.raises(MissingExtraError) as error:
    use()
  message = str(error.value)
  assert module in message
  assert message.endswith(f"pip install 'cscjax[{extra}]'")
  assert "\n" not in message
