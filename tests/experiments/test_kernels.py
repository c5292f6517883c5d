"""The kernel counts: of a made-up program, and of the project's programs against the stored counts."""

import json
import subprocess
import sys

import jax
import pytest

from experiments import cli
from experiments.benchmarks import hlo, kernels

# The names of computations and the shapes have XLA's form; most arguments of instructions are omitted.
TEXT = """HloModule jit_f, is_scheduled=true

%fused_add (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %add = f32[4]{0} add(%a, %a)
}

%wrapped_transpose (b: f32[4,2]) -> f32[2,4] {
  %b = f32[4,2]{1,0} parameter(0)
  ROOT %t = f32[2,4]{1,0} transpose(%b), dimensions={1,0}
}

%scaled_transpose (c: f32[4,2]) -> f32[2,4] {
  %c = f32[4,2]{1,0} parameter(0)
  %t.1 = f32[2,4]{1,0} transpose(%c), dimensions={1,0}
  ROOT %m = f32[2,4]{1,0} multiply(%t.1, %t.1)
}

%inner_condition (d: (s32[], f32[4])) -> pred[] {
  %lt = pred[] fusion(%d), kind=kLoop, calls=%fused_add
}

%inner_body (e: (s32[], f32[4])) -> (s32[], f32[4]) {
  %f.1 = f32[4]{0} fusion(%e), kind=kLoop, calls=%fused_add
  ROOT %f.2 = (s32[], f32[4]{0}) fusion(%f.1), kind=kLoop, calls=%fused_add
}

%little (g: f32[4]) -> f32[4] {
  ROOT %g.1 = f32[4]{0} bitcast(%g)
}

%much (h: f32[4]) -> f32[4] {
  %h.1 = f32[4]{0} fusion(%h), kind=kLoop, calls=%fused_add
  ROOT %h.2 = f32[4]{0} copy(%h.1)
}

%called (i: f32[4]) -> f32[4] {
  ROOT %i.1 = f32[4]{0} fusion(%i), kind=kInput, calls=%fused_add
}

%step_condition (j: (s32[], f32[4])) -> pred[] {
  ROOT %j.1 = pred[] fusion(%j), kind=kLoop, calls=%fused_add
}

%step (k: (s32[], f32[4])) -> (s32[], f32[4]) {
  %k.1 = f32[4]{0} get-tuple-element(%k), index=1
  %conv = (bf16[8,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%k.1), window={size=3x3 pad=1_1x1_1}, custom_call_target="__cudnn$convForward"
  %filters = (bf16[8,3,3,3]{3,2,1,0}, /*index=1*/u8[0]{0}) custom-call(%k.1), window={size=3x32 stride=2x2 pad=2_2x2_2}, custom_call_target="__cudnn$convForward"
  %known = (s32[], f32[4]{0}) while(%k), condition=%inner_condition, body=%inner_body, backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}
  %unknown = (s32[], f32[4]{0}) while(%k), condition=%inner_condition, body=%inner_body
  %branch = f32[4]{0} conditional(%p, %k.1, %k.1), branch_computations={%little, %much}
  %call = f32[4]{0} call(%k.1), to_apply=%called
  %moved = f32[2,4]{1,0} fusion(%k.1), kind=kInput, calls=%wrapped_transpose
  %computed = f32[2,4]{1,0} fusion(%k.1), kind=kInput, calls=%scaled_transpose
  ROOT %tuple = (s32[], f32[4]{0}) tuple(%k.1, %call)
}

ENTRY %main (l: f32[4]) -> f32[4] {
  %l = f32[4]{0} parameter(0)
  %first = (s32[], f32[4]{0}) while(%l), condition=%inner_condition, body=%inner_body
  ROOT %all = (s32[], f32[4]{0}) while(%l), condition=%step_condition, body=%step
}
"""  # noqa: E501


def test_an_iteration_of_the_largest_loop_is_counted():
  assert hlo.HloModule(TEXT, filter_size=4).largest_iteration() == hlo.Count(
    # In this order: the convolutions; the loop of known length; the loop of unknown length with its
    # condition; the larger branch; the call; the two transposes; the condition of the outer loop.
    kernels=2 + 5 * 2 + (2 + 1) + 2 + 1 + 2 + 1,
    whole_signal_windows=1,
    loops=2,
    copies_and_transposes=2,
    waits=3,  # the condition of the second loop, the branch, the condition of the outer loop
  )
  assert hlo.HloModule(TEXT, filter_size=32).largest_iteration().whole_signal_windows == 0


def test_a_program_without_a_loop_is_refused():
  with pytest.raises(ValueError, match="no loop"):
    hlo.HloModule(TEXT[: TEXT.index("%step (")], filter_size=4).largest_iteration()


def test_the_suite_needs_the_plugin(monkeypatch):
  monkeypatch.setattr(kernels, "has_plugin", lambda: False)
  with pytest.raises(
    cli.UsageError, match=r"needs JAX's CUDA plugin \(pip install 'cscjax\[cuda12\]'\)"
  ):
    next(kernels.rows(["resnet20"], 128, "bfloat16"))


def test_the_stored_counts_are_of_the_cases():
  for counts in kernels.stored_counts().values():
    assert set(counts) == set(kernels.COUNTED)
    assert all(tuple(count) == hlo.Count._fields for count in counts.values())


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.skipif(not kernels.has_plugin(), reason="JAX's CUDA plugin is not installed")
@pytest.mark.parametrize("case", kernels.COUNTED)
def test_no_program_launches_more_than_it_did(case):
  stored = kernels.stored_counts().get(jax.__version__)
  if stored is None:
    pytest.skip(f"no counts for jax {jax.__version__}: python -m experiments.benchmarks.kernels")
  command = [
    sys.executable,
    "-m",
    "experiments.benchmark",
    "--suite=kernels",
    f"--cases={case}",
    "--json",
  ]
  done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
  assert done.returncode == 0, done.stderr
  row = json.loads(done.stdout)
  grown = {name: (old, row[name]) for name, old in stored[case].items() if row[name] > 1.05 * old}
  assert not grown, f"stored and found: {grown}"
