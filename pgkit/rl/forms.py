"""An environment as it was asked for, and the forms in which it can run: its own vectorised one, or single ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import gymnasium
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Dict, Tuple
from gymnasium.vector import AutoresetMode, VectorEnv

from pgkit.core.spaces import leaves
from pgkit.errors import UsageError
from pgkit.rl.pausable import LaneMaker
from pgkit.rl.registry import find, make_environment, make_vector, naming_errors
from pgkit.rl.side_by_side import SideBySide
from pgkit.rl.spaces import check_action_space
from pgkit.rl.workers import start_workers
from pgkit.rl.wrappers import Wrapper, read_wrappers, without_vector_form

Vectorization = Literal["auto", "vector_entry_point", "sync", "async"]
Resolved = Literal["vector_entry_point", "sync", "async"]


@final
@dataclass(frozen=True, kw_only=True)
class Form:
    """How lanes run: `observation_space` and `action_space` of one, what is `known` of the dynamics, and a `note` where
    the form is not the one that the environment itself offers."""

    vectorization: Resolved
    observation_space: Space[Any]
    action_space: Space[Any]
    known: Any = None
    note: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A registered environment, its keywords and the wrappers around it; nothing is made yet."""

    spec: EnvSpec
    kwargs: Mapping[str, Any]
    wrappers: Sequence[Wrapper]

    @classmethod
    def of(cls, id: str, kwargs: Mapping[str, Any], wrappers: Sequence[Any]) -> Blueprint:
        """Returns the blueprint that a node of the configuration asks for.

        Raises: UsageError naming `env.id` or `env.wrappers` and what is accepted.
        """
        return cls(spec=find(id), kwargs=dict(kwargs), wrappers=read_wrappers(wrappers))

    @property
    def has_single(self) -> bool:
        """Whether one environment can be made alone."""
        return self.spec.entry_point is not None

    @property
    def has_vector(self) -> bool:
        """Whether it is registered with a vectorised form of its own."""
        # Wrappers registered with an environment apply to single ones only.
        return self.spec.vector_entry_point is not None and not self.spec.additional_wrappers

    @property
    def max_episode_steps(self) -> int | None:
        """The time limit, in steps of the environment itself; None where there is none."""
        limit: int | None = self.kwargs.get("max_episode_steps", self.spec.max_episode_steps)
        return None if limit == -1 else limit

    def single(self) -> gymnasium.Env[Any, Any]:
        """Returns one environment.

        Raises: UsageError where it cannot be made.
        """
        return make_environment(self.spec, self.kwargs, self.wrappers)

    def vector(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """Returns the environment's own vectorised form.

        Raises: UsageError where it cannot be made, or resets in another mode than NEXT_STEP.
        """
        return make_vector(self.spec, num_envs, self.kwargs, self.wrappers)

    def form(self, vectorization: Vectorization, num_envs: int) -> Form:
        """Returns how it will run; `auto` is its own form where that sees and does what the single one does.

        Raises: UsageError naming `env.vectorization` for a form that it does not have, `env.id` for a space that is
        not supported.
        """
        lone = without_vector_form(self.wrappers)
        if vectorization == "vector_entry_point" and not self.has_vector:
            raise UsageError(
                f"env.vectorization: vector_entry_point, which {self.spec.id} does not have, expected sync or async"
            )
        if not self.has_single and vectorization in ("sync", "async"):
            raise UsageError(
                f"env.vectorization: {vectorization}, but {self.spec.id} has only a vectorised form, "
                "expected vector_entry_point"
            )
        if lone and not self.has_single:
            raise UsageError(
                f"env.wrappers: {lone}, but {self.spec.id} has only a vectorised form, expected none of these"
            )
        if lone and vectorization == "vector_entry_point":
            raise UsageError(
                f"env.vectorization: vector_entry_point, which env.wrappers={lone} cannot serve, expected sync or async"
            )
        note = ""
        if vectorization == "vector_entry_point" or (vectorization == "auto" and self.has_vector and not lone):
            if vectorization == "vector_entry_point" or not self.has_single or self._alike(num_envs):
                return self._own(num_envs)
            note = f"env.vectorization: sync, as the vectorised form of {self.spec.id} has other spaces"
        elif vectorization == "auto" and self.has_vector:
            note = f"env.vectorization: sync, as {lone} cannot wrap the vectorised form of {self.spec.id}"
        return self._lone("async" if vectorization == "async" else "sync", note)

    def open(self, vectorization: Resolved, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """Returns all the lanes, started, in NEXT_STEP autoreset mode.

        Raises: UsageError where they cannot be made or their workers do not come up.
        """
        if vectorization == "vector_entry_point":
            return self.vector(num_envs)
        makers = [
            LaneMaker(spec=self.spec, kwargs=self.kwargs, wrappers=self.wrappers, lane=lane) for lane in range(num_envs)
        ]
        vector: VectorEnv[Any, Any, Any]
        if vectorization == "sync":
            with naming_errors(self.spec, self.kwargs):
                vector = SideBySide(makers, copy=False)
        else:
            vector = start_workers(makers)
        if vector.metadata.get("autoreset_mode") is not AutoresetMode.NEXT_STEP:
            raise RuntimeError(f"autoreset mode {vector.metadata.get('autoreset_mode')}, expected NEXT_STEP")
        return vector

    def _alike(self, num_envs: int) -> bool:
        """Returns whether both forms, without wrappers, have the same spaces."""
        bare = replace(self, wrappers=())
        whole, one = bare.vector(num_envs), bare.single()
        whole.close()
        one.close()
        spaces = whole.single_observation_space, whole.single_action_space
        return spaces == (one.observation_space, one.action_space)

    def _own(self, num_envs: int) -> Form:
        whole = self.vector(num_envs)
        whole.close()
        spaces = whole.single_observation_space, whole.single_action_space
        check_spaces(*spaces)
        return Form(vectorization="vector_entry_point", observation_space=spaces[0], action_space=spaces[1])

    def _lone(self, vectorization: Resolved, note: str) -> Form:
        specimen = self.single()
        spaces = specimen.observation_space, specimen.action_space
        known = getattr(specimen.unwrapped, "dynamics", None)
        specimen.close()
        check_spaces(*spaces)
        return Form(
            vectorization=vectorization, observation_space=spaces[0], action_space=spaces[1], known=known, note=note
        )


def check_spaces(observation: Space[Any], action: Space[Any]) -> None:
    """Returns nothing.

    Raises: UsageError for spaces that are not supported; with the wrapper that leaves out the entries that are not.
    """
    check_action_space(action)
    try:
        leaves(observation)
    except UsageError as error:
        keys = _supported(observation)
        if not keys:
            raise
        listed = ",".join(str(key) for key in keys)
        raise UsageError(f"{error}; without it: env.wrappers=[{{filter_observation:{{keys:[{listed}]}}}}]") from None


def _supported(space: Space[Any]) -> list[Any]:
    """Returns the entries of a Dict or a Tuple that are supported, where others are not."""
    if not isinstance(space, Dict | Tuple):
        return []
    keys, entries = [], space.items() if isinstance(space, Dict) else enumerate(space.spaces)
    for key, inner in entries:
        try:
            leaves(inner)
        except UsageError:
            continue
        keys.append(key)
    return keys if len(keys) < len(space.spaces) else []
