"""An arrow never goes up: what each layer may import, read from the source."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# A layer imports itself and these. data and training stand beside each other, and know no models.
BELOW_MODELS = {"checks", "extras", "ops", "dictionaries", "solvers", "theory"}
ALLOWED = {
  "checks": set(),
  "extras": {"checks"},
  "ops": {"checks"},
  "dictionaries": {"checks", "ops"},
  "solvers": {"checks", "ops", "dictionaries"},
  "theory": {"checks", "ops", "dictionaries", "solvers"},
  "learning": {"checks", "ops", "dictionaries", "solvers"},
  "models": BELOW_MODELS,
  "data": BELOW_MODELS,
  "training": BELOW_MODELS,
  "plots": BELOW_MODELS,
  "runs": BELOW_MODELS | {"models", "data", "training", "plots"},
  "cscjax": BELOW_MODELS | {"learning"},  # __init__.py: what a notebook needs
}
ALLOWED["experiments"] = set(ALLOWED)


def layer(module):
  """The layer of a dotted module name, None for one from outside."""
  package, _, rest = module.partition(".")
  if package == "cscjax":
    return rest.partition(".")[0] or "cscjax"
  return package if package in ("experiments", "tests") else None


def imported(source, module, is_package):
  """The full names that a file imports, also inside functions and relatively."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parts = module.split(".")
      base = parts[: len(parts) - node.level + is_package] if node.level else []
      name = ".".join([*base, *filter(None, [node.module])])
      # `from cscjax import ops` names a layer, `from cscjax import fista` the package itself.
      if name == "cscjax":
        yield from (f"cscjax.{a.name}" if a.name in ALLOWED else "cscjax" for a in node.names)
      else:
        yield name


def violations(root):
  """Every import of cscjax and experiments that the table does not allow."""
  found = []
  for path in sorted([*root.glob("cscjax/**/*.py"), *root.glob("experiments/**/*.py")]):
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    own = layer(module)
    if own not in ALLOWED:
      found.append(f"{module} has no layer")
      continue
    for name in imported(path.read_text(encoding="utf-8"), module, is_package):
      target = layer(name)
      if target not in {None, own, *ALLOWED[own]}:
        found.append(f"{module} imports {name}")
  return found


def test_no_arrow_goes_up():
  assert len([*ROOT.glob("cscjax/**/*.py")]) > 20  # the files are where they are looked for
  assert violations(ROOT) == []


@pytest.mark.parametrize(
  ("path", "source", "name"),
  [
    ("cscjax/ops/a.py", "from cscjax.dictionaries import join", "cscjax.dictionaries"),
    ("cscjax/ops/a.py", "from cscjax import solvers", "cscjax.solvers"),
    ("cscjax/ops/a.py", "from cscjax import fista", "cscjax"),
    ("cscjax/ops/a.py", "from ..solvers import layered", "cscjax.solvers"),
    ("cscjax/ops/__init__.py", "from ..solvers import layered", "cscjax.solvers"),
    ("cscjax/ops/a.py", "from .. import solvers", "cscjax.solvers"),
    ("cscjax/solvers/a.py", "import cscjax.models._layers", "cscjax.models._layers"),
    ("cscjax/models/a.py", "from cscjax.training import fit", "cscjax.training"),
    ("cscjax/data/a.py", "from cscjax.training import fit", "cscjax.training"),
    ("cscjax/training/a.py", "import cscjax.data as d", "cscjax.data"),
    ("cscjax/training/a.py", "def f():\n  from cscjax.models import b", "cscjax.models"),
    ("cscjax/training/a.py", "from cscjax.runs import Config", "cscjax.runs"),
    ("cscjax/runs/a.py", "from experiments import cli", "experiments"),
    ("cscjax/models/a.py", "if True:\n  import experiments.run", "experiments.run"),
    ("cscjax/__init__.py", "from cscjax.data import load", "cscjax.data"),
    ("experiments/a.py", "from tests import references", "tests"),
  ],
)
def test_finds_a_planted_violation(tmp_path, path, source, name):
  file = tmp_path / path
  file.parent.mkdir(parents=True)
  file.write_text(source)
  (found,) = violations(tmp_path)
  assert found.endswith(f" imports {name}")


def test_a_new_folder_needs_a_layer(tmp_path):
  (tmp_path / "cscjax/new").mkdir(parents=True)
  (tmp_path / "cscjax/new/a.py").write_text("")
  assert violations(tmp_path) == ["cscjax.new.a has no layer"]


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("cscjax/ops/a.py", "from cscjax import checks\nfrom cscjax.ops.b import c\nimport jax"),
    ("cscjax/ops/a.py", "from . import b\nfrom .b import c\nfrom ..checks import fail"),
    ("cscjax/ops/__init__.py", "from . import a\nfrom .a import b"),
    ("cscjax/models/a.py", "from cscjax.solvers import ista"),
    (
      "experiments/sub/a.py",
      "import cscjax\nfrom experiments import flags\nfrom cscjax import training",
    ),
  ],
)
def test_lets_right_imports_pass(tmp_path, path, source):
  file = tmp_path / path
  file.parent.mkdir(parents=True)
  file.write_text(source)
  assert violations(tmp_path) == []


def test_only_one_file_convolves():
  """Every other layer calls `cscjax.ops`, which holds the convolution and its adjoint."""
  users = [
    str(path.relative_to(ROOT / "cscjax"))
    for path in sorted(ROOT.glob("cscjax/**/*.py"))
    if re.search(r"conv_general_dilated|conv_transpose|jnp\.convolve", path.read_text(encoding="utf-8"))
  ]
  assert users
  assert all(user.startswith("ops/_conv") for user in users)
