"""What is installed: the wheel, its version, its extras, and what an import of the library needs."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import cscjax

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
# Not for a user of the library on a CPU.
OTHERS = {"all", "cuda12", "cuda13", "notebooks", "bench", "docs", "test"}


def own_extras(requirement):
  """The extras of this distribution that a requirement asks for."""
  found = re.match(r"cscjax\[(.*)\]$", requirement)
  return found[1].split(",") if found else []


def everything(extra):
  """The packages that an extra brings, through other extras too."""
  for requirement in EXTRAS[extra]:
    names = own_extras(requirement)
    for name in names:
      yield from everything(name)
    if not names:
      yield re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")


def test_the_wheel_holds_the_library_and_says_that_it_is_typed():
  assert PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["cscjax"]
  assert (ROOT / "cscjax/py.typed").read_bytes() == b""


def test_there_is_one_version():
  assert PYPROJECT["project"]["dynamic"] == ["version"]
  assert ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"] == pathlib.Path(cscjax.__file__)
  assert re.fullmatch(r"\d+\.\d+\.\d+", cscjax.__version__)


def test_every_package_that_the_library_imports_is_required():
  """By the library, or by an extra."""
  imported = set()
  for path in ROOT.glob("cscjax/**/*.py"):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.Import):
        imported |= {alias.name.partition(".")[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and node.module:
        imported.add(node.module.partition(".")[0])
  imported -= {
    *sys.stdlib_module_names,
    "cscjax",
    *(name for names in OPTIONAL.values() for name in names),
  }
  required = {re.match(r"[\w-]+", name)[0] for name in PYPROJECT["project"]["dependencies"]}
  required |= {"orbax", "scipy"}  # of orbax-checkpoint and JAX
  assert imported <= required
  assert "flatbuffers" in required  # which JAX needs for `LoadedRun.export`, but does not require


def test_all_is_every_extra_of_the_library():
  (requirement,) = EXTRAS["all"]
  assert own_extras(requirement) == sorted(set(EXTRAS) - OTHERS)
  assert set(everything("all")) < set(everything("test"))


def test_every_extra_that_the_library_names_brings_a_package():
  named = {}
  for path in ROOT.glob("cscjax/**/*.py"):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("needs"):
        named.setdefault(ast.literal_eval(node.args[0]), path)
  assert set(named) >= {"digits", "images", "plots", "tensorboard", "tfds"}
  assert set(named) <= set(EXTRAS) - OTHERS, named


# Modules, by the extra that brings their packages; those of the operating system are missing on Windows.
OPTIONAL = {
  "digits": ["sklearn"],
  "images": ["PIL"],
  "plots": ["matplotlib"],
  "progress": ["tqdm"],
  "tensorboard": ["tensorboardX"],
  "tfds": ["tensorflow_datasets", "array_record", "importlib_resources"],
  "Unix": ["fcntl", "resource"],
}
IMPORT_ALL = """
import importlib, pkgutil, sys
import jax, flax.linen, optax, orbax.checkpoint  # what they import by themselves is their own business

class Missing:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in sys.argv[1].split(","):
      raise ModuleNotFoundError(f"{name} is imported with the library", name=name)

sys.meta_path.insert(0, Missing())
for name in sys.argv[1].split(","):
  sys.modules.pop(name, None)
import cscjax
names = [module.name for module in pkgutil.walk_packages(cscjax.__path__, "cscjax.")]
for name in names:
  importlib.import_module(name)
print(len(names))
"""


def test_the_library_is_imported_without_its_extras_and_without_unix():
  modules = ",".join(name for names in OPTIONAL.values() for name in names)
  command = [sys.executable, "-c", IMPORT_ALL, modules]
  done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) > 60
  assert {extra for extra in OPTIONAL if extra != "Unix"} == set(EXTRAS) - OTHERS
