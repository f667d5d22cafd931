"""Weights of data that several policies sampled: multiple importance sampling."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, final

import torch
from torch import Tensor

from pgkit.core import trajectory_weights
from pgkit.errors import UsageError
from pgkit.options import Positive, Range
from pgkit.types import Trajectories
from pgkit.weights.base import EpisodeWeights, Reach

Share = Annotated[float, Range(above=0, below=1)]


class MixtureWeights(EpisodeWeights, ABC):
    """(h_k / (n_k/n)) p / q_k for a column of policy k, of n_k among n columns; Σ_k h_k = 1.

    Densities are those of whole trajectories, or of each prefix (`per_decision`). The shares α_k in h_k are n_k/n;
    `defensive` sets that of policy 0, the newest, and leaves the others their proportions: for each α the mean of w f
    over all columns is E_p[f].
    Bias: none for policies chosen independently of the batch, but for the options of `EpisodeWeights`.
    """

    exponent: float | None = 1.0

    def __init__(
        self,
        *,
        per_decision: bool,
        defensive: float | None,
        self_normalise: bool,
        truncate: float | None,
        power_mean: float | None,
    ) -> None:
        super().__init__(self_normalise=self_normalise, truncate=truncate, power_mean=power_mean)
        if per_decision and (truncate is not None or power_mean is not None):
            key, value = ("truncate", truncate) if truncate is not None else ("power_mean", power_mean)
            raise UsageError(
                f"weights.{key}: {value} with weights.per_decision=true, expected null: such prefixes shrink later "
                "rewards, which teaches a policy to end its episodes"
            )
        self.per_decision, self.defensive = per_decision, defensive

    def _discount(self, trajectories: Trajectories) -> Tensor | None:
        """Returns how often each column counts in its policy's share, `[N]`; None: once."""
        return None

    def _raw(self, log_target: Tensor, trajectories: Trajectories) -> Tensor:
        ids, mask = trajectories.behavior_id, trajectories.mask
        several = int(ids.max()) > 0
        exponent = self.exponent
        if trajectories.log_densities is None:
            if several and exponent is not None:
                raise UsageError("reuse.keep: log_probabilities, expected parameters for weights of a mixture")
            # Only the own ratio is known: that of one policy, or all that constant shares ask for.
            densities = trajectories.behavior_log_prob.expand(int(ids.max()) + 1, *mask.shape)
        else:
            densities = trajectories.log_densities
        ratios = trajectory_weights.action_log_ratio(log_target, densities, mask)
        shares = trajectory_weights.mixture_shares(
            ids, len(ratios), discount=self._discount(trajectories), defensive=self.defensive
        )
        cumulated = trajectory_weights.cumulated(ratios, per_decision=self.per_decision)
        return trajectory_weights.mixture_log_weight(cumulated, ids, shares, exponent=exponent)


@final
class Balance(MixtureWeights):
    """p / Σ_k (n_k/n) q_k: a column counts by how likely *any* of the policies was to produce it.

    At most n/n_0 where the policy that learns is among them. Its variance is within (1/min n_k − 1/n) E_p[f]² of the
    best choice of h.
    Bias: none, but for the options of `EpisodeWeights`; that of reused own batches is measured in docs/off_policy.md.
    Source: Veach and Guibas 1995 (SIGGRAPH); in policy search Tang and Abbeel 2010 (NeurIPS).
    """

    reach: Reach = "all"

    def __init__(
        self,
        *,
        per_decision: bool = False,
        defensive: Share | None = None,
        self_normalise: bool = False,
        truncate: Positive | None = None,
        power_mean: Share | None = None,
    ) -> None:
        super().__init__(
            per_decision=per_decision,
            defensive=defensive,
            self_normalise=self_normalise,
            truncate=truncate,
            power_mean=power_mean,
        )


@final
class PowerHeuristic(MixtureWeights):
    """h_k = (n_k q_k)^β / Σ_j (n_j q_j)^β: sharper than balance, β = 1, in favour of the likeliest policy.

    Bias: none, but for the options of `EpisodeWeights`.
    Source: Veach and Guibas 1995 (SIGGRAPH).
    """

    reach: Reach = "all"

    def __init__(
        self,
        *,
        exponent: Annotated[float, Range(above=0, most=100)] = 2.0,
        per_decision: bool = False,
        defensive: Share | None = None,
        self_normalise: bool = False,
        truncate: Positive | None = None,
        power_mean: Share | None = None,
    ) -> None:
        super().__init__(
            per_decision=per_decision,
            defensive=defensive,
            self_normalise=self_normalise,
            truncate=truncate,
            power_mean=power_mean,
        )
        self.exponent = exponent


@final
class ConstantMixture(MixtureWeights):
    """h_k = α_k whatever the trajectory: each policy's columns are weighted by p / q_k and averaged on their own.

    Shares are ∝ n_k decay^age, so that data count less the older they are. It asks for each column's own policy alone,
    and is as noisy as the worst of them.
    Bias: none, but for the options of `EpisodeWeights`.
    Source: Veach and Guibas 1995 (SIGGRAPH), as the case to beat.
    """

    reach: Reach = "own"
    exponent = None

    def __init__(
        self,
        *,
        decay: Annotated[float, Range(above=0, most=1)] = 1.0,
        per_decision: bool = False,
        defensive: Share | None = None,
        self_normalise: bool = False,
        truncate: Positive | None = None,
        power_mean: Share | None = None,
    ) -> None:
        super().__init__(
            per_decision=per_decision,
            defensive=defensive,
            self_normalise=self_normalise,
            truncate=truncate,
            power_mean=power_mean,
        )
        self.decay = decay

    def _discount(self, trajectories: Trajectories) -> Tensor | None:
        if trajectories.age is None:
            return None
        return torch.as_tensor(self.decay, dtype=torch.float64, device=trajectories.age.device) ** trajectories.age
