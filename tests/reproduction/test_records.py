"""The files of a reproduction are checked; an invalid one is reported, skipped, and made again."""

import json
import os
import pathlib

import pytest
from absl import flags as absl_flags

from experiments import report, reproduce
from experiments.cli import UsageError
from experiments.reproduction import figure3_schema, records
from experiments.reproduction.estimates import Rates
from experiments.run import Signals
from tests.reproduction.made import record

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"


def change(**fields):
  """Returns a function that replaces fields by JSON texts; None removes a field."""

  def changed(text):
    values = json.loads(text)
    lines = {name: json.dumps(value) for name, value in values.items()} | fields
    return "{" + ",".join(f'"{name}": {v}' for name, v in lines.items() if v is not None) + "}"

  return changed


NUMBERS = ('"0.9"', "null", "NaN", "Infinity", "1e999", "[0.9]", "{}", "1e308", "9" * 400, "true", "-1")
DAMAGES = {
  "empty": lambda text: "",
  "cut": lambda text: text[:80],
  "no text": lambda text: b"\xff\xfe\x00",
  "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
  "a list": lambda text: "[]",
  "nested deep": lambda text: "[" * 10_000 + "]" * 10_000,
  "a field nested deep": change(curve="[" * 10_000 + "]" * 10_000),
  "a field nested so that it can just be read": change(curve="[" * 800 + "]" * 800),
  "a key twice": lambda text: text.replace('"seed": 0', '"seed": 0, "seed": 0', 1),
  "an unknown field": change(colour='"red"'),
  "a field too few": change(versions=None),
  **{f"test_accuracy {v:.9}": change(test_accuracy=v) for v in (*NUMBERS, "42") if v != "null"},
  **{f"best_test_accuracy {v}": change(best_test_accuracy=v) for v in ("42", "NaN", '"1"')},
  **{f"seconds {v:.9}": change(seconds=v) for v in NUMBERS},
  **{f"epochs {v:.9}": change(epochs=v) for v in NUMBERS},
  **{f"seed {v:.9}": change(seed=v) for v in (*NUMBERS, "0.0", str(2**32))},
  **{f"architecture {v:.9}": change(architecture=v) for v in (*NUMBERS, "0", "1.0")},
  **{f"images_per_second {v:.9}": change(images_per_second=v) for v in NUMBERS if v != "null"},
  **{
    f"curve {v}": change(curve=v)
    for v in ("null", '"rising"', "{}", "[1, 2]", "[[1]]", "[[1, 0.5, 2]]", "[[1, 42]]", "[[NaN, 1]]")
  },
  **{f"flags {v}": change(flags=v) for v in ("null", "[]", '{"colour": 1}', '{"nesterov": "no"}')},
  **{f"device {v}": change(device=v) for v in ("null", "{}", '{"platform": 1, "kind": 2, "count": 3}')},
  "versions without jax": change(versions="{}"),
  "versions of numbers": change(versions='{"jax": 1}'),
  "a date in words": change(date='"yesterday"'),
  "a status of its own": change(status='"fine"'),
  "an unknown row": change(row='"msdnet7"'),
  "a row that is a list": change(row='["msdnet6"]'),
  "the paper's protocol on the digits": change(dataset='"digits"'),
  "an accuracy that is not its curve's": change(test_accuracy="0.5"),
  "a best accuracy that is not its curve's": change(best_test_accuracy="0.5"),
  "no accuracy beside a curve": change(test_accuracy="null"),
  "a curve beyond its epochs": change(epochs="75"),
  "a curve that goes back": change(curve="[[2, 0.88], [1, 0.87]]"),
  "an epoch twice": change(curve="[[1, 0.88], [1, 0.87]]"),
  "more epochs than its flags have": change(status='"interrupted"', epochs="1e8"),
  "another's": change(row='"msdnet9"'),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_an_invalid_record_is_reported_and_skipped(what, tmp_path, capsys):
  good, bad = record("msdnet6", 87.0), record("msdnet6", 88.0, seed=1)
  for one in (good, bad):
    records.save(tmp_path, one)
  file = records.path(tmp_path, record("msdnet6", 87.0).job)
  damaged = DAMAGES[what](file.read_text())
  file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
  assert records.read(tmp_path) == [bad]
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"warning: {file} is left out: ")


@pytest.mark.parametrize(
  "make",
  [os.mkdir, os.mkfifo, lambda file: file.symlink_to(file), lambda file: file.symlink_to("/dev/zero")],
)
def test_anything_but_a_regular_file_is_reported_and_skipped(make, tmp_path, capsys):
  file = records.path(tmp_path, record("msdnet6", 87.0).job)
  file.parent.mkdir(parents=True)
  make(file)
  assert records.read(tmp_path) == []
  assert "msdnet6-seed0.json is left out: " in capsys.readouterr().err


def test_valid_records(tmp_path, capsys):
  found = [
    record("msdnet6", 87.0, test_accuracy=1, best_test_accuracy=1.0, curve=[[3, 1]], architecture=2),
    record("plain20", 10.0, status="diverged", test_accuracy=None, best_test_accuracy=None, curve=[]),
    record("msdnet9", 0.0, status="interrupted", images_per_second=None, git_revision=None),
  ]
  for one in found:
    records.save(tmp_path, one)
  assert {one.row: one for one in records.read(tmp_path)} == {one.row: one for one in found}
  file = records.path(tmp_path, found[2].job)
  file.write_text(change(architecture=None)(file.read_text()))
  assert {one.row: one.architecture for one in records.read(tmp_path)}["msdnet9"] == 1
  assert capsys.readouterr().err == ""


def as_before_augmentation(text):
  """Returns the text of a record as it was written before `--augmentation` existed."""
  values = json.loads(text)
  del values["flags"]["augmentation"]
  return json.dumps(values)


def old_results(folder):
  """Writes two CIFAR-10 records from before `--augmentation` at their old paths, of Tables 3 and 2."""
  plain, augmented = record("msdnet6", 82.7, augmentation="none"), record("plain20", 90.0)
  old_place = folder / "runs" / "cifar10" / "msdnet6-seed0.json"
  for one in (plain, augmented):
    records.save(folder, one)
    file = records.path(folder, one.job)
    file.write_text(as_before_augmentation(file.read_text()))
  records.path(folder, plain.job).rename(old_place)
  return plain, augmented, old_place


@pytest.mark.slow
def test_records_from_before_augmentation_was_a_flag_are_a_study_of_their_own(tmp_path, capsys):
  plain, augmented, old_place = old_results(tmp_path)
  found = {one.row: one.job for one in records.read(tmp_path)}
  assert found == {"msdnet6": plain.job, "plain20": augmented.job}
  assert plain.job.study.name == "cifar10-no-augmentation"
  assert augmented.job.study.name == "cifar10"
  report.main(parse(report, f"--results={tmp_path}"))
  text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
  table = text.split("## CIFAR10, no augmentation\n")[1].split("### Networks of Table 3")[1]
  assert "82.70 (1)" in table
  assert old_place.exists()  # a report does not move files
  assert capsys.readouterr().err == ""


def test_a_queue_moves_the_files_of_older_runs(tmp_path):
  plain, augmented, old_place = old_results(tmp_path)
  for folder, name in (("pictures", "msdnet6-seed0.png"), ("work", "msdnet6-seed0/config.json")):
    file = tmp_path / folder / "cifar10" / name
    file.parent.mkdir(parents=True)
    file.write_text(folder)
  for _ in range(2):  # the second time moves nothing
    records.move_old(tmp_path, records.read(tmp_path))
    assert {one.job for one in records.read(tmp_path)} == {plain.job, augmented.job}
    assert records.path(tmp_path, plain.job).exists()
    assert not old_place.exists()
    moved = tmp_path / "pictures" / "cifar10-no-augmentation" / "msdnet6-seed0.png"
    assert moved.read_text() == "pictures"
    moved = tmp_path / "work" / "cifar10-no-augmentation" / "msdnet6-seed0" / "config.json"
    assert moved.read_text() == "work"
  new = record("msdnet6", 87.0)
  records.save(tmp_path, new)
  assert records.path(tmp_path, new.job) == old_place
  newer = tmp_path / "work" / "cifar10" / "msdnet6-seed0"
  newer.mkdir(parents=True)
  records.move_old(tmp_path, records.read(tmp_path))
  assert {one.job for one in records.read(tmp_path)} == {plain.job, augmented.job, new.job}
  assert newer.exists()


def test_a_run_never_replaces_an_older_record_of_another_study(tmp_path):
  _, _, old_place = old_results(tmp_path)
  before = old_place.read_text()
  records.save(tmp_path, record("msdnet6", 87.0))
  assert old_place.with_name("msdnet6-seed0.json.bad").read_text() == before


def parse(command, *arguments):
  values = absl_flags.FlagValues()
  command.define_flags(values)
  values(["command", *map(str, arguments)])
  return values


def test_the_cell_of_an_invalid_record_runs_again_and_the_old_file_is_kept(
  tmp_path, monkeypatch, capsys
):
  job = record("msdnet6", 87.0, dataset="digits", protocol="reduced").job
  file = records.path(tmp_path, job)
  file.parent.mkdir(parents=True)
  file.write_text("torn{")
  made = record("msdnet6", 91.0, dataset="digits", protocol="reduced")

  def make(job, results, data_dir, budget: Signals):
    records.save(results, made)
    return made

  monkeypatch.setattr(reproduce, "make", make)
  arguments = ("--protocol=reduced", "--dataset=digits", "--rows=msdnet6", "--seeds=0")
  assert reproduce.main(parse(reproduce, *arguments, f"--results={tmp_path}")) == 0
  printed = capsys.readouterr()
  assert f"warning: {file} is left out" in printed.err
  assert "91.00 (1)" in printed.out
  assert records.read(tmp_path) == [made]
  assert file.with_name("msdnet6-seed0.json.bad").read_text() == "torn{"


@pytest.mark.slow
def test_a_report_skips_invalid_files(tmp_path, capsys):
  for seed, accuracy in enumerate((87.0, 88.0)):
    records.save(tmp_path, record("msdnet6", accuracy, seed=seed))
  file = records.path(tmp_path, record("msdnet6", 87.0).job)
  file.write_text(change(test_accuracy="42")(file.read_text()))
  (tmp_path / "figure3.json").write_text('{"torn')
  report.main(parse(report, f"--results={tmp_path}"))
  said = capsys.readouterr().err.splitlines()
  assert [line.split(" is left out: ")[0] for line in said] == [
    f"warning: {file}",
    f"warning: {tmp_path / 'figure3.json'}",
  ]
  text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
  assert "88.00 (1)" in text
  assert "4200" not in text
  assert "Not run yet" in text


def places(value, path=()):
  """Yields the path to each value within a JSON value, and to the first three items of each list."""
  yield path
  items = (
    value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
  )
  for key, item in list(items)[:3] if isinstance(value, list) else items:
    yield from places(item, (*path, key))


FREE = ("date", "seconds", "versions", "git_revision", "xla_flags", "device", "sensitivity", "outcome")


@pytest.mark.slow
@pytest.mark.parametrize("bad", [None, "text", [], {}, float("nan"), 1e308, True, -1])
def test_every_invalid_value_in_figure_3_is_rejected(bad):
  """Each value that the verdict and the plot depend on is replaced in turn."""
  text = (RESULTS / "figure3.json").read_text()
  results = json.loads(text)
  assert figure3_schema.checked(results) == results
  for place in places(results):
    if place and place[0] in (*FREE, "verdict"):
      continue
    fits = place and (
      (place[-1] == "final_loss" and bad is None) or (place[-1] == "nonnegative" and bad is True)
    )
    changed = inner = {"results": json.loads(text)}
    for key in ("results", *place)[:-1]:
      inner = inner[key]
    inner[("results", *place)[-1]] = bad
    if not fits and not (bad == [] and place == ("settings", "beta_factors")):
      with pytest.raises(ValueError, match=r"expected|lacks"):
        figure3_schema.checked(changed["results"])


@pytest.mark.parametrize("rate", ['"fast"', "NaN", "[1]", "0", "-1", "1e308", "9" * 400])
def test_an_invalid_rate_is_reported_with_its_line(rate, tmp_path):
  path = tmp_path / "rates.jsonl"
  row = '{"framework": "cscjax", "device": "cpu", "precision": "float32", "case": "msdnet6", '
  path.write_text(row + '"images_per_second": 1.5}\n' + row + f'"images_per_second": {rate}}}\n')
  with pytest.raises(UsageError, match=f"^--rates: {path} .*(line 2|finite)"):
    Rates([], path, "cpu")
