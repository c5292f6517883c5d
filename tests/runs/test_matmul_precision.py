"""--matmul_precision: the precision in the compiled programs of a run."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from cscjax import training
from cscjax.data import load_dataset
from cscjax.runs import Config, RunError, build, make_model, start
from cscjax.runs._workdir import open_workdir
from experiments.flags import parse
from tests.faults.harness import TINY


def precisions(*arguments):
  """The precisions of all convolutions and products of a run; its network computes no constants."""
  config, dataset = parse([*TINY, "--depth=1", "--unfolding=0", *arguments]), load_dataset("digits")
  trainer, _ = build(config, make_model(config, 10), dataset)
  state, key = start(config, dataset, trainer)

  def programs(state):
    trained = trainer.train(state, training.Examples.of(dataset, "train"), key, np.int32(1))
    return trained, trainer.evaluate(
      trained, training.Examples.of(dataset, "test"), state.metrics, np.int32(0), np.int32(1)
    )

  text = jax.jit(programs).trace(state).lower(lowering_platforms=("cuda",)).as_text()
  found = re.findall(r"stablehlo\.(?:convolution|dot_general)\b.*", text)
  return {precision for line in found for precision in re.findall(r"DEFAULT|HIGHEST", line)}


def test_the_flag_sets_the_precision_of_the_programs(monkeypatch):
  monkeypatch.setattr(
    training._trainer, "compiler_options", lambda: None
  )  # they are options of the CPU backend
  assert precisions() == {"DEFAULT"}
  assert precisions("--matmul_precision=highest") == {"HIGHEST"}


def test_a_run_older_than_the_flag_used_its_default(tmp_path):
  flags = dataclasses.asdict(Config(workdir=str(tmp_path)))
  del flags["matmul_precision"]
  path = tmp_path / "config.json"
  path.write_text(json.dumps({"flags": flags}))
  assert parse([f"--from_config={path}"]).matmul_precision == "default"
  with open_workdir(parse([f"--workdir={tmp_path}"])):
    pass
  with pytest.raises(RunError, match=r"^matmul_precision: .* holds a run with 'default'"):
    with open_workdir(parse([f"--workdir={tmp_path}", "--matmul_precision=highest"])):
      pass
