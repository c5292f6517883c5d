"""The commands that make the shipped dictionaries and that publish a trained network."""

import datetime
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cscjax import pretrained
from cscjax.pretrained import load_pretrained
from experiments import learn_dictionaries
from experiments import publish as publish_command
from experiments.cli import UsageError
from tests.faults import harness


def test_the_photographs_of_the_dictionaries_are_used_nowhere_else():
  """A test or a notebook that used them would show the dictionaries on their training data."""
  folders = ("tests", "experiments/notebooks")
  files = [path for folder in folders for path in (harness.ROOT / folder).rglob("*")]
  texts = [path.read_text() for path in files if path.suffix in (".py", ".ipynb")]
  assert any("data.astronaut(" in text for text in texts)
  for name in learn_dictionaries.GREY:
    assert not any(f"data.{name}(" in text for text in texts)


@pytest.mark.parametrize("name", learn_dictionaries.RECIPES)
def test_a_shipped_dictionary_is_that_of_its_recipe(name):
  recipe, shipped = learn_dictionaries.RECIPES[name], load_pretrained(name)
  filters = shipped.dictionary.filters
  assert filters.shape[2:] == (recipe.channels, sum(count for _, count in recipe.kernel))
  assert filters.shape[0] == filters.shape[1] == max(size for size, _ in recipe.kernel)
  assert ", ".join(recipe.photographs) in shipped.card["data"]
  assert (
    f"beta {learn_dictionaries.BETA:g}, {learn_dictionaries.STEPS} steps" in shipped.card["protocol"]
  )


@pytest.mark.slow
@pytest.mark.optimized
def test_a_dictionary_is_learned(tmp_path, monkeypatch):
  monkeypatch.setattr(learn_dictionaries, "STEPS", 20)
  result = learn_dictionaries.learn("grey-multiscale", str(tmp_path))
  found = load_pretrained("grey-multiscale", folder=tmp_path)
  assert found.dictionary.filters.shape == (12, 12, 1, 72)
  assert found.card["result"] == result
  learned, noise = (float(part.rpartition(" ")[2]) for part in result.split(", "))
  assert 0 < learned < noise
  assert found.card["date"] == f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"


def publish(*arguments):
  command = [sys.executable, "-m", "experiments.publish", *arguments]
  return subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=False)


SUMMARY = {"status": "ok", "steps": 22, "parameters": 5, "test_accuracy": 0.5}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, "ended well, got one that is not complete$"),
    (json.dumps(SUMMARY | {"status": "diverged"}), "ended well, got one that is diverged$"),
    # The run was resumed, and killed after a later checkpoint.
    (json.dumps(SUMMARY | {"steps": 11}), "ended well, got one that is not complete$"),
    ('{"status": "ok"', r"summary\.json cannot be used"),
    ("[]", r"summary\.json cannot be used \(summary: expected an object"),
    (json.dumps({"status": "ok", "steps": 22}), "summary: lacks parameters"),
  ],
)
def test_a_run_that_has_not_ended_well_is_not_published(tmp_path, text, message):
  path = tmp_path / "summary.json"
  if text is not None:
    path.write_text(text)
  with pytest.raises(UsageError, match=f"^--workdir: .*{message}"):
    publish_command._summary(path, 22)


@pytest.mark.slow
def test_the_network_of_a_run_is_published(tmp_path):
  workdir, folder = tmp_path / "run", tmp_path / "published"
  done = harness.run(
    *("--dataset=digits", "--model=msdnet", "--depth=2", "--width=12", "--epochs=4", "--seed=3"),
    *("--batch_size=64", "--learning_rate=0.2"),
    f"--workdir={workdir}",
  )
  summary = harness.summary(done)
  arguments = [f"--workdir={workdir}", "--name=tiny", f"--folder={folder}", "--licence=free"]
  done = publish(*arguments)
  assert (done.returncode, done.stderr) == (0, "")
  found = load_pretrained("tiny", folder=folder)
  assert list(found.card) == list(pretrained.CARD_FIELDS)
  assert f"{summary['parameters']:,} parameters" in found.card["description"]
  assert f"test accuracy {summary['test_accuracy']:.4f}" in found.card["result"]
  assert "depth 2, width 12, epochs 4" in found.card["protocol"]
  assert "seed 3" in found.card["protocol"]
  assert str(tmp_path) not in "".join(p.read_text("latin-1") for p in folder.iterdir())
  test = found.network.load_dataset().test
  accuracy = np.mean(found.network.predict(test.images).labels == test.labels)
  assert accuracy == pytest.approx(summary["test_accuracy"], abs=1e-6)

  done = publish(*arguments, "--name=a/b")
  assert done.returncode == 2
  assert done.stderr.startswith("error: --name: expected letters, digits,")
  path = pathlib.Path(workdir, "summary.json")
  path.write_text(json.dumps(summary | {"status": "diverged"}))
  done = publish(*arguments)
  assert done.returncode == 2
  assert done.stderr == "error: --workdir: expected a run that ended well, got one that is diverged\n"
