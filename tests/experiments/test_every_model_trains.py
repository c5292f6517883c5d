"""Each network of the registry learns the digits, in about a minute."""

import json
import pathlib
import subprocess
import sys

import pytest

from cscjax.models import MODELS

ROOT = pathlib.Path(__file__).parents[2]
RESIDUAL = ("rescsc", "--depth=20", "--width=8", "--learning_rate=0.1")
RECIPES = {
  "plain": RESIDUAL,
  "resnet": RESIDUAL,
  "res_csc_simplified": RESIDUAL,
  "res_csc": RESIDUAL,
  "msdnet": ("msdnet6", "--width=16"),
  "msd_csc": ("msdcsc6", "--width=16", "--solver=fista", "--unfolding=2"),
  "feed_forward": ("mlcsc", "--width=8", "--unfolding=0"),
  "ml_csc": ("mlcsc", "--width=8", "--solver=fista", "--unfolding=2"),
}


def test_there_is_a_recipe_for_each_model():
  assert set(RECIPES) == set(MODELS)


@pytest.mark.slow
@pytest.mark.parametrize("model", RECIPES)
def test_digits(tmp_path, model):
  file, *arguments = RECIPES[model]
  done = subprocess.run(
    [
      *(sys.executable, "-m", "experiments.run", f"--flagfile=experiments/{file}.flags"),
      *(f"--model={model}", *arguments, "--dataset=digits", "--batch_size=64"),
      *("--epochs=15", "--decay_epochs=8,12", f"--workdir={tmp_path}"),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  summary = json.loads(done.stdout.splitlines()[-1])
  assert summary["status"] == "ok"
  assert summary["test_accuracy"] >= 0.95, summary
