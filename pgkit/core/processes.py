"""Decision processes with finitely many states and a horizon: everything about them is known.

Their gradient comes in two ways that share nothing with each other: by the sum over all trajectories, where there are
few enough, and by dynamic programming. Observations may hide the state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Process:
    """A finite-horizon decision process; `outcomes[s, a]` lists (probability, reward, next state or None at an end).

    `observed[s]` is the number that is seen in state s, by default its own. The horizon ends the objective.
    """

    start: Sequence[float]
    outcomes: Mapping[tuple[int, int], Sequence[tuple[float, float, int | None]]]
    num_actions: int
    horizon: int
    observed: Sequence[int] | None = None

    @property
    def num_states(self) -> int:
        return len(self.start)

    @property
    def observations(self) -> Sequence[int]:
        """The number that is seen in each state."""
        return range(self.num_states) if self.observed is None else self.observed

    @property
    def num_observations(self) -> int:
        return max(self.observations) + 1

    def paths(self) -> Iterator[tuple[float, list[tuple[int, int, float, int | None]]]]:
        """Yields (probability given the actions, steps (s, a, r, s')) of every trajectory."""

        def go_on(
            probability: float, state: int, steps: list[tuple[int, int, float, int | None]]
        ) -> Iterator[tuple[float, list[tuple[int, int, float, int | None]]]]:
            for action in range(self.num_actions):
                for chance, reward, successor in self.outcomes[state, action]:
                    path = [*steps, (state, action, reward, successor)]
                    if successor is None or len(path) == self.horizon:
                        yield probability * chance, path
                    else:
                        yield from go_on(probability * chance, successor, path)

        for state, chance in enumerate(self.start):
            if chance > 0:
                yield from go_on(chance, state, [])

    @cached_property
    def trajectories(self) -> list[tuple[float, list[tuple[int, int, float, int | None]]]]:
        """All of `paths()`."""
        return list(self.paths())

    def probabilities(self, table: Tensor) -> Tensor:
        """Returns the probability `[K]` of every trajectory, dynamics included, differentiable in π(a|s) `[S, A]`."""
        taken = [torch.stack([table[state, action] for state, action, *_ in steps]) for _, steps in self.trajectories]
        chances = table.new_tensor([chance for chance, _ in self.trajectories])
        return chances * torch.stack([each.prod() for each in taken])

    def returns(self, gamma: float) -> Tensor:
        """Returns Σ γ^t r_t `[K]` of every trajectory."""
        returns = [sum(gamma**t * step[2] for t, step in enumerate(path)) for _, path in self.trajectories]
        return torch.tensor(returns, dtype=torch.float64)

    @cached_property
    def expected_rewards(self) -> Tensor:
        """E[r | s, a] `[S, A]`."""
        result = torch.zeros(self.num_states, self.num_actions, dtype=torch.float64)
        for (state, action), outcomes in self.outcomes.items():
            result[state, action] = math.fsum(chance * reward for chance, reward, _ in outcomes)
        return result

    @cached_property
    def transition(self) -> Tensor:
        """Pr(s' | s, a) `[S, A, S]`; what is missing from 1 is the probability of an end."""
        result = torch.zeros(self.num_states, self.num_actions, self.num_states, dtype=torch.float64)
        for (state, action), outcomes in self.outcomes.items():
            for chance, _, successor in outcomes:
                if successor is not None:
                    result[state, action, successor] += chance
        return result

    def values(self, table: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        """Returns V `[T+1, S]` and Q `[T, S, A]` with t steps gone, by backward recursion over π(a|s) `[S, A]`."""
        table = table.detach()
        rewards, transition = self.expected_rewards.to(table.dtype), self.transition.to(table.dtype)
        value = table.new_zeros(self.horizon + 1, self.num_states)
        quality = table.new_zeros(self.horizon, self.num_states, self.num_actions)
        for t in reversed(range(self.horizon)):
            quality[t] = rewards + gamma * transition @ value[t + 1]
            value[t] = (table * quality[t]).sum(dim=1)
        return value, quality

    def policy_gradient_theorem(self, table: Tensor, gamma: float, *, discount_states: bool = True) -> Tensor:
        """Returns Σ_t γ^t Σ_s Pr(s_t = s) Σ_a π(a|s) Q_t(s, a), to be differentiated in this π `[S, A]` alone.

        Without γ^t its gradient is what most code estimates.
        """
        visits = table.detach()
        _, quality = self.values(table, gamma)
        transition = self.transition.to(visits.dtype)
        occupancy = visits.new_tensor(self.start)
        weight = torch.zeros_like(quality)
        for t in range(self.horizon):
            weight[t] = (gamma**t if discount_states else 1.0) * occupancy[:, None] * quality[t]
            occupancy = torch.einsum("s,sa,sat->t", occupancy, visits, transition)
        return (weight.sum(dim=0) * table).sum()


BANDIT = Process(
    start=[1.0],
    outcomes={(0, action): [(1.0, reward, None)] for action, reward in enumerate((0.0, 1.0, 5.0))},
    num_actions=3,
    horizon=1,
)
"""Three arms."""

CHAIN = Process(
    start=[0.8, 0.2],
    outcomes={
        (0, 0): [(0.7, 1.0, 1), (0.3, 4.0, None)],
        (0, 1): [(0.4, 2.0, 1), (0.6, -1.0, 1)],
        (1, 0): [(1.0, 3.0, None)],
        (1, 1): [(1.0, 1.0, 0)],
    },
    num_actions=2,
    horizon=3,
)
"""Two states, two actions, three steps; random starts, successors and rewards; 24 trajectories in all."""

GAMBLE = Process(
    start=[1.0],
    outcomes={(0, action): [(0.5, reward, 0), (0.5, reward, None)] for action, reward in enumerate((0.0, 1.0, 5.0))},
    num_actions=3,
    horizon=2,
)
"""The bandit, played once more as often as not: what happens at once outweighs what comes later."""

SHORT_CORRIDOR = Process(
    start=[1.0, 0.0, 0.0],
    outcomes={
        (0, 0): [(1.0, -1.0, 0)],
        (0, 1): [(1.0, -1.0, 1)],
        (1, 0): [(1.0, -1.0, 2)],
        (1, 1): [(1.0, -1.0, 0)],
        (2, 0): [(1.0, -1.0, 1)],
        (2, 1): [(1.0, -1.0, None)],
    },
    num_actions=2,
    horizon=100,
    observed=[0, 0, 0],
)
"""Left and right in a corridor whose second place swaps them, all places looking the same; −1 a step.

Source: Sutton and Barto 2018, example 13.1, there without a horizon.
"""


def recall(*, cues: int, delay: int) -> Process:
    """Returns a process that shows one of some cues, then nothing for `delay` steps, then asks which it was.

    The right answer is worth 1; whatever is done before is ignored. All that is seen when it is asked is the question,
    so that no policy of the last observation has a larger expected return than 1 / cues.
    """
    length = delay + 2
    outcomes: dict[tuple[int, int], list[tuple[float, float, int | None]]] = {}
    for cue in range(cues):
        for action in range(cues):
            for time in range(length - 1):
                outcomes[cue * length + time, action] = [(1.0, 0.0, cue * length + time + 1)]
            outcomes[cue * length + length - 1, action] = [(1.0, float(action == cue), None)]
    return Process(
        start=[1 / cues if state % length == 0 else 0.0 for state in range(cues * length)],
        outcomes=outcomes,
        num_actions=cues,
        horizon=length,
        observed=[each for cue in range(cues) for each in (cue, *(cues,) * delay, cues + 1)],
    )


def _wind(state: int, action: int) -> list[tuple[float, float, int | None]]:
    """Returns the outcomes of a step on a ring of four places, action 0 staying and the others moving either way."""
    target = (state + (0, 1, 3)[action]) % 4
    reward = (0.0, -0.2, -0.1)[action] + (2.0 if target == 3 else 0.0)
    return [(0.7, reward, target), (0.2, reward - 0.5, (target + 1) % 4), (0.1, reward, None)]


RING = Process(
    start=[0.4, 0.3, 0.2, 0.1],
    outcomes={(state, action): _wind(state, action) for state in range(4) for action in range(3)},
    num_actions=3,
    horizon=12,
)
"""Four places on a ring, three actions, wind, and an end at one step in ten."""
