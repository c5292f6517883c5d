"""`~` is replaced in the paths of all commands, flagfiles and config.json."""

import json

import pytest
from absl import flags as absl_flags

from experiments import (
  benchmark,
  cli,
  flags,
  gaussian_centers,
  pictures,
  prepare_data,
  report,
  reproduce,
)

PATHS = {
  # Of run and describe.
  flags: ["from_config", "data_dir", "cache_dir", "init_from", "compilation_cache", "workdir"],
  reproduce: ["results", "data_dir", "rates"],
  report: ["results", "out", "readme"],
  gaussian_centers: ["workdir"],
  pictures: ["workdir", "data_dir"],
  prepare_data: ["data_dir", "cache_dir", "shards"],
  benchmark: ["peer_python"],
}


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  return tmp_path


@pytest.mark.parametrize("command", PATHS, ids=lambda command: command.__name__)
def test_which_flags_of_a_command_are_paths(command, monkeypatch):
  found = []
  for name in filter(lambda name: name.startswith("DEFINE_"), dir(absl_flags)):
    monkeypatch.setattr(absl_flags, name, lambda *_, **__: None)
  for module in (cli, flags):
    monkeypatch.setattr(module, "define_path", lambda name, *_: found.append(name))
  command.define_flags()
  assert found == PATHS[command]


def test_command_line_flagfile_and_config_json(home):
  (home / "my.flags").write_text("--dataset=digits\n--workdir=~/runs\n--data_dir=~root/data\n")
  (home / "config.json").write_text(json.dumps({"flags": {"compilation_cache": "~/compiled"}}))
  config = flags.parse(["--flagfile=~/my.flags", "--from_config=~/config.json"])
  assert config.workdir == f"{home}/runs"
  assert config.data_dir == "/root/data"
  assert config.compilation_cache == f"{home}/compiled"
  assert flags.parse(["--workdir=~"]).workdir == str(home)
  assert flags.parse(["--workdir=a~b/~"]).workdir == "a~b/~"


def test_an_unknown_user_is_an_error(home):
  with pytest.raises(absl_flags.IllegalFlagValueError, match=r"--workdir.*\./~nobody-there/runs"):
    flags.parse(["--workdir=~nobody-there/runs"])
