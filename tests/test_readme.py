"""The examples of the READMEs print what the pages say; commands name files and flags that exist."""

import contextlib
import io
import pathlib
import re

import pytest
from absl import flags as absl_flags

import cscjax
import experiments.flags
from experiments import report, reproduce, robustness
from experiments.reproduction.paper import ROWS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXPERIMENTS = (ROOT / "experiments" / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PRINTED = r"```python\n((?:(?!```).)*)```\n\n```\n(.*?)```"  # a block of code and what it prints


def run(code, names):
  """What a block of a page prints."""
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    exec(compile(code, "README.md", "exec"), names)
  return printed.getvalue()


def test_length():
  assert len(README.splitlines()) <= 150


@pytest.mark.slow
@pytest.mark.optimized
def test_examples(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, expected = re.search(PRINTED, README, re.DOTALL).groups()
  assert len([line for line in code.splitlines() if line.strip()]) <= 14
  names = {}
  assert run(code, names) == expected
  further = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1:]
  assert len(further) == 2
  for block in further:  # they continue the first one
    run(block, names)
  assert (tmp_path / "denoised.png").stat().st_size > 10_000
  assert names["summary"]["status"] == "ok"
  assert names["trained"].step == names["summary"]["steps"]


@pytest.mark.slow
@pytest.mark.optimized
def test_examples_of_the_experiments(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, expected = re.search(PRINTED, EXPERIMENTS, re.DOTALL).groups()
  blocks = re.findall(r"```python\n(.*?)```", EXPERIMENTS, re.DOTALL)
  [training] = [
    block for block in blocks if "make_run" in block
  ]  # the learning of dictionaries needs data
  names = {}
  run(training, names)
  assert names["trained"].step == names["summary"]["steps"]
  assert run(code, names) == expected
  assert names["gradient"].shape == (256, 1)


@pytest.mark.parametrize("text", [README, EXPERIMENTS, CONTRIBUTING])
def test_files_and_modules_exist(text):
  for name in re.findall(r"--flagfile=(\S+?\.flags)", text):
    assert (ROOT / name).is_file(), name
  for module in re.findall(r"python -m ((?:experiments|tests)[\w.]+\w)", text):
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module


def test_flags_exist():
  """Every flag on the experiments' page is one of a command, of Slurm or of XLA."""
  known = {"flagfile", "help", "suite", "json", "peer_python", "signal"}
  known |= {"xla_gpu_deterministic_ops", "xla_gpu_enable_command_buffer"}
  known |= {"name", "folder", "licence"}  # of experiments.publish
  known |= {"cases", "solvers"}  # of experiments.benchmark
  for command in (experiments.flags, report, reproduce, robustness):
    values = absl_flags.FlagValues()
    command.define_flags(values)
    known |= set(values) | {f"no{name}" for name in values if values[name].boolean}
  assert set(re.findall(r"(?<![\w-])--(\w+)", EXPERIMENTS)) <= known


def test_flagfiles():
  table = EXPERIMENTS.split("| flagfile |")[1].split("\n\n")[0]
  first = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
  listed = {name for cell in first for name in re.findall(r"`(\w+)`", cell)}
  assert listed == {path.stem for path in (ROOT / "experiments").glob("*.flags")}


def test_accuracies_of_the_paper():
  """The README's table has the accuracies that `experiments.reproduction.paper` holds."""
  paper = {row.name: row.accuracy["cifar10"] for row in ROWS.values()}
  table = README.split("## Results")[1]
  shown = re.findall(r"^\| (ResNet-20|MSDNet d = 6).*\| ([\d.]+) % \|$", table, re.MULTILINE)
  assert len(shown) == 2
  for network, accuracy in shown:
    assert accuracy == f"{paper['resnet20' if network == 'ResNet-20' else 'msdnet6']:.1f}"
  gains = [paper[name] - paper["msdnet6"] for name in ("msdcsc6_u1", "msdcsc6_u2")]
  assert f"(paper: {gains[0]:.1f} and {gains[1]:.1f})" in table


def test_files_named_in_contributing():
  names = re.findall(r"`((?:cscjax|experiments|tests|\.ci)/[\w./]*\w)`", CONTRIBUTING)
  assert len(names) > 20
  assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_api_pages_are_built_in_ci_as_contributing_says():
  [command] = re.findall(r"-W error -m pdoc .*", CONTRIBUTING)
  assert command in (ROOT / ".ci" / "run").read_text()


def test_the_citation_is_of_this_version():
  citation = (ROOT / "CITATION.cff").read_text()
  assert f"\nversion: {cscjax.__version__}\n" in citation
  [doi] = re.findall(r"\n  doi: (\S+)", citation)
  assert doi in README
