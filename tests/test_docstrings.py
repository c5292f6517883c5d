"""Every public function and class has a whole page of help, with an example that runs."""

import ast
import builtins
import dataclasses
import doctest
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
import types

import flax.linen
import pytest

import cscjax
import cscjax.checks

PACKAGES = ["cscjax", *(f"cscjax.{m.name}" for m in pkgutil.iter_modules(cscjax.__path__))]
PACKAGES = [name for name in PACKAGES if "._" not in name]
HEADS = "Args|Attributes|Returns|Yields|Raises|Example|References|Note"


def public():
  """Name and object of every function and class that a package exports."""
  found = {}
  for package in map(importlib.import_module, PACKAGES):
    for name in getattr(package, "__all__", vars(package)):
      item = getattr(package, name)
      is_own = (getattr(item, "__module__", None) or "").startswith(package.__name__)
      if is_own and not name.startswith("_") and (inspect.isclass(item) or inspect.isroutine(item)):
        found[f"{package.__name__}.{name}"] = item
  return {id(item): (name, item) for name, item in found.items()}.values()  # each once


def methods(name, item):
  """Name and function of the public methods and properties that a class defines itself."""
  for key, member in vars(item).items():
    function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    is_own = inspect.isfunction(function) and function.__module__ == item.__module__
    if not key.startswith("_") and is_own:
      yield f"{name}.{key}", function, isinstance(member, property)


def sections(item):
  """The summary ("") and the sections of a docstring, by their heads."""
  parts = re.split(rf"^({HEADS}):\n", inspect.getdoc(item) or "", flags=re.MULTILINE)
  return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def listed(section):
  """The names that a section explains."""
  return re.findall(r"^  \*{0,2}(\w+)(?: \([^)]*\))?:", section, re.MULTILINE)


@functools.cache
def raised(function):
  """Names of the exceptions that a function raises, also through other functions of its package."""
  return frozenset(_raised(function, frozenset(), set()))


def _raised(function, caught, seen):
  """Names of the exceptions that leave a function called where those in `caught` are handled."""
  function = inspect.unwrap(getattr(function, "__func__", function))
  if (function, caught) in seen or not isinstance(function, types.FunctionType):
    return
  seen.add((function, caught))
  package = function.__module__.rpartition(".")[0]
  for node, handled in _walk(ast.parse(textwrap.dedent(inspect.getsource(function))), caught):
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
      name = ast.unparse(node.exc.func).partition(".")[0]
      if name not in handled:
        yield name
    elif isinstance(node, ast.Call):
      called = _resolved(node.func, function.__globals__)
      if getattr(called, "__module__", None) in (cscjax.checks.__name__, function.__module__) or (
        package != "cscjax" and str(getattr(called, "__module__", "")).startswith(f"{package}.")
      ):
        yield from _raised(called, handled, seen)


def _walk(node, handled):
  """Each node below one, with the names of the exceptions that a `try` around it handles."""
  yield node, handled
  inside = handled
  if isinstance(node, ast.Try):
    for handler in node.handlers:
      if handler.type and not any(isinstance(n, ast.Raise) and not n.exc for n in ast.walk(handler)):
        inside |= set(re.findall(r"\w+", ast.unparse(handler.type)))
  for child in ast.iter_child_nodes(node):
    is_inside = isinstance(node, ast.Try) and child in node.body
    yield from _walk(child, inside if is_inside else handled)


def _resolved(node, names):
  """The function that an expression such as `checks.positive_int` names, None for any other."""
  if isinstance(node, ast.Name):
    return names.get(node.id, getattr(builtins, node.id, None))
  if isinstance(node, ast.Attribute):
    owner = _resolved(node.value, names)
    is_owner = inspect.ismodule(owner) or inspect.isclass(owner)
    return getattr(owner, node.attr, None) if is_owner else None
  return None


def is_sentence(text):
  """Whether the first paragraph of a docstring is one; what a dataclass writes by itself is not."""
  return bool(re.match(r"\S.*[.:]$", text.strip().split("\n\n")[0].replace("\n", " ")))


def flaws(item, is_property=False):
  """What the docstring of a function lacks."""
  parts, signature = sections(item), inspect.signature(item)
  if not is_sentence(parts[""]):
    yield "the summary is no sentence"
  expected = [name for name in signature.parameters if name not in ("self", "cls")]
  if expected != listed(parts.get("Args", "")):
    yield f"Args: expected {expected}, found {listed(parts.get('Args', ''))}"
  returns = signature.return_annotation in (None, "None", "NoReturn")
  if not (returns or is_property or {"Returns", "Yields"} & set(parts)):
    yield "no Returns"
  missing = raised(item) - {name.rpartition(".")[2] for name in listed(parts.get("Raises", ""))}
  if missing:
    yield f"Raises lacks {', '.join(sorted(missing))}"


FUNCTIONS = {name: item for name, item in public() if not inspect.isclass(item)}
CLASSES = {name: item for name, item in public() if inspect.isclass(item)}
METHODS = {key: rest for name, item in CLASSES.items() for key, *rest in methods(name, item)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
  assert list(flaws(FUNCTIONS[name])) == []


@pytest.mark.parametrize("name", METHODS)
def test_method(name):
  assert list(flaws(*METHODS[name])) == []


@pytest.mark.parametrize("name", CLASSES)
def test_class(name):
  """Each field is explained, and each parameter of a constructor that is not made from the fields."""
  item, parts = CLASSES[name], sections(CLASSES[name])
  assert is_sentence(parts[""])
  is_module = issubclass(item, flax.linen.Module)
  if (
    dataclasses.is_dataclass(item)
    and not is_module
    and item.__init__.__code__.co_filename.endswith(".py")
  ):
    parameters = list(inspect.signature(item).parameters)
    assert listed(parts["Args"]) == parameters
    fields = [field.name for field in dataclasses.fields(item)]
    assert listed(parts["Attributes"]) == [key for key in fields if key not in parameters]
    return
  fields = [key for key in inspect.get_annotations(item) if not key.startswith("_")]
  if is_module:
    fields = [key for key in fields if key not in ("parent", "name")]  # those of every module
  assert listed(parts.get("Attributes", "") + parts.get("Args", "")) == fields


def is_result(item):
  """Whether a class is made by the library alone, so that the function that makes it has the example."""
  return issubclass(item, tuple | BaseException) or getattr(item, "_is_protocol", False)


@pytest.mark.parametrize("name", [*FUNCTIONS, *(k for k, v in CLASSES.items() if not is_result(v))])
def test_example(name, tmp_path, monkeypatch):
  """It runs in a folder of its own, as it would in a new session, and prints what it says."""
  monkeypatch.chdir(tmp_path)
  text = inspect.getdoc(FUNCTIONS.get(name) or CLASSES[name])
  assert ">>>" in text
  test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
  report = []
  options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
  doctest.DocTestRunner(optionflags=options).run(test, out=report.append)
  assert not report, "".join(report)
