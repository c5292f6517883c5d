"""`-h` and `--help`, and flags that a flagfile replaces."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
from absl import flags as absl_flags

from cscjax.runs import Config
from experiments import flags, usage
from tests.faults.harness import ROOT, run


def command(name, *arguments):
  line = [sys.executable, "-m", f"experiments.{name}", *arguments]
  return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def values(monkeypatch):
  """The flags of a run, in place of those of this process."""
  values = absl_flags.FlagValues()
  flags.define_flags(values)
  monkeypatch.setattr(absl_flags, "FLAGS", values)
  return values


def test_help_lists_every_flag_once_by_topic_and_exits_with_0():
  done = run("--help")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("Trains a network.\n")
  topics = ["Flags", *flags.TOPICS.values(), "General"]
  assert re.findall(r"^([A-Z].*):$", done.stdout, re.MULTILINE)[-len(topics) :] == topics
  listed = re.findall(r"^  --(?:\[no\])?(\w+)", done.stdout, re.MULTILINE)
  fields = [field.name for field in dataclasses.fields(Config)]
  assert listed == ["from_config", *fields, "flagfile", "verbosity", "helpfull"]
  entry = "  --dataset=TEXT\n      Data set to train on. One of digits, gaussian_centers,"
  assert entry in done.stdout
  assert "Range: >= 1. The default is 150.\n" in done.stdout


@pytest.mark.parametrize("name", ["report", "gaussian_centers"])
def test_short_help_of_other_commands(name):
  done = command(name, "-h")
  assert (done.returncode, done.stderr) == (0, "")
  assert "\nFlags:\n  --" in done.stdout


def test_the_other_help_flags_of_absl_exit_with_0():
  done = command("report", "--helpfull")
  assert (done.returncode, done.stderr) == (0, "")
  assert "--pdb_post_mortem" in done.stdout


def test_every_topic_begins_with_a_field():
  assert "" not in flags.topics()
  assert list(flags.topics()) == list(flags.TOPICS.values())


def test_help_after_two_dashes_is_an_argument():
  assert usage.is_asked_for(["--depth=6", "-h"])
  assert not usage.is_asked_for(["--depth=6", "--", "-h"])


@pytest.mark.parametrize(
  ("arguments", "names"),
  [
    (["--flagfile=FILE", "--depth=3", "--norm"], set()),
    (["--depth=3", "--norm", "--seed=1", "--flagfile=FILE"], {"depth", "norm"}),
    (["--depth", "3", "--flagfile", "FILE"], {"depth"}),
    (["--depth=6", "--nonorm", "--flagfile=FILE"], set()),  # the same values
    (["--depth=3", "--flagfile=FILE", "--depth=3"], set()),
    (["--depth=3", "--", "--flagfile=FILE"], set()),
  ],
)
def test_which_flags_a_flagfile_replaces(arguments, names, values, tmp_path):
  path = tmp_path / "my.flags"
  path.write_text("# a comment\n--depth=6\n\n--nonorm\n")
  arguments = [argument.replace("FILE", str(path)) for argument in arguments]
  assert usage.replaced(arguments) == dict.fromkeys(names, str(path))


def test_a_flag_before_the_flagfile_gives_a_warning(tmp_path):
  path = tmp_path / "my.flags"
  path.write_text("--model=msdnet\n--dataset=digits\n--depth=2\n--width=4\n")
  done = command("describe", "--json", "--depth=5", f"--flagfile={path}")
  expected = f"warning: --depth has no effect: --flagfile={path} comes after it and contains it, too\n"
  assert (done.returncode, done.stderr) == (0, expected)
  after = command("describe", "--json", f"--flagfile={path}", "--depth=2")
  assert (after.returncode, after.stderr) == (0, "")
  assert json.loads(done.stdout) == json.loads(after.stdout)
