"""The library speaks of arguments: flags and commands are the experiments' words."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOREIGN = re.compile(r"(?<![\w-])--(?!xla_)[a-z]|python -m")  # options of XLA are settings of JAX


def foreign(source):
  """The texts in a file that speak of flags or commands; options for another program stand alone."""
  nodes = list(ast.walk(ast.parse(source)))
  parts = [part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values]
  texts = [
    node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
  ]
  begun = [part.value for part in parts if isinstance(part, ast.Constant) and part.value.endswith("--")]
  return [text for text in texts if FOREIGN.search(text) and " " in text] + begun


@pytest.mark.parametrize(
  "path", sorted(ROOT.glob("cscjax/**/*.py")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_no_flags_and_no_commands(path):
  assert foreign(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
  "source",
  [
    'raise ValueError("--data_dir: no such directory")',
    'raise ValueError(f"--{name}: expected")',
    'f"fill it with python -m experiments.prepare_data"',
    'def f():\n  """As --seed says."""',
  ],
)
def test_finds_a_planted_one(source):
  assert len(foreign(source)) == 1


def test_lets_others_pass():
  assert foreign('git("status", "--porcelain")\n"XLA_FLAGS=--xla_x=1 does"\n"a -- b"') == []
