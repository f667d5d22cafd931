"""Where the noise of the gradient comes from, and how much of it a perfect baseline could still remove."""

from __future__ import annotations

from collections import deque
from typing import Annotated, final

import torch
from torch import Tensor

from pgkit.core.decomposition import Parts, nested_parts
from pgkit.diagnostics.features import flattened, steps_behind, unit_of_rewards
from pgkit.diagnostics.gradients import Unanswered
from pgkit.diagnostics.plug_in import step_plug_in, trajectory_plug_in
from pgkit.errors import UsageError
from pgkit.options import Count, Fraction, Index, Range
from pgkit.snapshot import Continuations, Continued, Facts, Snapshot
from pgkit.types import Metrics

STEP = (
    "step_decomposition/trajectory",
    "step_decomposition/action",
    "step_decomposition/state",
    "step_decomposition/total",
    "step_decomposition/removable_fraction",
)
TRAJECTORY = (
    "trajectory_decomposition/transition",
    "trajectory_decomposition/action",
    "trajectory_decomposition/start",
    "trajectory_decomposition/total",
    "trajectory_decomposition/removable_fraction",
)
EXTRA = "step_decomposition/extra_steps"


@final
class Decomposition:
    """The variance of one term x ψ of the gradient, and of a whole trajectory's gradient, each in three parts.

    `step_decomposition`, x = signal − baseline at one step drawn from the batch: noise of what follows the action
    (`trajectory`; critics and λ lower it), of the action (`action`; all that a baseline can lower), of the state.
    `trajectory_decomposition`, for reward-to-go less the baseline in use, whole episodes only: the increments of the
    martingale E[g | what has happened], by `transition`, `action` and `start`. `removable_fraction` is the share of the
    total that a perfect baseline of the state could still remove. Means over the last `window` measurements.

    By default expectations are least-squares fits on the critic's values, time and observation, cross-fitted over
    even and odd columns. With `continuations` the step's parts come from extra episodes instead, which are played on
    copies of the environment: `states` steps drawn as the batch has them, `actions` actions at each, `continuations`
    outcomes of each; the return is then the reward-to-go and the baseline that of the nearest row of the batch.
    Bias: of fits, what features cannot express counts as `trajectory` (as `transition`) or, of the state's part, as
    `action`; none with continuations but that of the nearest baseline.
    Source: Tucker et al. 2018, arXiv:1802.10031.
    """

    def __init__(
        self,
        *,
        facts: Facts,
        continue_from: Continuations,
        gamma: Fraction,
        every: Count = 10,
        window: Count = 20,
        max_columns: Annotated[int, Range(least=8)] | None = 64,
        continuations: Index = 0,
        states: Annotated[int, Range(least=2)] = 8,
        actions: Annotated[int, Range(least=2)] = 4,
    ) -> None:
        if continuations == 1:
            raise UsageError("diagnostics.decomposition.continuations: 1, expected 0 or at least 2")
        if continuations:
            continue_from.check()
        self.every, self.gamma, self.max_columns = every, gamma, max_columns
        self.continuations, self.states, self.actions = continuations, states, actions
        self._has_values, self._whole_episodes = facts.has_values, facts.whole_episodes
        self._continue_from = continue_from
        self._windows: dict[tuple[str, ...], deque[Parts]] = {tags: deque(maxlen=window) for tags in (STEP, TRAJECTORY)}
        self._extra_steps = 0
        self._unanswered = Unanswered()
        self.tags = (*STEP, *TRAJECTORY, *((EXTRA,) if continuations else ()))

    def measure(self, snapshot: Snapshot) -> Metrics:
        """Returns the parts of both, pooled, and what could still be removed."""
        metrics: Metrics = {}
        for tags, found in ((STEP, self._step(snapshot)), (TRAJECTORY, self._trajectory(snapshot))):
            if isinstance(found, str):
                metrics |= self._unanswered(tags, found)
            else:
                self._windows[tags].append(found)
                metrics |= dict(zip(tags, _pooled(self._windows[tags]), strict=True))
        if self.continuations:
            metrics[EXTRA] = self._extra_steps
        return metrics

    def _step(self, snapshot: Snapshot) -> Parts | str:
        """Returns the parts of one term, or why there are none."""
        if self.continuations:
            return self._continued(snapshot)
        return self._obstacle(snapshot) or step_plug_in(snapshot, max_columns=self.max_columns)

    def _trajectory(self, snapshot: Snapshot) -> Parts | str:
        """Returns the parts of a trajectory, or why there are none."""
        if not self._whole_episodes:
            return "a slab does not hold whole trajectories"
        return self._obstacle(snapshot) or trajectory_plug_in(snapshot, gamma=self.gamma, max_columns=self.max_columns)

    def _obstacle(self, snapshot: Snapshot) -> str | None:
        if not self._has_values:
            return "there is no critic, as critic=value"
        columns = snapshot.coefficients.shape[1]
        return f"{columns} columns, and at least 4 are needed" if columns < 4 else None

    def _continued(self, snapshot: Snapshot) -> Parts | str:
        """Returns the parts of one term by playing on from copies of environments, at the policy of the batch."""
        unit, mask = unit_of_rewards(snapshot), snapshot.trajectories.mask
        if unit is None:
            return "the return does not only scale the rewards"
        times = steps_behind(snapshot.trajectories)[:-1]
        # Steps evenly spread over all rows in the order of their time: the law of a row, with little scatter.
        sorted_times = times[mask].sort().values.long()
        even = ((torch.arange(self.states, device=sorted_times.device) + 0.5) / self.states * len(sorted_times)).long()
        continued = self._continue_from.draw(
            snapshot.before,
            sorted_times[even].tolist(),
            num_actions=self.actions,
            num_outcomes=self.continuations,
            gamma=self.gamma,
        )
        self._extra_steps += continued.env_steps
        if len(continued.times) < 2:
            return "fewer than two of the steps were reached again"
        nearest = _nearest(snapshot, continued, times)
        baseline = snapshot.baseline[mask][nearest].double()
        factors = snapshot.factors
        assert factors.scale is not None
        scores = _scores_at(snapshot, continued) * factors.scale[mask][nearest, None, None].double()
        return nested_parts(unit * continued.returns - baseline[:, None, None], scores)


def _nearest(snapshot: Snapshot, continued: Continued, times: Tensor) -> Tensor:
    """Returns which valid row of the batch each state that was continued from is nearest to, `[S]`."""
    trajectories = snapshot.trajectories
    rows = torch.cat([times[trajectories.mask][:, None], flattened(trajectories.rows().obs)], dim=1)
    points = torch.cat([continued.times[:, None].double(), flattened(continued.obs)], dim=1)
    deviation = rows.std(dim=0)
    scale = torch.where(deviation > 0, deviation, 1.0)
    return torch.cdist(points / scale, rows / scale).argmin(dim=1)


def _scores_at(snapshot: Snapshot, continued: Continued) -> Tensor:
    """Returns the score of every action that was continued from, `[S, m, P]` in double."""
    policy = snapshot.before
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    rows = []
    for m in range(continued.actions.shape[1]):
        log_prob = policy.log_prob(continued.obs, continued.actions[:, m])
        for each in log_prob:
            gradients = torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients]).double())
    return torch.stack(rows).unflatten(0, (continued.actions.shape[1], -1)).transpose(0, 1)


def _pooled(window: deque[Parts]) -> tuple[float | None, ...]:
    """Returns the means of the three parts and of the total, and the share that could be removed."""
    after, action, before, removable = (
        sum(getattr(parts, name) for parts in window) / len(window)
        for name in ("after", "action", "before", "removable")
    )
    total = after + action + before
    return after, action, before, total, removable / total if total > 0 else None
