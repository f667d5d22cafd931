"""The formula behind every panel of a report, and where it is from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from pgkit.core.coverage import RATIO, SNR


@final
@dataclass(frozen=True)
class Formula:
    """A formula in plain text; `sources` are (name, address), the addresses for a reader to follow."""

    text: str
    sources: tuple[tuple[str, str], ...] = ()


def _arxiv(name: str, number: str) -> tuple[str, str]:
    return (f"{name}, arXiv:{number}", f"https://arxiv.org/abs/{number}")


_JACKKNIFE = ("Efron and Stein 1981, Annals of Statistics 9:586", "https://doi.org/10.1214/aos/1176345462")
_MIRAGE = _arxiv("Tucker et al. 2018", "1802.10031")

OUTCOME = Formula(
    "return/mean_100 = mean undiscounted return of the last 100 finished training episodes, of all of them while there "
    "are fewer; actions were sampled. objective/value = the expectation at the parameters after the update."
)
SIGNAL = Formula(
    "snr = (|ĝ|² − v) / v, v = tr Cov(ĝ): the gradient's squared length without the share of its noise, over that "
    "noise. Expected cosine with the true gradient ≈ 1/√(1 + 1/snr). Pooled over the last measurements. The interval, "
    f"a jackknife over trajectories, {SNR.long}; unresolved means that its lower end is not above 0.",
    (_JACKKNIFE,),
)
ESTIMATORS = Formula(
    "variance_ratio = Σ v_name / Σ v_current over the last measurements, v = tr Cov of the mean of a batch, both from "
    "the same trajectories. The estimate is linear in its coefficients c, ĝ = Σ_i c_i ∇ log π(a_i|s_i), so one batch "
    f"answers for every estimator. The interval, a jackknife on the log scale, {RATIO.long}. It shows no bias.",
    (_arxiv("Schulman et al. 2016", "1506.02438"), _JACKKNIFE),
)
NOISE_SCALE = Formula(
    "noise scale = tr Cov(g) / |E g|², g the gradient of one trajectory: the batch at which signal and noise of the "
    "mean are equal. Updates to a goal ∝ 1 + scale/batch, samples ∝ batch + scale: above the scale samples are wasted. "
    f"batch_fraction = batch / scale. The interval, a jackknife over trajectories, {SNR.long}.",
    (_arxiv("McCandlish et al. 2018", "1812.06162"),),
)
DECOMPOSITION = Formula(
    "One term: Var(Â s) = E Var(Â s | state, action) [trajectory] + E Var(E[Â | state, action] s | state) [action] + "
    "Var(E[Â s | state]) [state], s = ∇ log π. A baseline changes the action part alone. A whole trajectory: the same "
    "sum over martingale increments, transition, action and start.",
    (_MIRAGE,),
)
CRITIC_LAG = Formula(
    "value_ratio = variance of the mean with the critic as the baseline over that with leave-one-out; corrected_ratio "
    "= that of the critic after its affine correction of least variance over the critic itself. Near 1 or above, the "
    f"critic earns nothing on these batches. The interval, a jackknife on the log scale, {RATIO.long}.",
    (_MIRAGE,),
)
DIAL = Formula(
    "mean squared error(λ) = |E g_λ − E g_1|² + tr Cov(ĝ_λ). The bias is that against λ = 1, without the share of the "
    "noise: |d̄|² − tr Cov(d)/n for d = g_λ − g_1 on the same trajectories, not below 0. Of a clip or a window the bias "
    "is that against the newest batch alone under unbiased weights, |Σ d_i|² − Σ_k n_k S_k²(d): d_i is the difference "
    "of the two contributions of column i and S_k² the variance inside the columns of policy k.",
    (_arxiv("Schulman et al. 2016", "1506.02438"),),
)
LAYERS = Formula(
    "snr of a layer = (|ĝ_l|² − v_l) / v_l with ĝ_l and v_l = tr Cov(ĝ_l) of the parameters of that layer alone."
)
WEIGHTS = Formula(
    "ess_fraction = (Σ w)² / (N Σ w²), w the importance weights: the share of the batch that would be as good if it "
    "were the policy's own. lag_a: columns of a updates ago by the plain ratio π/μ, whatever weights are in use; "
    "time_p: prefixes of p % of the longest episode. missing_mass = 1 − mean w. Pareto k: the shape of the largest "
    "weights' tail.",
    (("Kong 1992, University of Chicago, technical report 348", ""), _arxiv("Vehtari et al. 2024", "1507.02646")),
)
TIME = Formula("diagnostics_fraction = wall seconds in the instruments / wall seconds of training, since the start.")
CHECKS = Formula(
    "z = mean score / its standard error, per parameter; E ∇ log π = 0 where actions are drawn from π. The half-batch "
    "cosine is that between the gradients of two halves; truth/… compares with the exact gradient; optimizer_step/… "
    "compares the optimizer's steps with the step that the mean gradient would make."
)
