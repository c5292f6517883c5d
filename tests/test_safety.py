"""What untrusted files and the network can do: nothing."""

import ast

import pytest

from tests.faults.harness import ROOT, TINY, run, summary

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNPACKS = {"extractall", "unpack_archive", "extract"}
NETWORK = {"urllib", "http", "socket", "requests", "ftplib", "smtplib"}
MAY_CONNECT = {
  "cscjax/data/_download.py",  # data sets, where --download lets it
  "cscjax/runs/_processes.py",  # those of one run, where a coordinator asks for several
}


def dangers(source, path):
  """What a file does that it may not: (line, what)."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import | ast.ImportFrom):
      names = (
        [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
      )
      for name in names:
        package = name.partition(".")[0]
        if package in PICKLES or (package in NETWORK and path not in MAY_CONNECT):
          yield node.lineno, f"imports {name}"
    elif isinstance(node, ast.Call):
      name = ast.unparse(node.func)
      given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
      if name in SHELLS or given.get("shell", "False") != "False":
        yield node.lineno, f"{name}: a shell"
      if name.endswith(("np.load", "numpy.load", "np.save")) and given.get("allow_pickle") != "False":
        yield node.lineno, f"{name} without allow_pickle=False"
      if name.rpartition(".")[2] in UNPACKS:
        yield node.lineno, f"{name}: unpacks an archive"
      if name in {"eval", "exec"}:
        yield node.lineno, f"{name}: runs text"


def test_no_pickle_no_shell_no_unpacking_and_a_network_only_where_it_was_asked_for():
  paths = [*ROOT.glob("cscjax/**/*.py"), *ROOT.glob("experiments/**/*.py")]
  assert len(paths) > 60
  found = []
  for path in paths:
    name = path.relative_to(ROOT).as_posix()
    found += [(name, *danger) for danger in dangers(path.read_text(encoding="utf-8"), name)]
  assert found == []


@pytest.mark.parametrize(
  "source",
  [
    "import pickle",
    "from joblib import load",
    "import numpy as np\nnp.load(path)",
    "np.load(path, allow_pickle=True)",
    "os.system('ls')",
    "subprocess.run('ls', shell=True)",
    "archive.extractall(folder)",
    "shutil.unpack_archive(path)",
    "import urllib.request",
    "def f():\n  from http import client",
    "eval(text)",
  ],
)
def test_finds_a_planted_danger(source):
  assert len(list(dangers(source, "cscjax/data/_load.py"))) == 1


FORBID = """
import socket
def refuse(*arguments, **options):
  raise RuntimeError("the network was used")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse
"""


@pytest.mark.slow
def test_a_run_uses_no_network(tmp_path, monkeypatch):
  (tmp_path / "sitecustomize.py").write_text(FORBID)
  monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
  assert summary(run(*TINY, "--max_steps=3", f"--workdir={tmp_path / 'run'}"))["status"] != "interrupted"
  done = run("--dataset=cifar10", f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'no'}")
  assert "the network was used" in done.stderr  # where a download is asked for, it is found out
