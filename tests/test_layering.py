"""What each layer may import, read from the source: only layers below it, and only their faces."""

import ast
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# A layer imports itself and these. data and training stand beside each other, and know no models.
# `checks` is public, so that a dictionary or a network outside the library can word its errors alike.
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
  "runs": BELOW_MODELS | {"models", "data", "training", "plots", "cscjax"},  # its version
  "cscjax": BELOW_MODELS | {"learning"},  # __init__.py: what a notebook needs
}
ALLOWED["experiments"] = set(ALLOWED)


def layer(module):
  """The layer of a dotted module name, None for one from outside."""
  package, _, rest = module.partition(".")
  if package == "cscjax":
    return rest.partition(".")[0] or "cscjax"
  return package if package in ("experiments", "tests") else None


def source_of(path):
  """The code of a file, or of all cells of a notebook."""
  text = path.read_text(encoding="utf-8")
  if path.suffix != ".ipynb":
    return text
  cells = ["".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
  return re.sub(r"^%.*", "", "\n".join(cells), flags=re.MULTILINE)  # magics are not Python


def imported(path, module):
  """(module, names from it) of each import of a file, also inside functions and relatively."""
  is_package = path.stem == "__init__"
  for node in ast.walk(ast.parse(source_of(path))):
    if isinstance(node, ast.Import):
      yield from ((alias.name, []) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parts = module.split(".")
      base = parts[: len(parts) - node.level + is_package] if node.level else []
      name = ".".join([*base, *filter(None, [node.module])])
      # `from cscjax import ops` names a layer, `from cscjax import fista` the package itself.
      for alias in node.names:
        is_layer = name == "cscjax" and alias.name in ALLOWED
        yield (f"cscjax.{alias.name}", []) if is_layer else (name, [alias.name])


def modules(root):
  """(path, dotted name) of each file of cscjax and experiments, notebooks included."""
  for pattern in ("cscjax/**/*.py", "experiments/**/*.py", "experiments/**/*.ipynb"):
    for path in sorted(root.glob(pattern)):
      parts = path.relative_to(root).with_suffix("").parts
      yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def violations(root):
  """Every import of cscjax and experiments that the table does not allow, or that bypasses a face."""
  found = []
  for path, module in modules(root):
    own = layer(module)
    if own not in ALLOWED:
      found.append(f"{module} has no layer")
      continue
    for name, names in imported(path, module):
      target = layer(name)
      if target not in {None, own, *ALLOWED[own]}:
        found.append(f"{module} imports {name}")
      elif target not in {None, own, "experiments"} and (
        name.count(".") > 1 or any(n.startswith("_") for n in names)
      ):
        found.append(f"{module} imports {'.'.join([name, *names])}")
  return found


def shadows(root):
  """Every name of a package that is also a module of it: an import of one could give the other."""
  found = []
  for path in sorted(root.glob("cscjax/**/__init__.py")):
    beside = {p.stem for p in path.parent.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    for node in ast.walk(ast.parse(source_of(path))):
      if isinstance(node, ast.ImportFrom):
        names = [a.asname or a.name for a in node.names]
      else:
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
      found += [f"{path.parent.name}.{name}" for name in names if name in beside]
  return found


def test_no_arrow_goes_up():
  assert len([*ROOT.glob("cscjax/**/*.py")]) > 20  # the files are where they are looked for
  assert violations(ROOT) == []


def test_no_name_is_that_of_a_module():
  assert shadows(ROOT) == []


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
    (
      "cscjax/models/a.py",
      "from cscjax.solvers._steps import momentum",
      "cscjax.solvers._steps.momentum",
    ),
    ("cscjax/models/a.py", "from cscjax.solvers._lasso import fista", "cscjax.solvers._lasso.fista"),
    ("cscjax/models/a.py", "from cscjax.solvers import _steps", "cscjax.solvers._steps"),
    ("cscjax/models/a.py", "from ..solvers import _steps", "cscjax.solvers._steps"),
    ("cscjax/models/a.py", "import cscjax.solvers._steps", "cscjax.solvers._steps"),
    ("cscjax/__init__.py", "from cscjax.ops._conv import conv", "cscjax.ops._conv.conv"),
    ("experiments/a.py", "from cscjax.models._layers import x", "cscjax.models._layers.x"),
    ("cscjax/models/a.py", "from cscjax.training import fit", "cscjax.training"),
    ("cscjax/data/a.py", "from cscjax.training import fit", "cscjax.training"),
    ("cscjax/training/a.py", "import cscjax.data as d", "cscjax.data"),
    ("cscjax/training/a.py", "def f():\n  from cscjax.models import b", "cscjax.models"),
    ("cscjax/training/a.py", "from cscjax.runs import Config", "cscjax.runs"),
    ("cscjax/runs/a.py", "from experiments import cli", "experiments"),
    ("cscjax/models/a.py", "if True:\n  import experiments.run", "experiments.run"),
    ("cscjax/__init__.py", "from cscjax.data import load", "cscjax.data"),
    ("experiments/a.py", "from tests import references", "tests"),
    (
      "experiments/notebooks/1.ipynb",
      '{"cells": [{"cell_type": "code", "source": ["from cscjax.ops._conv import conv"]}]}',
      "cscjax.ops._conv.conv",
    ),
  ],
)
def test_finds_a_planted_violation(tmp_path, path, source, name):
  file = tmp_path / path
  file.parent.mkdir(parents=True)
  file.write_text(source)
  (found,) = violations(tmp_path)
  assert found.endswith(f" imports {name}")


@pytest.mark.parametrize(
  ("module", "source"),
  [
    ("atoms.py", "from cscjax.plots.other import atoms"),
    ("atoms.py", "from cscjax.plots.other import tiles as atoms"),
    ("atoms/__init__.py", "def atoms(): pass"),
    ("atoms.py", "class atoms: pass"),
  ],
)
def test_finds_a_planted_shadow(tmp_path, module, source):
  file = tmp_path / "cscjax/plots" / module
  file.parent.mkdir(parents=True)
  file.write_text("")
  (tmp_path / "cscjax/plots/__init__.py").write_text(source)
  assert shadows(tmp_path) == ["plots.atoms"]


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
    ("cscjax/solvers/_a.py", "from cscjax.solvers._lasso._b import c\nfrom cscjax.solvers import _d"),
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


def test_a_class_name_has_one_meaning():
  """In cscjax and experiments; a private class is seen by its file alone."""
  files = {}
  for path, module in modules(ROOT):
    for node in ast.walk(ast.parse(source_of(path))):
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        files.setdefault(node.name, set()).add(module)
  assert {name: sorted(where) for name, where in files.items() if len(where) > 1} == {}


def test_few_files_use_parts_of_jax_that_change_without_notice():
  """`pyproject.toml` bounds the version of JAX for their sake."""
  private = re.compile(r"jax\._src|jax\.(core|extend|interpreters)\b")
  users = [
    str(path.relative_to(ROOT / "cscjax"))
    for path in sorted(ROOT.glob("cscjax/**/*.py"))
    if private.search(path.read_text(encoding="utf-8"))
  ]
  assert users == ["checks.py", "models/_summary.py", "ops/_conv_primitives.py"]


def test_only_one_file_convolves():
  """Every other layer calls `cscjax.ops`, which holds the convolution and its adjoint."""
  users = [
    str(path.relative_to(ROOT / "cscjax"))
    for path in sorted(ROOT.glob("cscjax/**/*.py"))
    if re.search(r"conv_general_dilated|conv_transpose|jnp\.convolve", path.read_text(encoding="utf-8"))
  ]
  assert users
  assert all(user.startswith("ops/_conv") for user in users)
