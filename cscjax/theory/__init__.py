"""The theory as functions of any dictionary, code or trained network.

- Uniqueness: `uniqueness_bound` and `is_unique` (Lemma 1).
- Sparsity: `support_size`, and its local forms `stripe_sparsity`, `patch_sparsity` and `patch_norm`.
- Reconstruction: `failed_dimensions` (Definition 1, Theorem 1) and `ill_conditioned_example`.
- The spectrum of an MSD-CSC dictionary: `msd_csc_spectrum` (Lemma 2).
- Stability under noise: `thresholding_recovery`, `bp_recovery` and `layered_stability`.
- Stability of the code of one given signal, finite also for photographs: `stability`.
- All of these for every layer, as a table: `certify`.

Lemmas, Definition 1 and Theorem 1 are numbered as in Zhang & Zhang, National Science Review 2020. The
stability bounds, which that paper cites, are Theorems 10 and 12 of Papyan, Romano & Elad, JMLR 2017.
"""

from cscjax.theory._certify import Certificate, CertificateRow, FailedCondition, Pursuable, certify
from cscjax.theory._lasso_stability import ActiveSet, Stability, stability
from cscjax.theory._lemmas import is_unique, msd_csc_spectrum, uniqueness_bound
from cscjax.theory._reconstruction import LassoProblem, failed_dimensions, ill_conditioned_example
from cscjax.theory._sparsity import patch_norm, patch_sparsity, stripe_sparsity, support_size
from cscjax.theory._stability import (
  Condition,
  LayerStability,
  Recovery,
  bp_recovery,
  layered_stability,
  thresholding_recovery,
)

__all__ = [
  "ActiveSet",
  "Certificate",
  "CertificateRow",
  "Condition",
  "FailedCondition",
  "LassoProblem",
  "LayerStability",
  "Pursuable",
  "Recovery",
  "Stability",
  "bp_recovery",
  "certify",
  "failed_dimensions",
  "ill_conditioned_example",
  "is_unique",
  "layered_stability",
  "msd_csc_spectrum",
  "patch_norm",
  "patch_sparsity",
  "stability",
  "stripe_sparsity",
  "support_size",
  "thresholding_recovery",
  "uniqueness_bound",
]
