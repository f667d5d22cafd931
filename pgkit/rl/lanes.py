"""N environments side by side, in Gymnasium's NEXT_STEP autoreset mode, as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, final

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from pgkit.errors import EnvironmentFault, UsageError
from pgkit.options import Count, Positive
from pgkit.rl.forms import Blueprint
from pgkit.rl.inspection import Inspector
from pgkit.rl.pausable import FAULT, show_action
from pgkit.rl.probe import probe_environment, probe_vector
from pgkit.rl.registry import brief
from pgkit.rl.spaces import Observation
from pgkit.rl.workers import end_workers, lost_worker

Step = tuple[Observation, np.ndarray, np.ndarray, np.ndarray]


@final
class Lanes:
    """A vector environment without surprises: one autoreset mode, no info, faults that say where they happened.

    After a row with `terminated | truncated` the next `step` resets that lane: its action is ignored, the reward is 0
    and both flags are False. A paused lane still does that reset, once, and then stands still.

    Attributes: num_lanes; observation_space and action_space of one lane; max_episode_steps and reward_threshold as
    registered, or None; can_pause; vectorization, resolved, with a note where `auto` passed over the environment's own
    form; dynamics, what an environment of which everything is known says about itself, None elsewhere and where a time
    limit, a wrapper or clipped rewards add to them; id; kwargs; altered, whether wrappers or clipped rewards change
    what the environment does. `wrappers` are Gymnasium's, by name, the innermost first; rewards
    are those of the environment, and `learnt` those that learning sees. Nothing is started before the first `reset`.

    Raises: UsageError naming `env.id`, `env.kwargs`, `env.wrappers`, `env.reward_clip` or `env.vectorization` and what
    is accepted.
    """

    def __init__(
        self,
        *,
        id: str,
        num_envs: Count = 8,
        vectorization: Literal["auto", "vector_entry_point", "sync", "async"] = "auto",
        kwargs: dict[str, Any] = {},  # noqa: B006  (read, never written)
        wrappers: list[Any] = [],  # noqa: B006  (read, never written)
        reward_clip: list[float] | None = None,
        timeout: Positive = 60.0,
    ) -> None:
        self._blueprint = Blueprint.of(id, kwargs, wrappers)
        self._timeout = timeout
        self._range = _range(reward_clip)
        self.num_lanes = num_envs
        form = self._blueprint.form(vectorization, num_envs)
        self.vectorization, self.note = form.vectorization, form.note
        self.observation_space, self.action_space = form.observation_space, form.action_space
        self.can_pause = self.vectorization != "vector_entry_point"
        self.max_episode_steps = self._blueprint.max_episode_steps
        self.reward_threshold: float | None = self._blueprint.spec.reward_threshold
        self.id, self.kwargs = id, dict(kwargs)
        self.altered = bool(self._blueprint.wrappers or self._range)
        self.dynamics: Any = None if self.altered or self.max_episode_steps else form.known
        self._inspector = Inspector(self.observation_space, num_envs)
        self._vector: VectorEnv[Any, Any, Any] | None = None
        self._seeds: list[int] = []
        self._rows = 0
        self._in_flight = False

    @property
    def has_single(self) -> bool:
        """Whether one environment can be made alone."""
        return self._blueprint.has_single

    def single(self) -> gymnasium.Env[Any, Any]:
        """Returns one environment like those of the lanes, new and apart from them."""
        return self._blueprint.single()

    def probe(self) -> None:
        """Returns nothing; steps a throw-away copy of the environment a few times and looks at what it gives.

        Raises: UsageError for the old API, values that are not finite, observations outside the space, exceptions.
        """
        plan = self._blueprint
        if self.can_pause:
            probe_environment(plan.spec, plan.kwargs, plan.wrappers)
        else:
            probe_vector(plan.spec, self.num_lanes, plan.kwargs, plan.wrappers)

    def learnt(self, rewards: Any) -> Any:
        """Returns the rewards that learning sees: those of the environment, inside `reward_clip` where there is one."""
        return rewards if self._range is None else np.clip(rewards, *self._range)

    def reset(self, seeds: Sequence[int] | None) -> Observation:
        """Returns the first observations `[N, *obs]` of new episodes on all lanes; None goes on without reseeding.

        An environment with a vectorised form of its own has one generator for all lanes and gets `seeds[0]`. Pauses
        stay as they are.

        Raises: EnvironmentFault; ValueError where there is not one seed per lane.
        """
        if seeds is not None:
            if len(seeds) != self.num_lanes:
                raise ValueError(f"seeds: {len(seeds)}, expected {self.num_lanes}, one per lane")
            self._seeds = [int(seed) for seed in seeds]
            self._rows = 0
        if self._vector is None:
            self._vector = self._blueprint.open(self.vectorization, self.num_lanes)
        vector = self._vector
        each: list[int | None] = [None] * self.num_lanes if seeds is None else [*self._seeds]
        self._in_flight = True
        try:
            if isinstance(vector, AsyncVectorEnv):
                vector.reset_async(seed=each)
                batch, infos = vector.reset_wait(timeout=self._timeout)
            elif isinstance(vector, SyncVectorEnv):
                batch, infos = vector.reset(seed=each)
            else:
                batch, infos = vector.reset(seed=each[0])
        except Exception as error:
            raise self._diagnose(error, "in reset") from error
        self._in_flight = False
        if FAULT in infos:
            raise next(fault for fault in infos[FAULT] if fault is not None)
        obs = self._inspector.flatten(batch)
        problem = self._inspector.problem(obs, None)
        if problem is not None:
            raise EnvironmentFault(f"{self._where(problem[0])}, in reset: {problem[1]}")
        return obs

    def step(self, actions: np.ndarray) -> Step:
        """Returns (observations `[N, *obs]`, rewards `[N]` float64, terminated `[N]`, truncated `[N]`), all fresh.

        `actions` `[N, *act]` are what the environment takes: a Discrete with a `start` is not shifted here.

        Raises: EnvironmentFault naming lane, seed, step and action.
        """
        vector = self._vector
        if vector is None:
            raise RuntimeError("step before the first reset")
        self._rows += 1
        self._in_flight = True
        try:
            if isinstance(vector, AsyncVectorEnv):
                vector.step_async(actions)
                batch, rewards, terminated, truncated, infos = vector.step_wait(timeout=self._timeout)
            else:
                batch, rewards, terminated, truncated, infos = vector.step(actions)
        except Exception as error:
            raise self._diagnose(error, "in step", actions) from error
        self._in_flight = False
        if infos and FAULT in infos:
            raise next(fault for fault in infos[FAULT] if fault is not None)
        obs = self._inspector.flatten(batch)
        rewards = np.asarray(rewards, dtype=np.float64)
        problem = self._inspector.problem(obs, rewards)
        if problem is not None:
            raise EnvironmentFault(f"{self._where(problem[0], actions)}: {problem[1]}")
        return obs, rewards, terminated, truncated

    def pause(self, mask: np.ndarray) -> None:
        """Returns nothing; lanes where `mask` `[N]` is True stand still from the next step on, the others go.

        Raises: ValueError where the environment's own vectorised form cannot stand still (`can_pause` is False).
        """
        if not isinstance(self._vector, SyncVectorEnv | AsyncVectorEnv):
            raise ValueError("pause: not possible here, expected can_pause and a reset before")
        self._in_flight = True
        try:
            self._vector.set_attr("paused", [bool(flag) for flag in mask])
        except Exception as error:
            raise self._diagnose(error, "in pause") from error
        self._in_flight = False

    def start_alike(self, seeds: Sequence[int]) -> None:
        """Returns nothing; from the next reset on lanes of equal seeds begin their k-th episodes in the same state.

        Raises: ValueError where the environment's own vectorised form has one generator for all lanes.
        """
        if not isinstance(self._vector, SyncVectorEnv | AsyncVectorEnv):
            raise ValueError("start_alike: not possible here, expected can_pause and a reset before")
        self._in_flight = True
        self._vector.set_attr("start_seed", [int(seed) for seed in seeds])
        self._in_flight = False

    def close(self) -> None:
        """Returns nothing; ends every environment and worker, kindly unless a call was cut short."""
        vector, self._vector = self._vector, None
        if vector is None:
            return
        try:
            if isinstance(vector, AsyncVectorEnv) and self._in_flight:
                end_workers(vector)
            else:
                vector.close()
        except (OSError, EOFError):  # a worker died since the last call
            if isinstance(vector, AsyncVectorEnv):
                end_workers(vector)
        self._in_flight = False

    def _where(self, lane: int | None, actions: np.ndarray | None = None) -> str:
        acting = "" if actions is None else f", action {show_action(actions if lane is None else actions[lane])}"
        if lane is not None and isinstance(self._vector, SyncVectorEnv | AsyncVectorEnv) and not self._in_flight:
            return f"{self._vector.call('where')[lane]}{acting}"
        place = "all lanes" if lane is None else f"lane {lane}"
        seed = (self._seeds[lane or 0] if self.can_pause else self._seeds[0]) if self._seeds else None
        return f"{place}, seed {seed}, step {self._rows}{acting}"

    def _diagnose(self, error: Exception, doing: str, actions: np.ndarray | None = None) -> EnvironmentFault:
        """Returns the fault behind an exception that the vector environment itself raised."""
        lane, cause = None, brief(error)
        if isinstance(self._vector, AsyncVectorEnv):
            lane, cause = lost_worker(self._vector, error, self._timeout)
        elif isinstance(self._vector, SyncVectorEnv):
            for index, found in enumerate(self._vector.call("misfit")):
                if found is not None:
                    lane, cause = index, f"observation: {found}"
        return EnvironmentFault(f"{self._where(lane, actions)}, {doing}: {cause}")


def _range(reward_clip: list[float] | None) -> tuple[float, float] | None:
    if reward_clip is None:
        return None
    if len(reward_clip) != 2 or not reward_clip[0] <= 0 <= reward_clip[1] or reward_clip[0] == reward_clip[1]:
        raise UsageError(f"env.reward_clip: {reward_clip}, expected [lowest, highest] around 0, as in [-1, 1], or null")
    return reward_clip[0], reward_clip[1]
