import subprocess
import sys

import pytest

CODE = """
from absl import flags, logging
from cscjax.data import DataError
from experiments import cli
flags.DEFINE_integer("number", 1, "")
def main():
  logging.info("noise")
  {body}
cli.run(main)
"""


def run(body, *arguments):
  command = [sys.executable, "-c", CODE.format(body=body), *arguments]
  return subprocess.run(command, text=True, capture_output=True, check=False)


@pytest.mark.parametrize(
  ("body", "arguments", "error"),
  [
    ("raise cli.UsageError('two\\nlines')", [], "error: two lines\n"),
    ("raise DataError('no data')", [], "error: no data\n"),
    (
      "from cscjax.extras import needs\n  with needs('plots', 'it needs x'): import x",
      [],
      "error: it needs x (No module named 'x'): pip install 'cscjax[plots]'\n",
    ),
    ("print(1)", ["one", "two"], "error: unexpected argument: one two\n"),
  ],
)
def test_usage_errors_are_one_line(body, arguments, error):
  done = run(body, *arguments)
  assert (done.returncode, done.stdout, done.stderr) == (2, "", error)


@pytest.mark.parametrize("argument", ["--number=x", "--flagfile=nowhere.flags", "--nmber=2"])
def test_bad_flags_are_one_line(argument):
  done = run("print(1)", argument)
  assert (done.returncode, done.stdout) == (2, "")
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ")
  assert argument.strip("-").split("=")[-1] in line or "nmber" in line


def test_bugs_keep_their_traceback():
  done = run("raise ValueError('bug')")
  assert done.returncode == 1
  assert "Traceback" in done.stderr
  assert done.stderr.endswith("ValueError: bug\n")


def test_the_result_of_main_is_the_exit_code():
  done = run("return flags.FLAGS.number", "--number=3")
  assert (done.returncode, done.stderr) == (3, "")
  assert run("print(1)").returncode == 0


def test_verbosity_shows_the_log_messages():
  assert "noise" in run("return 0", "--verbosity=0").stderr
