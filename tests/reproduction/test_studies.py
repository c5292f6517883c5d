"""The order of the queue, the names and commands of runs, and the estimates of their time."""

import itertools
import json
import pathlib

import pytest

from cscjax.models import create_model, describe
from cscjax.runs import PRECISIONS
from experiments.cli import UsageError
from experiments.flags import parse
from experiments.reproduction.estimates import Rates
from experiments.reproduction.paper import ROWS, TITLES
from experiments.reproduction.studies import PROTOCOLS, Job, Study, create_study, queue
from tests.reproduction.made import record

ROOT = pathlib.Path(__file__).parents[2]
CIFAR10, DIGITS = Study("cifar10", "paper"), Study("digits", "reduced")


def names(table, studies=(CIFAR10,), seeds=(0,)):
  runs = queue([row for row in ROWS.values() if row.table == table], studies, seeds)
  return [job.name for job in runs]


def test_order():
  third = [name.removeprefix("cifar10/").removesuffix("-seed0") for name in names(3)]
  assert third[:4] == ["msdnet6", "msdcsc6_u1", "msdcsc6_u2", "msdcsc6_u2_fista"]
  assert third[4:12] == [name.replace("6", d) for d in ("9", "12") for name in third[:4]]
  assert third[12:] == ["feed_forward", "ml_csc_u1", "ml_csc_u2", "ml_csc_u2_fista"]
  second = names(2)
  assert second[:8] == [
    f"cifar10/{rule}{depth}-v2-seed0"
    for depth in (20, 56)
    for rule in ("plain", "res_csc_simplified", "resnet", "res_csc")
  ]
  assert second[-1] == "cifar10/res_csc218-v2-seed0"


def test_a_seed_is_done_before_the_next_and_a_data_set_before_the_next():
  runs = names(3, (CIFAR10, DIGITS), (4, 1))
  assert len(runs) == len(set(runs)) == 64
  places = [job.partition("/")[0] + job.rpartition("-")[2] for job in runs]
  assert list(dict.fromkeys(places)) == [
    "cifar10seed4",
    "cifar10seed1",
    "digits-reducedseed4",
    "digits-reducedseed1",
  ]
  assert places == sorted(places, key=list(dict.fromkeys(places)).index)


def test_the_command_of_a_run_is_its_configuration():
  job = Job(ROWS["msdcsc6_u2_fista"], Study("svhn_cropped", "reduced"), 7)
  assert job.command == (
    "python -m experiments.run --flagfile=experiments/msdcsc6.flags --solver=fista --unfolding=2"
    " --dataset=svhn_cropped --train_examples=10000 --epochs=6 --decay_epochs=3,5 --evaluate_epochs=2"
    " --seed=7"
  )
  config = job.config(workdir="here")
  assert (config.unfolding, config.solver, config.seed, config.workdir) == (2, "fista", 7, "here")
  assert (config.train_examples, config.epochs, config.decay_epochs) == (10_000, 6, (3, 5))


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_the_command_makes_the_same_configuration_in_every_study(row, monkeypatch):
  monkeypatch.chdir(ROOT)
  combinations = itertools.product(TITLES, PROTOCOLS, ("auto", "none", "standard"), PRECISIONS)
  for study in dict.fromkeys(create_study(*combination) for combination in combinations):
    job = Job(row, study, 5)
    words = job.command.split()
    assert words[:3] == ["python", "-m", "experiments.run"]
    assert parse(words[3:]) == job.config(), job.name


def test_a_study_is_named_by_what_it_changes_and_so_is_its_command():
  names = {
    ("cifar10", "paper", "auto", "float32"): "cifar10",
    ("cifar10", "paper", "standard", "float32"): "cifar10",
    ("cifar10", "paper", "none", "float32"): "cifar10-no-augmentation",
    ("cifar10", "paper", "auto", "bfloat16"): "cifar10-bfloat16",
    ("svhn_cropped", "paper", "none", "float32"): "svhn_cropped",
    ("digits", "reduced", "none", "bfloat16"): "digits-reduced-bfloat16",
    ("digits", "reduced", "standard", "float32"): "digits-reduced-standard-augmentation",
  }
  assert {key: create_study(*key).name for key in names} == names
  job = Job(ROWS["msdnet6"], create_study("cifar10", "paper", "none", "bfloat16"), 7)
  assert job.name == "cifar10-no-augmentation-bfloat16/msdnet6-seed7"
  assert job.command == (
    "python -m experiments.run --flagfile=experiments/msdnet6.flags --dataset=cifar10"
    " --augmentation=none --precision=bfloat16 --seed=7"
  )
  config = job.config()
  assert (config.shift, config.flip, config.precision) == (0, False, "bfloat16")


@pytest.mark.parametrize("field", ["weight_decay", "epochs", "train_examples", "seed", "decay_epochs"])
def test_a_recorded_run_with_other_flags_is_detected(field):
  one = record("msdnet6", 87.0)
  assert one.job.differences(one.flags) == []
  assert one.job.differences(one.flags | {"data_dir": "elsewhere", "dispatch_seconds": 2.0}) == []
  (difference,) = one.job.differences(one.flags | {field: 12345})
  assert difference.startswith(f"{field} 12345, now ")


def rates(tmp_path, rows=(), records=(), device="cpu"):
  path = tmp_path / "rates.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return Rates(records, path, device)


def measured(case, rate, **changes):
  row = {"case": case, "framework": "cscjax", "device": "cpu", "precision": "float32"}
  return row | {"images_per_second": rate} | changes


def test_minutes_are_images_by_rate(tmp_path):
  row = measured("msdnet6", 400.0)
  found = rates(tmp_path, [row, measured("msdnet6", 9000.0, framework="pytorch")])
  job = Job(ROWS["msdnet6"], CIFAR10, 0)
  assert found.minutes(job) == pytest.approx(150 * (50_000 + 10_000 / 3) / 400 / 60)
  assert found.is_measured(job)
  smaller = Job(ROWS["msdnet6"], Study("cifar10", "reduced"), 0)
  assert found.minutes(smaller) == pytest.approx(6 * (10_000 + 10_000 / 2 / 3) / 400 / 60)


def test_the_rates_of_runs_replace_those_of_the_benchmark(tmp_path):
  made = [
    record("msdnet6", 87.0, seed=s, images_per_second=r) for s, r in enumerate((100.0, 250.0, 300.0))
  ]
  found = rates(tmp_path, [measured("msdnet6", 400.0)], made)
  assert found.minutes(Job(ROWS["msdnet6"], CIFAR10, 9)) == pytest.approx(
    150 * (50_000 + 10_000 / 3) / 250 / 60
  )


def test_rates_that_were_not_measured_are_scaled_by_operations(tmp_path):
  found = rates(tmp_path, [measured("msdnet6", 400.0), measured("feed_forward", 1e-9)])
  job = Job(ROWS["msdcsc6_u1"], CIFAR10, 0)
  flops = [
    sum(
      layer.forward_flops
      for layer in describe(create_model("msd_csc", num_classes=10, depth=6, unfolding=u), (32, 32, 3))
    )
    for u in (0, 1)
  ]
  expected = 150 * (50_000 + 10_000 / 3) / (400 * flops[0] / flops[1]) / 60
  assert found.minutes(job) == pytest.approx(expected)
  assert not found.is_measured(job)


def test_rates_of_another_precision_are_ignored(tmp_path):
  found = rates(tmp_path, [measured("msdnet6", 400.0, precision="bfloat16")], [record("msdnet6", 87.0)])
  half = Job(ROWS["msdnet6"], Study("cifar10", "paper", precision="bfloat16"), 0)
  assert found.minutes(half) == pytest.approx(150 * (50_000 + 10_000 / 3) / 400 / 60)
  assert found.minutes(Job(ROWS["msdnet6"], CIFAR10, 0)) == pytest.approx(
    150 * (50_000 + 10_000 / 3) / 500 / 60
  )


def test_rates_of_another_device_are_ignored(tmp_path):
  found = rates(tmp_path, [measured("msdnet6", 400.0)], [record("msdnet6", 87.0)], device="another")
  assert found.minutes(Job(ROWS["msdnet6"], CIFAR10, 0)) is None


def test_an_invalid_file_of_rates_is_reported(tmp_path):
  path = tmp_path / "none.jsonl"
  path.write_text("torn{")
  for bad in (path, tmp_path / "missing.jsonl"):
    with pytest.raises(UsageError, match=f"--rates: {bad}"):
      Rates([], bad, "cpu")
