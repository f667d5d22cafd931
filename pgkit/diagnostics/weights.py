"""What importance weights leave of a batch: by how old it is, by time, and in sum."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from pgkit.core.densities import target_log_prob
from pgkit.core.trajectory_weights import (
    LIMIT,
    action_log_ratio,
    at_the_bound,
    cumulated,
    mixture_log_weight,
    mixture_shares,
)
from pgkit.core.weight_health import FIELDS, TRUSTED, health_of, missing_mass, renyi_divergence
from pgkit.diagnostics.gradients import Unanswered
from pgkit.options import Count, Fraction
from pgkit.snapshot import Facts, Snapshot
from pgkit.types import Metrics, Trajectories

PERCENTS = (25, 50, 75, 100)
"""Of the longest column of a batch: where prefixes are looked at."""
ERRORS = 4.0
"""Standard errors by which the mean weight must miss 1 before something is said to be missing."""


@final
class WeightHealth:
    """How much of a reweighted batch counts, and until when a batch is worth keeping.

    Without a group, `weights/<quantity>` is that of the weights in use, one a column (where rows are weighted one by
    one: one a row). `lag_<a>` are columns that were collected a updates ago and `time_<p>` prefixes of p % of the
    longest column, over all that are reused (over all where none is), both by the plain ratio π/μ to the policy that
    acted: what the batch would be worth by itself. `clamped` counts rows whose weight stands at ±30 nats. The mean of
    weights is 1; `missing_mass` is what it lacks, taken over the mixture where that is known.
    `alarm` is 1 where the effective share of the weights in use is below `least`, their Pareto k above 0.7, or mass is
    missing by more than four standard errors, which is also said once in the log.
    Source: Kong 1992; Martino, Elvira and Louzada 2017, arXiv:1602.03572; Vehtari et al. 2024, arXiv:1507.02646.
    """

    def __init__(self, *, facts: Facts, every: Count = 1, least: Fraction = 0.3) -> None:
        self.every, self.least = every, least
        self.kind, self.whole_episodes = facts.weights, facts.whole_episodes
        lags = [f"lag_{age}/" for age in range(1, facts.batches)]
        times = [f"time_{percent}/" for percent in PERCENTS] if facts.whole_episodes else []
        self.groups = ("", *lags, *times)
        self.single = tuple(f"weights/{name}" for name in ("clamped", "renyi_divergence", "missing_mass", "alarm"))
        self.tags = (*(f"weights/{group}{name}" for group in self.groups for name in FIELDS), *self.single)
        self._unanswered = Unanswered()
        self._warned = False

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns all tags, null where a group is empty, and all of them where data are the policy's own."""
        metrics: Metrics = dict.fromkeys(self.tags)
        batch, mask = snapshot.trajectories, snapshot.factors.mask
        if not mask.any():
            return metrics
        if self.kind is None and batch.age is None:
            reason = (
                "the data are the policy's own, each weight is 1; weights=balance, say, with reuse=window has others"
            )
            return metrics | self._unanswered(self.tags, reason)
        ratio = action_log_ratio(target_log_prob(snapshot.before, batch), batch.behavior_log_prob, mask)
        plain = cumulated(ratio, per_decision=True) if self.kind != "step" and self.whole_episodes else ratio
        for group, weights in self._groups(plain, batch, mask).items():
            metrics |= _named(group, weights)
        if self.kind is None:
            return metrics | self._unanswered(self.tags[: len(FIELDS)], "no weights are in use (weights=on_policy)")
        in_use = snapshot.factors.log_weight.double()
        bounded = at_the_bound(in_use) & mask
        lowest = torch.where(in_use <= -LIMIT, -torch.inf, in_use)
        used = lowest[mask] if self.kind == "step" else lowest[-1]
        metrics |= _named("", used)
        mass, error = missing_mass(unbiased_log_weight(ratio, batch) if self.kind == "prefix" else ratio[mask], LIMIT)
        metrics["weights/clamped"] = float(bounded.sum())
        metrics["weights/renyi_divergence"] = renyi_divergence(used)
        metrics["weights/missing_mass"] = mass
        metrics["weights/alarm"] = float(self._alarming(metrics, mass > ERRORS * error and mass > 0.01))
        return metrics

    def _groups(self, plain: Tensor, batch: Trajectories, mask: Tensor) -> Mapping[str, Tensor]:
        """Returns the plain log ratios of every group that has some, `[n]`."""
        age = torch.zeros(plain.shape[1], dtype=torch.long, device=plain.device) if batch.age is None else batch.age
        by_row = self.kind == "step" or not self.whole_episodes
        reused = age > 0 if (age > 0).any() else age >= 0
        found = {}
        for group in self.groups[1:]:
            kind, _, number = group.rstrip("/").partition("_")
            if kind == "lag":
                columns = age == int(number)
                found[group] = plain[:, columns][mask[:, columns]] if by_row else plain[-1, columns]
            else:
                row = max(0, -(-len(plain) * int(number) // 100) - 1)
                found[group] = plain[row, reused & mask[row]] if by_row else plain[row, reused]
        return {group: weights for group, weights in found.items() if len(weights)}

    def _alarming(self, metrics: Metrics, missing: bool) -> bool:
        share, tail = metrics["weights/ess_fraction"], metrics["weights/pareto_k"]
        assert share is not None
        if missing and not self._warned:
            logging.getLogger("pgkit").warning(
                "weights/missing_mass is %.2g: the mean weight lacks that much of 1, so the policy goes where the data "
                "do not (support mismatch); the effective sample size is %.2g of the batch",
                metrics["weights/missing_mass"],
                share,
            )
            self._warned = True
        return missing or share < self.least or (tail is not None and tail > TRUSTED)


def _named(group: str, weights: Tensor) -> Metrics:
    found = health_of(weights).values()
    return {f"weights/{group}{name}": value for name, value in zip(FIELDS, found, strict=True)}


def unbiased_log_weight(ratio: Tensor, batch: Trajectories) -> Tensor:
    """Returns the unbiased log weight of every column, `[N]`: over the mixture where what all policies say is known."""
    if batch.log_densities is None:
        return cumulated(ratio, per_decision=False)[-1]
    # log π − log μ_k = (log π − log μ_own) + (log μ_own − log μ_k), the second without another pass.
    others = action_log_ratio(batch.behavior_log_prob, batch.log_densities, batch.mask)
    total = cumulated(torch.where(ratio == -torch.inf, -torch.inf, ratio + others), per_decision=False)
    shares = mixture_shares(batch.behavior_id, len(total))
    return mixture_log_weight(total, batch.behavior_id, shares)[-1]
