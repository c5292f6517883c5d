"""The theory as functions: of any dictionary, code or trained network."""

from cscjax.theory._certify import Certificate, CertificateRow, FailedCondition, Pursuable, certify
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
  "Certificate",
  "CertificateRow",
  "Condition",
  "FailedCondition",
  "LassoProblem",
  "LayerStability",
  "Pursuable",
  "Recovery",
  "bp_recovery",
  "certify",
  "failed_dimensions",
  "ill_conditioned_example",
  "is_unique",
  "layered_stability",
  "msd_csc_spectrum",
  "patch_norm",
  "patch_sparsity",
  "stripe_sparsity",
  "support_size",
  "thresholding_recovery",
  "uniqueness_bound",
]
