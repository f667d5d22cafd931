"""Which actions are allowed, moved from `info`, which lanes drop, into the observation, where a policy finds it."""

from __future__ import annotations

from typing import Any, final

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete

from pgkit.errors import EnvironmentFault

KEY = "action_mask"
"""The entry of `info`, and of the observation."""


@final
class ActionMaskObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observes `info["action_mask"]` as an entry of a Dict, beside `observation` or the entries that are there.

    One number a choice, 0 where it is not allowed; those of the dimensions of a MultiDiscrete follow each other, or
    come as a tuple, as Gymnasium's own spaces take them. A `conditional` mask is a table `[n_1, …, n_D]` over whole
    actions of a MultiDiscrete. After the end of an episode everything is allowed: whatever
    is chosen there is ignored.

    Raises: ValueError for continuous actions, and for an observation that has such an entry.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, conditional: bool = False) -> None:
        super().__init__(env)
        space, actions = env.observation_space, env.action_space
        if isinstance(actions, Discrete):
            self._size = int(actions.n)
        elif isinstance(actions, MultiDiscrete | MultiBinary):
            self._size = (
                int(actions.nvec.sum()) if isinstance(actions, MultiDiscrete) else 2 * int(np.prod(actions.shape))
            )
        else:
            raise ValueError("masks are of Discrete, MultiDiscrete or MultiBinary actions")
        shape: tuple[int, ...] = (self._size,)
        if conditional:
            if not isinstance(actions, MultiDiscrete) or actions.nvec.ndim != 1:
                raise ValueError("a conditional mask is of MultiDiscrete actions in one row")
            shape, self._size = tuple(actions.nvec.tolist()), int(np.prod(actions.nvec))
        self._shape = shape
        self._plain = not isinstance(space, Dict)
        entries = dict(space.spaces) if isinstance(space, Dict) else {"observation": space}
        if KEY in entries:
            raise ValueError(f"the observation has an entry {KEY} as it is")
        self.observation_space = Dict({**entries, KEY: MultiBinary(self._size if len(shape) == 1 else shape)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._joined(obs, info, over=False), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._joined(obs, info, over=bool(terminated or truncated)), reward, terminated, truncated, info

    def _joined(self, obs: Any, info: dict[str, Any], *, over: bool) -> dict[str, Any]:
        mask = np.ones(self._shape, np.int8) if over else self._mask(info)
        return {"observation": obs, KEY: mask} if self._plain else {**obs, KEY: mask}

    def _mask(self, info: dict[str, Any]) -> np.ndarray:
        if KEY not in info:
            raise EnvironmentFault(
                f'info has no "{KEY}", expected {self._size} numbers, 0 where an action is not allowed'
            )
        given = info[KEY]
        parts = given if isinstance(given, tuple | list) else (given,)
        mask = (np.concatenate([np.ravel(part) for part in parts]) != 0).astype(np.int8)
        if len(mask) != self._size:
            raise EnvironmentFault(f'info["{KEY}"] of {len(mask)} numbers, expected {self._size}, one a choice')
        if not mask.any():
            raise EnvironmentFault(f'info["{KEY}"] allows no action, expected at least one')
        return mask.reshape(self._shape)
