"""The theory as functions: of any dictionary, code or trained network."""

from cscjax.theory._certify import Certificate, CertificateRow, FailedCondition, Pursuable, certify
from cscjax.theory._reconstruction import LassoProblem, failed_dimensions, ill_conditioned_example
from cscjax.theory._sparsity import patch_norm, patch_sparsity, stripe_sparsity, support_size
from cscjax.theory._spectrum import msd_csc_spectrum
from cscjax.theory._stability import (
  Condition,
  LayerStability,
  Recovery,
  bp_recovery,
  layered_stability,
  thresholding_recovery,
)
from cscjax.theory._uniqueness import is_unique, uniqueness_bound

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
