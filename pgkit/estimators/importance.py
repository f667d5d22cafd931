"""Score-function estimators on samples of other laws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor
from torch.distributions import Distribution

from pgkit.core import expectation as core
from pgkit.core import importance
from pgkit.core.proposals import Defensive, log_density, probe, widened
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator, score_terms, standard_error
from pgkit.estimators.score import Score
from pgkit.options import Fraction, Positive
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Metrics, Parameters


@final
class Importance(ExpectationEstimator):
    """∇E_p[f] = E_q[w (f − b) ∇log p] with w = p/q and samples of a proposal q that does not move with θ.

    q is the mixture of a proposal, by default a wider copy of the law, with a `defensive` share of the law itself,
    which bounds w by its inverse. Weights may be normalised by their sum, truncated at `limit` (√N if none is given),
    or replaced by their power mean of exponent −1 with 1, in which 1 has the weight `mixing`.
    Bias: any correction, and a baseline that is biased; nothing else where q covers the law.
    Variance: E_q[w² …]: infinite where q has lighter tails than p; watch `weights/ess_fraction` and `weights/pareto_k`.
    Source: Owen 2013, chapter 9; Hesterberg 1995; Metelli, Russo and Restelli 2021 (NeurIPS).
    """

    takes_baseline = True

    def __init__(
        self,
        *,
        baseline: Baseline,
        proposal: Distribution | None = None,
        widening: Positive = 1.5,
        defensive: Fraction = 0.1,
        correction: Literal["none", "self_normalised", "truncated", "power_mean"] = "none",
        limit: Positive | None = None,
        mixing: Fraction = 0.1,
    ) -> None:
        super().__init__(baseline=baseline)
        self.proposal, self.widening, self.defensive = proposal, widening, defensive
        self.correction, self.limit, self.mixing = correction, limit, mixing
        self.unbiased = baseline.unbiased and correction == "none"

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law's support moves, or no proposal is given and none can be made of the law."""
        Score(baseline=self.baseline).accepts(expectation, parameters)
        self._proposal(expectation.law(parameters))

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the weighted mean of (f − b) ∇log p over N samples of the proposal.

        Raises: UsageError where the proposal misses part of the law's support, or weights overflow.
        """
        self.accepts(expectation, parameters)
        law = expectation.law(parameters)
        proposal = Defensive(law=law, proposal=self._proposal(law), share=self.defensive)
        if self.defensive == 0:
            probes = probe(law, generator)
            importance.log_ratio(log_density(law, probes), proposal.log_density(probes))
        samples = proposal.draw(num_samples, generator)
        raw = importance.log_ratio(log_density(law, samples), proposal.log_density(samples))
        log_weight = self._correct(raw)
        costs, scores, direct = _at(expectation, parameters, samples, raw > -torch.inf)
        weight = importance.weights(log_weight)[:, None]
        per_sample = score_terms(self.baseline, costs, scores, log_weight) + weight * direct
        error: Tensor | None
        if self.correction == "self_normalised":
            # The delta method: the denominator's noise takes the mean off every term.
            error = (per_sample - weight * per_sample.mean(dim=0)).square().sum(dim=0).sqrt() / num_samples
        else:
            error = standard_error(self.baseline, per_sample, costs, weight * scores, weight * direct)
        return core.summarise(
            per_sample,
            parameters,
            unbiased=self.unbiased,
            independent=self.baseline.coupling == "independent" and self.correction != "self_normalised",
            standard_error=error,
            metrics=_told(raw),
        )

    def _proposal(self, law: Distribution) -> Distribution:
        return widened(law, self.widening) if self.proposal is None else self.proposal

    def _correct(self, log_weight: Tensor) -> Tensor:
        num_samples = len(log_weight)
        if self.correction == "self_normalised":
            return importance.self_normalised(log_weight) + math.log(num_samples)
        if self.correction == "truncated":
            return importance.truncated(log_weight, self.limit or math.sqrt(num_samples))
        if self.correction == "power_mean":
            return importance.power_mean(log_weight, mixing=self.mixing)
        return log_weight


@final
class MultipleImportance(ExpectationEstimator):
    """∇E_p[f] from equal numbers of samples of several proposals, whose shares in each sample sum to one.

    Proposals are by default the law itself and a wider copy of it. Under the balance heuristic a sample's weight is p
    over the mixture of all proposals, so that what one misses another may cover; constant shares need every proposal to
    cover the law.
    Bias: none with a baseline made before the batch; one made of the batch differs between proposals, and is refused.
    Source: Veach and Guibas 1995 (SIGGRAPH); Owen and Zhou 2000 (JASA 95:135).
    """

    takes_baseline = True

    def __init__(
        self,
        *,
        baseline: Baseline,
        proposals: Sequence[Distribution] | None = None,
        widening: Positive = 1.5,
        heuristic: Literal["balance", "power", "constant"] = "balance",
        exponent: Positive = 2.0,
    ) -> None:
        super().__init__(baseline=baseline)
        if baseline.coupling != "independent":
            name = type(baseline).__name__
            raise UsageError(f"baseline: {name} with multiple_importance, expected zero, constant or moving_average")
        self.proposals, self.widening = proposals, widening
        self.heuristic: importance.Heuristic = heuristic
        self.exponent = exponent
        self.unbiased = baseline.unbiased

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law's support moves, or no proposal is given and none can be made of it."""
        Score(baseline=self.baseline).accepts(expectation, parameters)
        self._proposals(expectation.law(parameters))

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the weighted mean of (f − b) ∇log p over N samples, dealt to the proposals as evenly as can be.

        Raises: UsageError where the proposals miss part of the law's support, or weights overflow.
        """
        self.accepts(expectation, parameters)
        law = expectation.law(parameters)
        proposals = self._proposals(law)
        num_proposals = len(proposals)
        if num_samples < num_proposals:
            raise UsageError(f"num_samples: {num_samples}, expected at least one for each of {num_proposals} proposals")
        counts = [num_samples // num_proposals + (k < num_samples % num_proposals) for k in range(num_proposals)]
        self._cover(law, proposals, generator)
        samples = torch.cat([core.draw(each, n, generator) for each, n in zip(proposals, counts, strict=True)])
        source = torch.arange(num_proposals).repeat_interleave(torch.tensor(counts))
        log_weight = importance.multiple_log_weight(
            log_density(law, samples),
            torch.stack([log_density(each, samples) for each in proposals]),
            source,
            counts,
            heuristic=self.heuristic,
            exponent=self.exponent,
        )
        costs, scores, direct = _at(expectation, parameters, samples, log_weight > -torch.inf)
        weight = importance.weights(log_weight)[:, None]
        per_sample = score_terms(self.baseline, costs, scores, log_weight) + weight * direct
        return core.summarise(
            per_sample,
            parameters,
            unbiased=self.unbiased,
            independent=min(counts) > 1,
            standard_error=_stratified_error(per_sample, counts) if min(counts) > 1 else None,
            metrics=_told(log_weight),
        )

    def _proposals(self, law: Distribution) -> Sequence[Distribution]:
        return [law, widened(law, self.widening)] if self.proposals is None else self.proposals

    def _cover(self, law: Distribution, proposals: Sequence[Distribution], generator: torch.Generator) -> None:
        probes = probe(law, generator)
        densities = torch.stack([log_density(each, probes) for each in proposals])
        # Under constant shares the sample's own proposal alone is divided by.
        worst = densities.min(dim=0) if self.heuristic == "constant" else densities.max(dim=0)
        importance.log_ratio(log_density(law, probes), worst.values)


def _at(
    expectation: Expectation, parameters: Parameters, samples: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns costs `[N]`, scores and direct gradients `[N, P]`, zeros outside the law's support."""
    if not inside.any():
        num_parameters = sum(value.numel() for value in parameters.values())
        nothing = next(iter(parameters.values())).new_zeros(len(samples), num_parameters)
        return nothing.new_zeros(len(samples)), nothing, nothing
    held = samples[inside]
    parts = (
        core.evaluate(expectation.cost, held),
        core.scores(expectation, parameters, held),
        core.direct_term(expectation, parameters, held),
    )
    costs, scores, direct = (
        part.new_zeros((len(samples), *part.shape[1:])).index_copy_(0, inside.nonzero()[:, 0], part) for part in parts
    )
    return costs, scores, direct


def _stratified_error(per_sample: Tensor, counts: Sequence[int]) -> Tensor:
    """Returns the standard error of the mean of samples that are alike within each stratum alone, `[P]`."""
    strata = per_sample.split(list(counts))
    return torch.stack([len(part) * part.var(dim=0) for part in strata]).sum(dim=0).sqrt() / len(per_sample)


def _told(log_weight: Tensor) -> Metrics:
    if (log_weight == -torch.inf).all():
        return {"weights/ess_fraction": 0.0, "weights/largest_share": None, "weights/pareto_k": None}
    return {
        "weights/ess_fraction": importance.effective_sample_size(log_weight) / len(log_weight),
        "weights/largest_share": importance.largest_share(log_weight),
        "weights/pareto_k": importance.pareto_k(log_weight),
    }
