"""The theory as functions of any dictionary, code or trained network.

- Uniqueness: `uniqueness_bound` and `is_unique` (Lemma 1).
- Sparsity: `support_size`, and its local forms `stripe_sparsity`, `patch_sparsity` and `patch_norm`.
- Reconstruction: `failed_dimensions` (Definition 1, Theorem 1) and `ill_conditioned_example`.
- The spectrum of an MSD-CSC dictionary: `msd_csc_spectrum` (Lemma 2).
- Stability under noise: `thresholding_recovery`, `bp_recovery` and `layered_stability`.
- Stability of the code of one given signal, finite also for photographs: `stability`. For comparison,
  the bound by a constant of the whole dictionary: `encoder_gap`.
- Recovery of a known code from its signal with noise: `recovery`, a table of conditions by coherence, by
  the Babel function (`babel_function`), by the support (`exact_recovery_coefficient`) and by the signs.
- Uniqueness and stability for every layer, as a table: `certify`.
- The robustness of labels: `certify_classifier` for linear classifiers of sparse codes, `certify_labels`
  for networks.

Lemmas, Definition 1 and Theorem 1 are numbered as in Zhang & Zhang, National Science Review 2020. The
stability bounds, which that paper cites, are Theorems 10 and 12 of Papyan, Romano & Elad, JMLR 2017.

## Stability of the code of one signal

The bounds by coherence hold for all signals whose codes are sparse enough. `stability` bounds the code
of one signal. Let `gamma(x)` minimize `1/2 ||x - D code||^2 + sum_j beta_j |code_j|`, let `d_j` be the
atoms, and `r(x) = x - D gamma(x)`.

**A. The reconstruction never moves further than the signal.** By duality, `r(x)` is the projection of x
onto the convex set of all theta with `|d_j^T theta| <= beta_j` for each j. Projections are firmly
nonexpansive, so that for all noise e

    ||r(x + e) - r(x)||^2 + ||D gamma(x + e) - D gamma(x)||^2 <= ||e||^2.

**B. Most atoms stay inactive.** Let theta be in this set, and let G be the duality gap of theta and a
code. The dual objective is 1-strongly concave, so `||theta - r(x)|| <= sqrt(2 G)`. By A, r moves by at
most `||e||`. If `||e|| <= eps`, an atom with `|d_j^T theta| + ||d_j|| (sqrt(2 G) + eps) < beta_j` has
`|d_j^T r(x + e)| < beta_j`, so that its coefficient is zero. The other atoms form the set S(eps).

**C. The code moves by at most the integral of 1/s.** Let s(eps) > 0 be the smallest singular value of D
restricted to S(eps), and `||e|| <= eps`. All solutions at x + e have their support in S(eps) by B, and
the same image by A, so that there is only one. By A, `s(eps) ||gamma(x + e) - gamma(x)|| <= ||e||`. The
same holds for each piece of the segment from x to x + e, which gives

    ||gamma(x + e) - gamma(x)|| <= integral of dt / s(t) over 0..||e|| <= ||e|| / s(||e||).

The bound is sharp: while support and signs stay the same, noise along the left singular vector that
belongs to s moves the code by `||e|| / s`.

**D. The error of a computed code.** Let F be the objective, with minimum at `gamma(x)`, and let the code
have its support in S(0). Then `1/2 ||D (code - gamma(x))||^2 <= F(code) - F(gamma(x)) <= G`, so that the
error is at most `sqrt(2 G) / s(0)`. For codes supported in S(0), F is `s(0)^2`-strongly convex, so that
the error is also at most `||g|| / s(0)^2` for any subgradient g of F in these coefficients. If S(0) is
the support of `gamma(x)`, and s(0) > 0, the solution is differentiable in x; its derivative is the
pseudoinverse of D restricted to S(0), of norm 1 / s(0).

Variants: where a code is constrained to be nonnegative, `d_j^T theta` replaces its absolute value. With
weights, x, D and e are multiplied by their roots. If `beta_j = 0` without a constraint, theta must be
orthogonal to `d_j`, and the atom is in S. In a chain of layers, the bound C of a layer, plus its error
D, is the noise of the next.

**A ridge.** With `1/2 sum_j rho_j code_j^2` in the objective, each atom has one further sample, with the
value `sqrt(rho_j)`, and the signal is zero in these samples. A to D hold for these atoms. In B the norms
without the further samples suffice, because the coefficient of `d_j` is zero if `|d_j^T r| < beta_j` for
the residual r in the samples of the signal, which moves no further than the whole residual.

C can be improved. Let Delta be the change of the code, `a = ||D Delta||`, and `b = ||Delta||`. By firm
nonexpansiveness, `a ||e|| >= a^2 + sum_j rho_j Delta_j^2`. The right side is at least `s^2 b^2`, and its
sum at least `rho b^2` for the smallest ridge rho in S, so that

    b^2 <= min(a ||e|| / s^2, a (||e|| - a) / rho).

The largest value for a in 0..||e|| gives `b <= ||e|| sqrt(s^2 - rho) / s^2` if `s^2 > 2 rho`, and
`b <= ||e|| / (2 sqrt(rho))` otherwise. The latter needs no singular value: it is proved also where s is
only estimated.

**A ridge on some atoms only.** Let v be the coefficients of the atoms with a ridge, rho the smallest of
these ridges, and L a bound on the spectral norm of these atoms. Let u be the other coefficients, and
`sigma` the smallest singular value of their atoms. Then `||D (u, v)|| >= sigma ||u|| - L ||v||`, so that
s^2 is at least the smallest eigenvalue of the quadratic form
`(sigma ||u|| - L ||v||)^2 + rho ||v||^2`. (Where the first difference is negative, the form is at least
its value for the u of the same direction at which the difference is zero.) It is positive if `sigma`
is.

**Groups.** With joint sparsity, the penalty is `sum_g beta_g ||code_g||`, where the coefficients of a
group g may be constrained to a cone K_g: some or all of them are nonnegative. In complex codes, the real
and the imaginary part of a coefficient are a group. Let D_g be the atoms of the group, and for a vector
v of correlations

    size(v) = max <v, z> over the unit vectors z in K_g.

It is the norm of v without a constraint, the norm of its positive part if all coefficients are
nonnegative and this part is not zero, and `d_j^T theta` or its absolute value for a single coefficient.

- A. The conjugate of the penalty is the indicator of all v with `size(v) <= beta_g`. So r(x) is the
  projection of x onto the convex set of all theta with `size(D_g^T theta) <= beta_g` for each g, and the
  rest is as above.
- B. Let code_g be the group of a solution at x + e, not zero, and r the residual. By optimality,
  `<D_g^T r, code_g>` is `beta_g ||code_g||` (at least that with a ridge), so that `size(D_g^T r)` is at
  least beta_g. The size of a sum is at most the size of one term plus the norm of the other. As r is
  within `sqrt(2 G) + ||e||` of theta, a group with `size(D_g^T theta) + ||D_g|| (sqrt(2 G) + eps) <
  beta_g`, where `||D_g||` is the spectral norm, is zero for all `||e|| <= eps`. In a group that is not
  zero, a coefficient that is constrained to be nonnegative is still zero if `d_j^T r < 0`, and so if
  `d_j^T theta + ||d_j|| (sqrt(2 G) + eps) < 0`. S(eps) contains all other coefficients.
- C and D. Their proofs use only that the codes have their support in S(eps), and A. They hold as they
  are, with all coefficients in S(eps) for s(eps). The subgradient g is one of this penalty. The norm of
  a group is curved, so that a code moves by less than `||e|| / s` unless it moves along code_g in each
  group. The derivative of the solution is `(D_S^T D_S + R)^-1 D_S^T`, where R is the second derivative
  of the penalty. R is positive semidefinite, so that the norm of the derivative is at most 1 / s.

**Groups with linearly dependent atoms.** The atoms of a group can be equal, or more than the samples
that they cover. Let `beta_g > 0`, without a constraint or a ridge. By optimality, code_g is a multiple
of `D_g^T r`, so that `P_g code_g = 0` for the projection P_g onto the kernel of D_g. The solutions
therefore stay the same if `1/2 sum_g ||D_g||^2 ||P_g code_g||^2` is added to the objective: this is zero
for all of them, and not negative elsewhere. Like a ridge, it gives each atom further samples, in which
the signal is zero, and A to D hold for these atoms. Their s is the smallest singular value of D on the
codes in S with `P_g code_g = 0`.

**How the numbers of a group are computed.** They depend on the number of its atoms.

- Up to 200 atoms: the spectral norm is the root of the largest eigenvalue of their Gram matrix, with an
  allowance for rounding. P_g is computed from the singular vectors of D_g.
- More atoms: if a Cholesky factor can prove it in a short time, the bound on the spectral norm is 0.05 %
  above the norm. Otherwise its square is bounded by the sum of the squares of all entries, and by the
  largest sum of magnitudes in a row times that in a column (Schur's test). P_g is not computed.
- Where P_g is not computed, or the group has a constraint, the bound is infinite if the atoms are
  dependent and have no ridge.

References: Ndiaye, Fercoq, Gramfort & Salmon, Gap safe screening rules for sparsity enforcing penalties,
JMLR 2017, for B. Mehta & Gray, Sparsity-based generalization bounds for predictive sparse coding, ICML
2013, and Sulam, Muthukumar & Arora, Adversarial robustness of supervised sparse coding, NeurIPS 2020,
have bounds of this kind with a constant of the whole dictionary in place of s; `encoder_gap` is the
latter.
"""

from cscjax.theory._certificate import Certificate, CertificateRow, FailedCondition
from cscjax.theory._certify import Pursuable, certify
from cscjax.theory._classifier import ClassifierCertificate, certify_classifier
from cscjax.theory._encoder_gap import EncoderGap, encoder_gap
from cscjax.theory._lasso_stability import ActiveSet, Stability, stability
from cscjax.theory._lemmas import is_unique, msd_csc_spectrum, uniqueness_bound
from cscjax.theory._reconstruction import LassoProblem, failed_dimensions, ill_conditioned_example
from cscjax.theory._recovery import (
  PlantedRecovery,
  babel_function,
  exact_recovery_coefficient,
  recovery,
)
from cscjax.theory._recovery_conditions import RecoveryCondition
from cscjax.theory._robustness import GainedClassifier, LabelCertificate, certify_labels
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
  "ClassifierCertificate",
  "Condition",
  "EncoderGap",
  "FailedCondition",
  "GainedClassifier",
  "LabelCertificate",
  "LassoProblem",
  "LayerStability",
  "PlantedRecovery",
  "Pursuable",
  "Recovery",
  "RecoveryCondition",
  "Stability",
  "babel_function",
  "bp_recovery",
  "certify",
  "certify_classifier",
  "certify_labels",
  "encoder_gap",
  "exact_recovery_coefficient",
  "failed_dimensions",
  "ill_conditioned_example",
  "is_unique",
  "layered_stability",
  "msd_csc_spectrum",
  "patch_norm",
  "patch_sparsity",
  "recovery",
  "stability",
  "stripe_sparsity",
  "support_size",
  "thresholding_recovery",
  "uniqueness_bound",
]
