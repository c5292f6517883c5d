"""Prints the layers of a network.

    python -m experiments.describe --flagfile=experiments/msdcsc12.flags

Takes the flags of experiments.run. Prints a table with the output shape, dictionary, stride, dilation,
weights and FLOPs of each layer. The FLOPs are those of the forward pass of one example, where a
multiply-add counts as 2. With --json it prints one JSON object: parameters, filter_parameters,
forward_flops and layers.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags as absl_flags

from cscjax.data import dataset_shape
from cscjax.models import describe
from cscjax.runs import Config, make_model
from cscjax.training import parameter_count
from experiments import cli, flags, text_tables


def main() -> None:
  """Prints the layers of the network that the flags describe."""
  config = flags.config_from_flags()
  if absl_flags.FLAGS.json:
    print(json.dumps(summarize(config)))
  else:
    print(table(summarize(config)))


def summarize(config: Config) -> dict[str, Any]:
  """Returns the JSON object of --json: the layers of the configured network, and its totals."""
  example_shape, num_classes = dataset_shape(config.dataset)
  model = make_model(config, num_classes)
  x = jax.ShapeDtypeStruct((1, *example_shape), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
  layers = describe(model, example_shape)
  return {
    "model": config.model,
    "dataset": config.dataset,
    "parameters": parameter_count(params),
    "filter_parameters": sum(layer.weights for layer in layers if layer.stride),
    "forward_flops": sum(layer.forward_flops for layer in layers),
    "layers": [dataclasses.asdict(layer) for layer in layers],
  }


def table(summary: dict[str, Any]) -> str:
  """Returns the table of a summary, one line per layer and a line of totals."""
  rows = [("layer", "output", "dictionary", "stride", "dilation", "weights", "MFLOPs")]
  for layer in summary["layers"]:
    repeats = f"{layer['repeats']} x " if layer["repeats"] > 1 else ""
    rows.append(
      (
        layer["name"],
        _shape(layer["output"]),
        repeats + _shape(layer["dictionary"]),
        _shape(layer["stride"][:1]),
        _shape(layer["dilation"][:1]),
        f"{layer['weights']:,}",
        f"{layer['forward_flops'] / 1e6:,.2f}",
      )
    )
  totals = (
    f"{summary['parameters']:,} parameters, {summary['filter_parameters']:,} of them filter weights;"
    f" {summary['forward_flops'] / 1e6:,.1f} MFLOPs forward"
  )
  return "\n".join([text_tables.plain(rows), totals])


def _shape(sizes: Sequence[int]) -> str:
  return "x".join(map(str, sizes)) or "-"


if __name__ == "__main__":
  flags.define_flags()
  absl_flags.adopt_module_key_flags(flags)  # so that --help lists them
  absl_flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")
  cli.run(main, prints_only=True, topics=flags.topics())
