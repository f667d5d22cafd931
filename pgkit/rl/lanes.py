"""N environments side by side, in Gymnasium's NEXT_STEP autoreset mode, as plain arrays."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from typing import Any, Literal, final

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from pgkit.errors import EnvironmentFault, UsageError
from pgkit.options import Count, Positive
from pgkit.rl.pausable import FAULT, LaneMaker, brief, show_action
from pgkit.rl.probe import probe_environment, probe_vector
from pgkit.rl.registry import find, make_environment, make_vector
from pgkit.rl.spaces import Observation, check_action_space, flattener, leaves

Step = tuple[Observation, np.ndarray, np.ndarray, np.ndarray]


@final
class Lanes:
    """A vector environment without surprises: one autoreset mode, no info, faults that say where they happened.

    After a row with `terminated | truncated` the next `step` resets that lane: its action is ignored, the reward is 0
    and both flags are False. A paused lane still does that reset, once, and then stands still.

    Attributes: num_lanes; observation_space and action_space of one lane; max_episode_steps and reward_threshold as
    registered, or None; can_pause; vectorization, resolved.

    Nothing is started before the first `reset`.

    Raises: UsageError naming `env.id`, `env.kwargs` or `env.vectorization` and what is accepted.
    """

    def __init__(
        self,
        *,
        id: str,
        num_envs: Count = 8,
        vectorization: Literal["auto", "vector_entry_point", "sync", "async"] = "auto",
        kwargs: dict[str, Any] = {},  # noqa: B006  (read, never written)
        timeout: Positive = 60.0,
    ) -> None:
        self._spec = find(id)
        self._kwargs = dict(kwargs)
        self._timeout = timeout
        self.num_lanes = num_envs
        self.vectorization = self._resolve(vectorization)
        self.can_pause = self.vectorization != "vector_entry_point"
        limit = self._kwargs.get("max_episode_steps", self._spec.max_episode_steps)
        self.max_episode_steps: int | None = None if limit == -1 else limit
        self.reward_threshold: float | None = self._spec.reward_threshold

        if self.can_pause:
            specimen = make_environment(self._spec, self._kwargs)
            self.observation_space, self.action_space = specimen.observation_space, specimen.action_space
            specimen.close()
        else:
            whole = make_vector(self._spec, num_envs, self._kwargs)
            self.observation_space, self.action_space = whole.single_observation_space, whole.single_action_space
            whole.close()
        check_action_space(self.action_space)
        self._shapes = {name: (num_envs, *(leaf.shape or ())) for name, leaf in leaves(self.observation_space).items()}
        self._flatten = flattener(self.observation_space)
        self._vector: VectorEnv[Any, Any, Any] | None = None
        self._seeds: list[int] = []
        self._rows = 0
        self._in_flight = False
        # Dot products with zeros: NaN exactly where something is not finite, and cheap enough for every step.
        self._zeros: dict[tuple[int, str], np.ndarray] = {}

    def probe(self) -> None:
        """Returns nothing; steps a throw-away copy of the environment a few times and looks at what it gives.

        Raises: UsageError for the old API, values that are not finite, observations outside the space, exceptions.
        """
        if self.can_pause:
            probe_environment(self._spec, self._kwargs)
        else:
            probe_vector(self._spec, self.num_lanes, self._kwargs)

    def reset(self, seeds: Sequence[int] | None) -> Observation:
        """Returns the first observations `[N, *obs]` of new episodes on all lanes; None goes on with the old seeds.

        An environment with a vectorised form of its own has one generator for all lanes and gets `seeds[0]`. Pauses
        stay as they are.

        Raises: EnvironmentFault; ValueError where there is not one seed per lane.
        """
        if self._vector is None:
            self._vector = self._open()
        if seeds is not None:
            if len(seeds) != self.num_lanes:
                raise ValueError(f"seeds: {len(seeds)}, expected {self.num_lanes}, one per lane")
            self._seeds = [int(seed) for seed in seeds]
            self._rows = 0
        vector, seed = self._vector, None if seeds is None else self._seeds
        self._in_flight = True
        try:
            if isinstance(vector, AsyncVectorEnv):
                vector.reset_async(seed=list(seed) if seed else None)
                batch, infos = vector.reset_wait(timeout=self._timeout)
            elif self.can_pause:
                batch, infos = vector.reset(seed=seed)  # type: ignore[arg-type]  # one seed a lane, where annotated int
            else:
                batch, infos = vector.reset(seed=seed[0] if seed else None)
        except Exception as error:
            raise self._diagnose(error, "in reset") from error
        self._in_flight = False
        if FAULT in infos:
            raise next(fault for fault in infos[FAULT] if fault is not None)
        return self._checked(batch, None, None)

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
            raise self._diagnose(error, f"actions {show_action(actions)}") from error
        self._in_flight = False
        if infos and FAULT in infos:
            raise next(fault for fault in infos[FAULT] if fault is not None)
        rewards = np.asarray(rewards, dtype=np.float64)
        return self._checked(batch, rewards, actions), rewards, terminated, truncated

    def pause(self, mask: np.ndarray) -> None:
        """Returns nothing; lanes where `mask` `[N]` is True stand still from the next step on, the others go.

        Raises: ValueError where the environment's own vectorised form cannot stand still (`can_pause` is False).
        """
        if not isinstance(self._vector, SyncVectorEnv | AsyncVectorEnv):
            raise ValueError("pause: not possible here, expected can_pause and a reset before")
        try:
            self._vector.set_attr("paused", [bool(flag) for flag in mask])
        except Exception as error:
            raise self._diagnose(error, "while pausing") from error

    def close(self) -> None:
        """Returns nothing; ends every environment and worker, kindly unless a call was cut short."""
        vector, self._vector = self._vector, None
        if vector is None:
            return
        if isinstance(vector, AsyncVectorEnv) and self._in_flight:
            # A worker that hangs or died would never answer a request to close.
            for process in vector.processes:
                process.kill()
                process.join()
            for pipe in vector.parent_pipes:
                if pipe is not None:
                    pipe.close()
            vector.closed = True
        else:
            vector.close()

    def _resolve(self, vectorization: str) -> Literal["vector_entry_point", "sync", "async"]:
        # Wrappers registered with an environment apply to single ones only.
        own = self._spec.vector_entry_point is not None and not self._spec.additional_wrappers
        single = self._spec.entry_point is not None
        if vectorization == "auto":
            return "vector_entry_point" if own else "sync"
        if vectorization == "vector_entry_point" and not own:
            raise UsageError(
                f"env.vectorization: vector_entry_point, which {self._spec.id} does not have, expected sync or async"
            )
        if vectorization in ("sync", "async") and not single:
            raise UsageError(
                f"env.vectorization: {vectorization}, but {self._spec.id} has only a vectorised form, "
                "expected vector_entry_point"
            )
        return "sync" if vectorization == "sync" else "async" if vectorization == "async" else "vector_entry_point"

    def _open(self) -> VectorEnv[Any, Any, Any]:
        if not self.can_pause:
            return make_vector(self._spec, self.num_lanes, self._kwargs)
        makers = [LaneMaker(spec=self._spec, kwargs=self._kwargs, lane=lane) for lane in range(self.num_lanes)]
        vector: VectorEnv[Any, Any, Any]
        if self.vectorization == "sync":
            vector = SyncVectorEnv(makers, copy=False)
        else:
            # Forking a process with torch's threads in it can deadlock; a fork server has none.
            method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
            vector = AsyncVectorEnv(makers, copy=False, context=method)
        if vector.metadata.get("autoreset_mode") is not AutoresetMode.NEXT_STEP:
            raise RuntimeError(f"autoreset mode {vector.metadata.get('autoreset_mode')}, expected NEXT_STEP")
        return vector

    def _checked(self, batch: Any, rewards: np.ndarray | None, actions: np.ndarray | None) -> Observation:
        """Returns the flat observations; everything in them and in the rewards is finite and of the right shape."""
        obs = self._flatten(batch)
        named = obs.items() if isinstance(obs, dict) else (("", obs),)
        for name, array in named:
            if array.shape != self._shapes[name]:
                found = f"shape {array.shape}, expected {self._shapes[name]}"
                raise EnvironmentFault(f"{self._where(None, actions)}: observation {name}: {found}")
            if array.dtype.kind == "f":
                self._finite(f"observation {name}".strip(), array, actions)
        if rewards is not None:
            self._finite("reward", rewards, actions)
        return obs

    def _finite(self, what: str, array: np.ndarray, actions: np.ndarray | None) -> None:
        flat = array.ravel()
        key = (flat.size, array.dtype.char)
        zeros = self._zeros.get(key)
        if zeros is None:
            zeros = self._zeros[key] = np.zeros_like(flat)
        total = flat.dot(zeros)
        if total != total:
            lane = int(np.flatnonzero(~np.isfinite(array).reshape(self.num_lanes, -1).all(axis=1))[0])
            raise EnvironmentFault(f"{self._where(lane, actions)}: {what} {array[lane]}, expected finite numbers")

    def _where(self, lane: int | None, actions: np.ndarray | None) -> str:
        acting = "" if actions is None else f", action {show_action(actions if lane is None else actions[lane])}"
        if lane is not None and isinstance(self._vector, SyncVectorEnv | AsyncVectorEnv):
            return f"{self._vector.call('where')[lane]}{acting}"
        place = "all lanes" if lane is None else f"lane {lane}"
        return f"{place}, seed {self._seeds[0] if self._seeds else None}, step {self._rows}{acting}"

    def _diagnose(self, error: Exception, doing: str) -> EnvironmentFault:
        """Returns the fault behind an exception that the vector environment itself raised."""
        vector = self._vector
        if isinstance(vector, AsyncVectorEnv):
            for lane, (process, pipe) in enumerate(zip(vector.processes, vector.parent_pipes, strict=True)):
                place = f"lane {lane}, seed {self._seeds[lane] if self._seeds else None}, step {self._rows}"
                if isinstance(error, multiprocessing.TimeoutError):
                    if pipe is not None and not pipe.poll(0):
                        return EnvironmentFault(f"{place}, {doing}: no answer within {self._timeout:g} s (env.timeout)")
                    continue
                process.join(0.2)
                if process.exitcode is not None:
                    cause = brief(error) if pipe is None else f"its worker ended with exit code {process.exitcode}"
                    return EnvironmentFault(f"{place}, {doing}: {cause}")
        elif isinstance(vector, SyncVectorEnv):
            for env in vector.envs:
                found = env.get_wrapper_attr("misfit")()
                if found is not None:
                    return EnvironmentFault(f"{env.get_wrapper_attr('where')()}, {doing}: observation: {found}")
        return EnvironmentFault(f"{self._where(None, None)}, {doing}: {brief(error)}")
