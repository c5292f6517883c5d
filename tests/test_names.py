"""Each name in cscjax and experiments has one meaning. (import-linter checks the layers.)"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def shadows(root):
  """Every name of a package that is also a module of it: an import of one could give the other."""
  found = []
  for path in sorted(root.glob("cscjax/**/__init__.py")):
    beside = {p.stem for p in path.parent.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    package = ".".join(path.parent.relative_to(root).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.ImportFrom) and node.module == package:
        continue  # the module itself
      if isinstance(node, ast.ImportFrom):
        names = [a.asname or a.name for a in node.names]
      else:
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
      found += [f"{path.parent.name}.{name}" for name in names if name in beside]
  return found


def test_no_name_is_that_of_a_module():
  assert shadows(ROOT) == []


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


def test_a_class_name_has_one_meaning():
  """In cscjax and experiments; a private class is seen by its file alone."""
  files = {}
  for path in (*ROOT.glob("cscjax/**/*.py"), *ROOT.glob("experiments/**/*.py")):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        files.setdefault(node.name, set()).add(path.relative_to(ROOT).as_posix())
  assert {name: sorted(where) for name, where in files.items() if len(where) > 1} == {}
