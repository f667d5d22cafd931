"""Environments whose gradient is known; `pgkit.rl.registry` makes them known to Gymnasium, under `pgkit/`.

Each says in `dynamics` everything there is to know about it, so that an instrument can compare a batch's gradient with
the exact one. An environment of yours with such an attribute is known too. All state lies in plain attributes: a deep
copy goes on from where it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, final

import gymnasium
import numpy as np
from gymnasium import spaces

from pgkit.core.linear_quadratic import REGULATOR
from pgkit.core.processes import CHAIN, GAMBLE, RING, SHORT_CORRIDOR, Process, recall
from pgkit.errors import UsageError
from pgkit.options import Count, Index

PROCESSES = {"short_corridor": SHORT_CORRIDOR, "chain": CHAIN, "gamble": GAMBLE, "ring": RING}


@final
class Tabular(gymnasium.Env[Any, Any]):
    """A finite decision process; an episode terminates at an end or at the horizon, which is part of the objective."""

    def __init__(
        self, *, process: Literal["short_corridor", "chain", "gamble", "ring"] | Process, horizon: Count | None = None
    ) -> None:
        known = process if isinstance(process, Process) else PROCESSES[process]
        self.dynamics: Process = replace(known, horizon=_length(horizon, known.horizon))
        self.observation_space = spaces.Discrete(self.dynamics.num_observations)
        self.action_space = spaces.Discrete(self.dynamics.num_actions)
        self.state, self.time = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.time = self._draw(self.dynamics.start), 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        outcomes = self.dynamics.outcomes[self.state, int(action)]
        _, reward, successor = outcomes[self._draw([chance for chance, *_ in outcomes])]
        self.time += 1
        if successor is not None:
            self.state = successor
        return self._seen(), reward, successor is None or self.time == self.dynamics.horizon, False, {}

    def _seen(self) -> np.int64:
        return np.int64(self.dynamics.observations[self.state])

    def _draw(self, chances: Any) -> int:
        """Returns an index drawn with these chances; always one number, so that equal seeds stay in step."""
        position = self.np_random.random() * sum(chances)
        for index, chance in enumerate(chances):
            position -= chance
            if position < 0:
                return index
        return len(chances) - 1


@final
class Regulator(gymnasium.Env[Any, Any]):
    """Two states, one control, linear dynamics and quadratic costs; an episode terminates at the horizon."""

    def __init__(self, *, horizon: Count | None = None) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.dynamics = replace(REGULATOR, horizon=_length(horizon, REGULATOR.horizon))
        names = ("transition", "input", "state_cost", "control_cost")
        self._matrices = [np.array(getattr(self.dynamics, name)) for name in names]
        self.state, self.time = np.zeros(2), 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.time = self.dynamics.start_scale * self.np_random.standard_normal(2), 0
        return self.state.astype(np.float32), {}

    @property
    def simulator(self) -> Any:
        """The same in torch, for derivatives and for collection on a device."""
        from pgkit.simulators.regulator import Regulator as Simulated  # workers do without torch

        return Simulated(self.dynamics)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        moves, steers, state_cost, control_cost = self._matrices
        control = np.asarray(action, dtype=np.float64)
        reward = -float(self.state @ state_cost @ self.state + control @ control_cost @ control)
        noise = self.dynamics.state_scale * self.np_random.standard_normal(2)
        self.state, self.time = moves @ self.state + steers @ control + noise, self.time + 1
        return self.state.astype(np.float32), reward, self.time == self.dynamics.horizon, False, {}


def recall_cue(*, cues: Count = 2, delay: Index = 8) -> Tabular:
    """Returns a task of memory: name, after `delay` steps, the cue that was seen at the beginning."""
    return Tabular(process=recall(cues=_whole("cues", cues, least=2), delay=_whole("delay", delay, least=0)))


def _length(horizon: int | None, default: int) -> int:
    return default if horizon is None else _whole("horizon", horizon, least=1)


def _whole(key: str, value: int, *, least: int) -> int:
    if not (isinstance(value, int) and value >= least):
        raise UsageError(f"env.kwargs.{key}: {value}, expected a whole number, at least {least}")
    return value
