"""The Fisher information of the policy as this batch shows it, and what it makes of the gradient."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from pgkit.core.fisher import empirical_vector_product
from pgkit.core.natural import solve_conjugate_gradient
from pgkit.core.scores import Scores
from pgkit.core.unrolling import is_recurrent
from pgkit.diagnostics.gradients import Unanswered, chunks_in_use
from pgkit.options import Count, Positive
from pgkit.snapshot import Snapshot
from pgkit.types import Metrics, map_observations


@final
class FisherGeometry:
    """The empirical Fisher matrix SᵀS/M of at most `max_rows` steps of the batch, evenly thinned, in sample space.

    Its eigenvalues are those of the Gram SSᵀ/M; λ is `damping` times their mean. `condition_number` is the largest
    over the smallest of the first min(M, P), both plus λ: directions that no score shows do not count. `natural_angle`
    is between the gradient and (F + λI)⁻¹ times it, in degrees; `cg_residual` what conjugate gradients leave of that
    equation after `iterations`, as a share of the gradient. `empirical_over_exact` compares traces on the same steps:
    E|s|² over the actions is exact, so that the ratio is about 1 where actions come from the policy; one far away says
    that too few steps were taken, or that log-probabilities are not those of the law that acted. Importance weights
    and γ^t are left out.
    Source: Amari 1998; Martens 2020, arXiv:1412.1193; Kunstner, Balles and Hennig 2019, arXiv:1905.12558.
    """

    tags = (
        "fisher/condition_number",
        "fisher/natural_angle",
        "fisher/cg_residual",
        "fisher/empirical_over_exact",
    )

    def __init__(
        self, *, every: Count = 20, max_rows: Count = 128, damping: Positive = 1e-3, iterations: Count = 10
    ) -> None:
        self.every, self.max_rows, self.damping, self.iterations = every, max_rows, damping, iterations
        self._unanswered = Unanswered()

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns all four; those of the gradient are null where it is 0, all where no step has a score."""
        index = thinned(snapshot, self.max_rows)
        scores = snapshot.scores.of_steps(index).double() if len(index) else torch.zeros(1, 1)
        if not scores.any():
            return self._unanswered(self.tags, "every score is 0")
        values, vectors = torch.linalg.eigh(scores @ scores.T / len(scores))
        values = values.clamp(min=0.0)
        damping = self.damping * float(values.mean())
        smallest = values[-min(scores.shape)]
        condition = float((values[-1] + damping) / (smallest + damping))
        metrics: Metrics = dict(zip(self.tags, (condition, None, None, None), strict=True))
        if is_recurrent(snapshot.before):
            metrics |= self._unanswered(self.tags[3:], "the policy has a memory")
        elif (exact := float(expected_scores(snapshot, index).step_squares().sum()) / len(index)) > 0:
            metrics["fisher/empirical_over_exact"] = float(scores.square().sum()) / len(scores) / exact
        gradient = _mean_gradient(snapshot).double()
        if not gradient.any():
            return metrics | self._unanswered(self.tags[1:3], "the gradient is 0")
        # (F + λI)⁻¹ g by Woodbury, in the eigenvectors of the Gram.
        seen = vectors.T @ (scores @ gradient) / (len(scores) * (values + damping))
        natural = (gradient - scores.T @ (vectors @ seen)) / damping
        cosine = float(torch.cosine_similarity(gradient, natural, dim=0))
        solved = solve_conjugate_gradient(
            lambda v: empirical_vector_product(scores, v), gradient, damping=damping, iterations=self.iterations
        )
        angle = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
        return metrics | {"fisher/natural_angle": angle, "fisher/cg_residual": float(solved.residual)}


def thinned(snapshot: Snapshot, max_rows: int) -> Tensor:
    """Returns flat indices of at most so many of the steps that count, evenly spaced."""
    valid = snapshot.factors.mask.reshape(-1).nonzero().squeeze(-1)
    return valid[:: -(-len(valid) // max_rows)] if len(valid) else valid


@final
class Projection(nn.Module):
    """The parameters of a policy's law along given directions."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Any, directions: Tensor) -> Tensor:
        """Returns η(s) · d `[...]`; directions `[..., K]`."""
        result: Tensor = (self.policy(obs) * directions).sum(dim=-1)
        return result


def expected_scores(snapshot: Snapshot, index: Tensor) -> Scores:
    """Returns K·M scores, one factor each, whose outer products sum to Σ_m E_a[s sᵀ] over M steps, exactly.

    With η the parameters of the law, E[s sᵀ] = Jᵀ F J, J = ∂η/∂θ and F the Hessian of KL(π(η) ‖ π(·)) at η. A root
    F = R Rᵀ turns it into Σ_k r_k r_kᵀ with r_k = ∇_θ (R_k · η), R held fixed. Number k of step m lies at k M + m.
    """
    policy: Any = snapshot.before
    obs = map_observations(lambda x: x[:-1].flatten(0, 1)[index], snapshot.trajectories.obs)
    with torch.no_grad():
        parameters = policy(obs)
    curvature = jacrev(jacrev(lambda other, own: policy.law.kl(own, other)))
    information = vmap(curvature)(parameters, parameters)
    values, vectors = torch.linalg.eigh(information)
    roots = (vectors * values.clamp(min=0.0).sqrt()[:, None, :]).permute(2, 0, 1)  # [K, M, K]
    repeated = map_observations(lambda x: x.expand(len(roots), *x.shape).flatten(0, 1)[None], obs)
    inputs = (repeated, roots.flatten(0, 1)[None])
    return Scores(
        Projection(policy), inputs, torch.ones(1, inputs[1].shape[1], dtype=torch.bool, device=inputs[1].device)
    )


def _mean_gradient(snapshot: Snapshot) -> Tensor:
    total, count = torch.zeros(()), 0
    for _, chunk in chunks_in_use(snapshot, snapshot.coefficients.shape[1]):
        total, count = total + chunk.sum(dim=0), count + len(chunk)
    return total / count
