"""experiments.describe, compared with weights and FLOPs computed by hand."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from cscjax.models import create_model, describe

ROOT = pathlib.Path(__file__).parents[2]


def total(model, shape):
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_flops_of_msd_csc_are_one_plus_two_convolutions_per_unfolding():
  rows = [
    describe(create_model("msd_csc", num_classes=5, depth=2, width=4, unfolding=u), (9, 9, 3))
    for u in (0, 1, 3)
  ]
  # At depth 2 there is 2x2 pooling (9 -> 5) before the second layer only.
  first, second = 2 * 81 * 9 * 3 * 4, 2 * 25 * 9 * 7 * 4
  for unfolding, layers in zip((0, 1, 3), rows, strict=True):
    assert [r.forward_flops for r in layers] == [
      first * (1 + 2 * unfolding),
      second * (1 + 2 * unfolding),
      2 * 11 * 5,
    ]
  assert [r.dilation for r in rows[0]] == [(1, 1), (2, 2), ()]
  assert [r.output for r in rows[0]] == [(9, 9, 4), (5, 5, 4), (5,)]


@pytest.mark.parametrize("rule", ["plain", "resnet", "res_csc_simplified", "res_csc"])
def test_scanned_blocks_are_counted_once_per_iteration(rule):
  layers = describe(create_model(rule, num_classes=10, depth=20), (32, 32, 3))
  by_name = {layer.name: layer for layer in layers}
  block = 2 * 32 * 32 * 9 * 16 * 16
  synthesis = rule in ("res_csc_simplified", "res_csc")  # one more transposed convolution
  assert by_name["stage_0/filters_1"].forward_flops == 3 * block
  assert by_name["stage_0/filters_2"].forward_flops == 3 * block * (1 + synthesis)
  assert by_name["stage_0/filters_2"].repeats == 3
  assert by_name["transition_1/filters_1"].stride == (2, 2)
  assert sum(layer.weights for layer in layers) == 267_696 + 640


def test_the_json_object_of_the_command():
  done = subprocess.run(
    [sys.executable, "-m", "experiments.describe", "--json", "--flagfile=experiments/mlcsc.flags"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  found = json.loads(done.stdout)
  assert found["filter_parameters"] == 3_999_232
  model = create_model("ml_csc", num_classes=10, unfolding=1)
  assert found["parameters"] == total(model, (32, 32, 3))
  assert len(found["layers"]) == 7
  assert found["forward_flops"] == sum(layer["forward_flops"] for layer in found["layers"])


def test_signals_of_one_dimension():
  layers = describe(create_model("msd_csc", num_classes=100, depth=3, width=8), (100, 1))
  assert layers[0].forward_flops == 2 * 100 * 3 * 1 * 8
  assert layers[-1].dictionary == (25, 100)
