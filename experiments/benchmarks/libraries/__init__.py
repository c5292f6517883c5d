"""Adapters for the solvers of each library, in float32 unless a library only has float64.

An adapter is a class whose objects are made from the name of a solver and a problem. It has

    trace(limit, is_done)   passes the objective after iteration 1, 2, ... to `is_done` until it is True
    prepare(iterations)     returns a `Prepared` run of that number of iterations
    device                  the JAX device; None for a library without JAX
    precision               data type

`process` uses the adapters, possibly in an interpreter without cscjax. Therefore a library is only
imported by the objects of its adapter. The results are codes with the shape and the convention of
`Coding` and `DenseLasso`, or filters for `Learning`.
"""

from typing import Any

from experiments.benchmarks.libraries.alphacsc_adapters import Alphacsc, AlphacscLearning
from experiments.benchmarks.libraries.common import Prepared
from experiments.benchmarks.libraries.cscjax_adapters import Cscjax, CscjaxLearning
from experiments.benchmarks.libraries.lasso_adapters import Celer, ScikitLearn
from experiments.benchmarks.libraries.scico_adapters import Scico
from experiments.benchmarks.libraries.sporco_adapters import Sporco, SporcoLearning

__all__ = ["ADAPTERS", "Prepared"]

ADAPTERS: dict[tuple[str, str], Any] = {
  ("cscjax", "Coding"): Cscjax,
  ("cscjax", "DenseLasso"): Cscjax,
  ("cscjax", "Learning"): CscjaxLearning,
  ("sporco", "Coding"): Sporco,
  ("sporco", "Learning"): SporcoLearning,
  ("scico", "Coding"): Scico,
  ("alphacsc", "Coding"): Alphacsc,
  ("alphacsc", "Learning"): AlphacscLearning,
  ("sklearn", "DenseLasso"): ScikitLearn,
  ("celer", "DenseLasso"): Celer,
}
"""Adapter of each library and kind of problem."""
