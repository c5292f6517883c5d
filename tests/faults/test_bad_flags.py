"""Invalid command lines: exit code 2, one line that names the problem, and nothing written.

The commands are executed in this process, up to the point where a run would start. To add a case, add
an entry: (a word that the line contains, flags), or (a word that the line contains, a function that
prepares a folder and returns the flags).
"""

import dataclasses
import json
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver

from cscjax.data import Split, cache_folder, fill_cache
from cscjax.runs import Config
from cscjax.training import seal
from experiments import cli, flags, run
from experiments.reproduction.figure3 import Settings
from tests.faults.harness import contents, cut


@pytest.fixture(scope="module", autouse=True)
def _flags():
  if "epochs" not in absl_flags.FLAGS:
    flags.define_flags()


def refuse(arguments, capsys):
  """Returns the error message of a command, which must exit with code 2 and print nothing else."""

  def command():
    cli._parse(["run", *map(str, arguments)], topics={})
    cli._guarded(run.main)

  with flagsaver.flagsaver(), pytest.raises(SystemExit) as error:
    command()
  said = capsys.readouterr()
  assert error.value.code == 2
  assert said.out == ""
  (line,) = said.err.splitlines()
  assert line.startswith("error: ")
  return line


FLAGS = {
  "no value": ("epochs", ["--epochs"]),
  "the home of an unknown user": ("--workdir", ["--workdir=~nobody-there/run"]),
  "a float for an integer": ("--epochs", ["--epochs=1e3"]),
  "a word for an integer": ("depth", ["--depth=six"]),
  "an unknown flag": ("unfoldings", ["--unfoldings=2"]),
  "an unknown network": ("model", ["--model=vgg"]),
  "a fraction of layers": ("--depth", ["--depth=20.5"]),
  "not a number": ("--c", ["--c=small"]),
  "a value of a negated flag": ("--nonorm", ["--nonorm=1"]),
  "neither yes nor no": ("--norm", ["--norm=perhaps"]),
  "a fraction in a list": ("--dilations", ["--dilations=1,2.5"]),
  "a word in a list": ("--dilations", ["--dilations=1,x"]),
  "an empty list": ("--dilations", ["--dilations="]),
  "a dilation of 0": ("--dilations", ["--dilations=1,0"]),
  "epochs not rising": ("--decay_epochs", ["--decay_epochs=5,5"]),
  "epochs in words": ("--decay_epochs", ["--decay_epochs=late"]),
  "width 0": ("--width", ["--width=0"]),
  "batches of no example": ("--batch_size", ["--batch_size=0"]),
  "unfolding -1": ("--unfolding", ["--unfolding=-1"]),
  "max_steps -1": ("--max_steps", ["--max_steps=-1"]),
  "momentum NaN": ("--momentum", ["--momentum=nan"]),
  "seconds NaN": ("--checkpoint_seconds", ["--checkpoint_seconds=nan"]),
  "seconds infinite": ("--dispatch_seconds", ["--dispatch_seconds=inf"]),
  "7 layers": ("--depth", ["--model=res_csc", "--depth=7"]),
  "no block in an iteration of the loop": ("--unroll", ["--model=res_csc", "--unroll=0"]),
  "blocks of MSD-CSC": ("--unroll", ["--unroll=2"]),
  "channels of Res-CSC": ("--channel_multiple", ["--model=res_csc", "--channel_multiple=8"]),
  "c NaN": ("--c", ["--model=res_csc", "--c=nan"]),
  "c infinite": ("--c", ["--model=res_csc", "--c=-inf"]),
  "c of a network without c": ("--c", ["--model=resnet", "--c=0.1"]),
  "dilations of a network without dilations": ("--dilations", ["--model=plain", "--dilations=1,2"]),
  "solver of a network without a solver": ("--solver", ["--model=resnet", "--solver=fista"]),
  "unfolding of MSDNet": ("--unfolding", ["--model=msdnet", "--unfolding=1"]),
  "batch above the data": ("--batch_size", ["--batch_size=1438"]),
  "batch above what validation leaves": (
    "--batch_size",
    ["--batch_size=1000", "--validation_fraction=0.5"],
  ),
  "validation of no example": ("--validation_fraction", ["--validation_fraction=0.0001"]),
  "validation of all": ("--validation_fraction", ["--validation_fraction=0.9999"]),
  "more examples than there are": ("--train_examples", ["--train_examples=1438"]),
  "a shift by the whole image": ("--shift", ["--shift=8"]),
  "a folder that does not exist": ("--dataset: no such directory", ["--dataset=folder:nowhere"]),
  "a file that does not exist": ("--dataset: no such file", ["--dataset=npz:nowhere.npz"]),
  "no path": ("--dataset", ["--dataset=folder:"]),
  "a run that does not exist": ("--init_from: no run in nowhere", ["--init_from=nowhere"]),
  "an unknown augmentation": ("--augmentation", ["--augmentation=crop"]),
  "a dilation by the whole image": ("--dilations", ["--dilations=1,8"]),
  "epochs above int32 in steps": ("--epochs", ["--epochs=195225787"]),  # of 11 steps
  "decay above int32 in steps": ("--decay_epochs", ["--decay_epochs=1,195225787"]),
  "warm-up above int32 in steps": ("--warmup_epochs", ["--warmup_epochs=195225787"]),
  "parameters above the memory": ("--width", ["--depth=12", "--width=16384"]),
  "seed 2^32, which would be seed 0": ("--seed", ["--seed=4294967296"]),
  "port of 5,000 digits": (
    "--coordinator",
    [f"--coordinator=localhost:{'1' * 5000}", "--num_processes=2", "--process_id=0"],
  ),
  "processes above int32": (
    "--num_processes",
    ["--coordinator=localhost:1234", f"--num_processes={2**31}", "--process_id=0"],
  ),
  "a path of no characters": ("--data_dir", ["--data_dir="]),
  "a workdir of no characters": ("--workdir", ["--workdir="]),
  "a path of undecodable bytes": ("--compilation_cache", ["--compilation_cache=a\udcff"]),
  "no number of processes": ("--num_processes", ["--coordinator=localhost:1234", "--process_id=0"]),
}


@pytest.mark.parametrize("what", FLAGS)
def test_flags(what, tmp_path, capsys):
  name, arguments = FLAGS[what]
  line = refuse(["--dataset=digits", f"--workdir={tmp_path / 'run'}", *arguments], capsys)
  assert name in line
  assert list(tmp_path.iterdir()) == []


def test_a_lack_of_memory_is_an_error_in_one_line(capsys):
  with pytest.raises(SystemExit) as error:
    cli._guarded(lambda: jnp.zeros(2**43))
  assert error.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: out of memory; lower --batch_size, --width or --depth (RESOURCE_EXH")


EXTREMES = (
  "-1",
  str(2**31),
  str(2**63),
  str(2**64),
  str(10**30),
  "nan",
  "inf",
  "-inf",
  "1e308",
  "1e999",
)
NUMBERS = [
  field.name
  for field in dataclasses.fields(Config)
  if set(get_args(field.type) or (field.type,)) & {int, float, tuple[int, ...]}
]
# Large values that are valid.
FITTING = {
  ("c", "-1"),
  *((name, str(2**31)) for name in ("c", "learning_rate", "weight_decay", "seed")),
  *((name, str(n)) for name in ("c", "learning_rate", "weight_decay") for n in (2**63, 2**64)),
}


@pytest.mark.parametrize(
  ("name", "value"), [(n, v) for n in NUMBERS for v in EXTREMES if (n, v) not in FITTING]
)
def test_an_extreme_number_is_an_error(name, value, tmp_path, capsys):
  of_model = ["--model=res_csc"] if name == "c" else []
  of_processes = ["--coordinator=localhost:1234", "--num_processes=2", "--process_id=0"]
  arguments = [*of_model, *(of_processes if name in ("num_processes", "process_id") else [])]
  workdir = f"--workdir={tmp_path / 'run'}"
  line = refuse(["--dataset=digits", *arguments, f"--{name}={value}", workdir], capsys)
  assert f"--{name}" in line
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["-1", str(2**31), str(10**30)])
@pytest.mark.parametrize("name", ["iterations", "width", "unfolding", "lasso_iterations"])
def test_an_extreme_setting_of_figure_3_is_an_error(name, value):
  with pytest.raises(ValueError, match=f"^{name}: "):
    Settings(**{name: int(value)})


@pytest.mark.parametrize(
  ("name", "value"),
  [("beta", (1e308, 1.0)), ("beta_factors", (1e308,)), ("learning_rate", 1e308), ("seeds", (2**32,))],
)
def test_a_setting_of_figure_3_beyond_float32_or_uint32_is_an_error(name, value):
  with pytest.raises(ValueError, match=f"^{name}: "):
    Settings(**{name: value})


def flagfile(content):
  def prepare(folder):
    (folder / "my.flags").write_bytes(content)
    return ["--dataset=digits", f"--flagfile={folder / 'my.flags'}", f"--workdir={folder / 'run'}"]

  return prepare


def from_config(change):
  """Prepares a config.json that the function `change` has turned into other bytes."""

  def prepare(folder):
    whole = json.dumps({"flags": {"dataset": "digits", "epochs": 3, "decay_epochs": [75, 115]}})
    (folder / "config.json").write_bytes(change(whole))
    return [f"--from_config={folder / 'config.json'}", f"--workdir={folder / 'run'}"]

  return prepare


def instead(old, new):
  return lambda text: text.replace(old, new).encode()


def workdir(**files):
  """Prepares a workdir that contains these files; None stands for a folder."""

  def prepare(folder):
    (folder / "run").mkdir()
    (folder / "run" / "lock").touch()
    for name, content in files.items():
      path = folder / "run" / name.replace("_json", ".json")
      path.mkdir() if content is None else path.write_bytes(content)
    return ["--dataset=digits", f"--workdir={folder / 'run'}"]

  return prepare


def sealed(**changes):
  """Prepares a workdir whose config.json was changed without its checksum."""
  config = {**json.loads(json.dumps(seal({"run": "a", "flags": {"dataset": "digits"}}))), **changes}
  return workdir(config_json=json.dumps(config).encode())


def in_the_way(folder):
  (folder / "run").write_text("a file")
  return ["--dataset=digits", f"--workdir={folder / 'run'}"]


def below_a_file(folder):
  (folder / "file").write_text("a file")
  return ["--dataset=digits", f"--workdir={folder / 'file' / 'run'}"]


def data_dir(prepare):
  def with_flags(folder):
    prepare(folder / "data")
    return [
      "--dataset=cifar10",
      "--nodownload",
      f"--data_dir={folder / 'data'}",
      f"--cache_dir={folder / 'cache'}",
      f"--workdir={folder / 'run'}",
    ]

  return with_flags


FILES = {
  "flagfile: a folder": ("flagfile", lambda folder: [f"--flagfile={folder}"]),
  "flagfile: no text": ("utf-8", flagfile(b"--epochs=3\n\xff\xfe\x00")),
  "flagfile: unknown flag": ("unfoldings", flagfile(b"--unfoldings=3\n")),
  "flagfile: bad value": ("--epochs", flagfile(b"--epochs=many\n")),
  "flagfile: a null byte in a path": ("--data_dir", flagfile(b"--data_dir=a\0b\n")),
  "flagfile: no flags": ("hello", flagfile(b"hello\n")),
  "from_config: none": ("--from_config", lambda folder: [f"--from_config={folder / 'none.json'}"]),
  "from_config: a folder": ("--from_config", lambda folder: [f"--from_config={folder}"]),
  "from_config: endless": ("--from_config", lambda folder: ["--from_config=/dev/zero"]),
  "from_config: cut": ("--from_config", from_config(lambda text: text[:30].encode())),
  "from_config: empty": ("--from_config", from_config(lambda _: b"")),
  "from_config: no text": ("--from_config", from_config(lambda _: b"\xff\xfe\x00")),
  "from_config: a list": ("--from_config", from_config(lambda _: b"[]")),
  "from_config: another file": ("--from_config", from_config(lambda _: b'{"status": "ok"}')),
  "from_config: flags in words": ("--from_config", from_config(lambda _: b'{"flags": "none"}')),
  "from_config: unknown flag": ("unfoldings", from_config(instead("epochs", "unfoldings"))),
  "from_config: word for number": ("--epochs", from_config(instead("3", '"many"'))),
  "from_config: null": ("epochs", from_config(instead("3", "null"))),
  "from_config: out of range": ("--epochs", from_config(instead("3", "0"))),
  "from_config: infinite": ("--epochs", from_config(instead("3", "1e999"))),
  "from_config: huge": ("--epochs", from_config(instead("3", "9" * 400))),
  "from_config: nested deep": ("--from_config", from_config(lambda _: b"[" * 100_000)),
  "from_config: no list": ("--decay_epochs", from_config(instead("[75, 115]", "75"))),
  "from_config: words for a list": ("decay_epochs", from_config(instead("[75, 115]", '"75"'))),
  "from_config: a list of lists": ("decay_epochs", from_config(instead("[75, 115]", "[[75], [115]]"))),
  "from_config: a list of null": ("decay_epochs", from_config(instead("[75, 115]", "[null]"))),
  "from_config: a list of fractions": ("decay_epochs", from_config(instead("[75, 115]", "[75.5]"))),
  "from_config: a list of infinity": ("decay_epochs", from_config(instead("[75, 115]", "[1e999]"))),
  "from_config: false for a list": ("decay_epochs", from_config(instead("[75, 115]", "false"))),
  "from_config: NaN": ("epochs", from_config(instead("3", "NaN"))),
  "from_config: true for a number": ("epochs", from_config(instead("3", "true"))),
  "from_config: a list for a number": ("epochs", from_config(instead("3", "[3]"))),
  "from_config: an object for a number": ("epochs", from_config(instead("3", "{}"))),
  "from_config: 401 digits": (
    "momentum",
    from_config(instead('"epochs": 3', f'"momentum": 1{"0" * 400}')),
  ),
  "from_config: 5000 digits": ("--from_config", from_config(instead("3", "1" * 5000))),
  "from_config: deep": ("--from_config", from_config(lambda _: b"[" * 100_000)),
  "from_config: deep flags": ("--from_config", from_config(lambda _: b'{"flags":' * 50_000)),
  "from_config: run is no text": ("run", from_config(instead('"flags"', '"run": 5, "flags"'))),
  "from_config: architecture is no number": (
    "architecture",
    from_config(instead('"flags"', '"architecture": null, "flags"')),
  ),
  "from_config: a wrong checksum": (
    "checksum",
    from_config(instead('"flags"', '"checksum": "", "flags"')),
  ),
  "from_config: unknown data": ("--dataset", from_config(instead("digits", "mnist"))),
  "workdir: a file": ("--workdir", in_the_way),
  "workdir: below a file": ("--workdir", below_a_file),
  "workdir: config.json cut": ("config.json", workdir(config_json=b'{"flags": {"mod')),
  "workdir: config.json empty": ("config.json", workdir(config_json=b"")),
  "workdir: config.json no text": ("config.json", workdir(config_json=b"\xff\xfe\x00")),
  "workdir: config.json a list": ("config.json", workdir(config_json=b"[1]")),
  "workdir: config.json of another": ("config.json", workdir(config_json=b'{"name": "app"}')),
  "workdir: config.json without flags": ("config.json", workdir(config_json=b'{"flags": 3}')),
  "workdir: config.json a folder": ("config.json", workdir(config_json=None)),
  "workdir: config.json changed": ("checksum", sealed(flags={"dataset": "cifar10"})),
  "workdir: the run's name changed": ("checksum", sealed(run="b")),
  "workdir: checksum no text": ("checksum", sealed(checksum=5)),
  "workdir: checkpoints alone": ("config.json", workdir(checkpoints=None)),
  "workdir: another run's": ("--", workdir(config_json=b'{"flags": {"model": "resnet"}}')),
  "data_dir: none": ("--data_dir", data_dir(lambda path: None)),
  "data_dir: a file": ("--data_dir", data_dir(lambda path: path.write_text("a file"))),
  "data_dir: empty": ("--data_dir", data_dir(lambda path: path.mkdir())),
}


@pytest.mark.parametrize("what", FILES)
def test_files(what, tmp_path, capsys):
  name, prepare = FILES[what]
  arguments = prepare(tmp_path)
  before = contents(tmp_path)
  line = refuse(arguments, capsys)
  assert name in line
  assert contents(tmp_path) == before


def test_an_error_of_a_damaged_cache_names_the_file(tmp_path, capsys):
  split = Split(np.zeros((5, 32, 32, 3), np.uint8), np.zeros(5, np.int32))
  fill_cache("cifar10", cache_dir=tmp_path, splits=(split, split))
  cut(cache_folder(tmp_path, "cifar10") / "test_labels.npy")
  before = contents(tmp_path)
  arguments = ["--dataset=cifar10", "--nodownload", f"--cache_dir={tmp_path}", "--batch_size=4"]
  assert "test_labels.npy" in refuse([*arguments, f"--workdir={tmp_path / 'run'}"], capsys)
  assert contents(tmp_path) == before
