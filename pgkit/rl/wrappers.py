"""What stands between an environment and the policy: Gymnasium's own wrappers, named by configuration.

Each function below is one name of `env.wrappers`, and its keywords are the options of that name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final, get_type_hints

import gymnasium
import numpy as np
from gymnasium import error as gym_error
from gymnasium import wrappers as single
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import vector as many

from pgkit.errors import UsageError
from pgkit.options import Count, Fraction, Index
from pgkit.rl.masks import ActionMaskObservation
from pgkit.schema.values import convert, show, suggestion

Env = gymnasium.Env[Any, Any]
Vector = VectorEnv[Any, Any, Any]


def time_aware(env: Env) -> Env:
    """Observes the share of the time limit that has passed: a number more, or an entry `time` beside an image."""
    space = env.observation_space
    plain = isinstance(space, Discrete) or (isinstance(space, Box) and len(space.shape) < 2 and space.dtype != np.uint8)
    return single.TimeAwareObservation(env, flatten=plain, normalize_time=True)


def frame_skip(env: Env, *, num: Count = 4) -> Env:
    """Takes every action `num` times and adds up the rewards."""
    return single.RepeatAction(env, num_repeats=num)


def frame_stack(env: Env, *, num: Count = 4, padding: Literal["reset", "zero"] = "reset") -> Env:
    """Observes the last `num` observations, `[num, *obs]`; before the first there is itself, or zeros."""
    return single.FrameStackObservation(env, stack_size=num, padding_type=padding)


def sticky_action(env: Env, *, probability: Fraction = 0.25) -> Env:
    """Takes the action before instead of the one that was chosen, with this probability (below 1)."""
    return single.StickyAction(env, repeat_action_probability=probability)


def rescale_action(env: Env, *, low: float = -1.0, high: float = 1.0) -> Env:
    """Takes actions from `low` to `high` and stretches them to the bounds of the environment."""
    lowest, highest = np.float32(low), np.float32(high)
    return single.RescaleAction(env, min_action=lowest, max_action=highest)


def grayscale(env: Env, *, keep_dim: bool = False) -> Env:
    """Observes an image `[height, width, 3]` as shades of grey, `[height, width]`."""
    return single.GrayscaleObservation(env, keep_dim=keep_dim)


def resize(env: Env, *, height: Count = 84, width: Count = 84) -> Env:
    """Observes an image in another size."""
    return single.ResizeObservation(env, shape=(height, width))


def filter_observation(env: Env, *, keys: list[Any]) -> Env:
    """Observes only these entries of a Dict (by key), a Tuple or a vector (by number)."""
    if (part := _part(env.observation_space, keys)) is not None:
        return single.TransformObservation(env, lambda obs: obs[..., keys], part)
    return single.FilterObservation(env, filter_keys=keys)


def _filter_vectors(env: Vector, keys: list[Any]) -> Vector:
    if (part := _part(env.single_observation_space, keys)) is not None:
        return many.TransformObservation(env, lambda obs: obs[..., keys], single_observation_space=part)
    return many.FilterObservation(env, filter_keys=keys)


def _part(space: Any, keys: list[Any]) -> Box | None:
    """Returns these entries of the space of a vector, None for any other space.

    Raises: ValueError for none of them.
    """
    if not isinstance(space, Box) or len(space.shape) != 1:
        return None
    if not keys:
        raise ValueError("keys is empty")
    return Box(space.low[keys], space.high[keys], dtype=space.dtype.type)


def action_mask(env: Env, *, conditional: bool = False) -> Env:
    """Observes `info["action_mask"]` as an entry, 0 where a choice, or with `conditional` an action, is not allowed."""
    return ActionMaskObservation(env, conditional=conditional)


def atari(
    env: Env,
    *,
    noop_max: Index = 30,
    frame_skip: Count = 4,
    screen_size: Count = 84,
    terminal_on_life_loss: bool = False,
    grayscale: bool = True,
) -> Env:
    """Sees Atari as published: no-ops at the start, skipped frames, the maximum of two, small and grey."""
    return single.AtariPreprocessing(
        env,
        noop_max=noop_max,
        frame_skip=frame_skip,
        screen_size=screen_size,
        terminal_on_life_loss=terminal_on_life_loss,
        grayscale_obs=grayscale,
    )


_SINGLE: Mapping[str, Callable[..., Env]] = {
    kind.__name__: kind
    for kind in (
        time_aware, frame_skip, frame_stack, sticky_action, rescale_action, grayscale, resize, filter_observation,
        action_mask, atari,
    )
}  # fmt: skip

_VECTOR: Mapping[str, Callable[..., Vector]] = {
    "rescale_action": lambda env, low, high: many.RescaleAction(env, min_action=low, max_action=high),
    "grayscale": lambda env, keep_dim: many.GrayscaleObservation(env, keep_dim=keep_dim),
    "resize": lambda env, height, width: many.ResizeObservation(env, shape=(height, width)),
    "filter_observation": _filter_vectors,
}
"""The same on an environment's own vectorised form; what has a memory of each lane has none."""

_SKIPS = ("frame_skip", "atari")
"""Wrappers after which a step is no longer one of those that the time limit counts."""

_ELSEWHERE = {
    "normalise_observations": "policy.normalise_observations=true, whose moments are frozen in evaluation and saved",
    "normalise_rewards": "returns.scale_rewards=true, which leaves the logged returns as they are",
    "clip_reward": "env.reward_clip=[-1,1], which leaves the logged returns as they are",
    "time_limit": "env.kwargs={max_episode_steps: 500}",
    "clip_action": "none: policies clip what they hand to the environment",
    "record_episode_statistics": "none: returns and lengths are always logged, raw",
}
"""What others do by a wrapper, and what to write here."""

_ALIASES = {
    "normalise_observations": ("normalise_observation", "normalize_observation", "normalize_observations", "normalize"),
    "normalise_rewards": ("normalise_reward", "normalize_reward", "normalize_rewards", "vec_normalize"),
    "clip_reward": ("reward_clip", "clip_rewards", "reward_clipping"),
    "time_limit": ("max_episode_steps",),
    "clip_action": ("clip_actions",),
    "record_episode_statistics": ("monitor", "vec_monitor"),
}


@final
@dataclass(frozen=True, kw_only=True)
class Wrapper:
    """One entry of `env.wrappers`: its name, and a value for every option; it can be sent to a worker process."""

    name: str
    options: Mapping[str, Any]

    @property
    def has_vector_form(self) -> bool:
        """Whether it can serve an environment's own vectorised form."""
        return self.name in _VECTOR

    def around(self, env: Env) -> Env:
        """Returns the environment inside this wrapper."""
        return self._made(functools.partial(_SINGLE[self.name], env), env.observation_space, env.action_space)

    def around_vector(self, env: Vector) -> Vector:
        """Returns the vector environment inside this wrapper."""
        spaces = env.single_observation_space, env.single_action_space
        return self._made(functools.partial(_VECTOR[self.name], env), *spaces)

    def _made(self, make: Callable[..., Any], observation: Any, action: Any) -> Any:
        try:
            return make(**self.options)
        except gym_error.DependencyNotInstalled as error:
            raise UsageError(
                f'env.wrappers: {self.name} needs OpenCV, which is not installed, expected pip install "pgkit[atari]"'
            ) from error
        except Exception as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(
                f"env.wrappers: {self.name}, expected one that fits observations {observation} "
                f"and actions {action} ({cause})"
            ) from error


def read_wrappers(entries: Sequence[Any]) -> tuple[Wrapper, ...]:
    """Returns the wrappers of a list of names, or of `{name: {option: value}}`, the innermost first.

    Raises: UsageError naming an entry, an option or a value that is not accepted, and what is.
    """
    read = tuple(_read(entry) for entry in entries)
    names = [wrapper.name for wrapper in read]
    if twice := [name for name in _SINGLE if names.count(name) > 1]:
        raise UsageError(f"env.wrappers: {twice[0]} twice, expected once")
    early = next((name for name in names if name in _SKIPS), None)
    if early and "time_aware" in names[names.index(early) :]:
        raise UsageError(f"env.wrappers: time_aware after {early}, expected before it: the limit counts single frames")
    return read


def without_vector_form(wrappers: Iterable[Wrapper]) -> str:
    """Returns the names of those that serve single environments alone, as in `a and b`; empty where there are none."""
    return " and ".join(wrapper.name for wrapper in wrappers if not wrapper.has_vector_form)


def _read(entry: Any) -> Wrapper:
    if isinstance(entry, dict) and len(entry) == 1:
        name, given = next(iter(entry.items()))
    else:
        name, given = entry, {}
    if not isinstance(name, str) or not isinstance(given, dict | None):
        raise UsageError(f"env.wrappers: {show(entry)}, expected a name, or {{name: {{option: value}}}}")
    if name not in _SINGLE:
        _refuse(name)
    make = _SINGLE[name]
    hints = get_type_hints(make, include_extras=True)
    options = {
        key: parameter.default
        for key, parameter in inspect.signature(make).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for key, value in (given or {}).items():
        if key not in options:
            raise UsageError(f"env.wrappers.{name}.{key}: unknown option{suggestion(str(key), list(options))}")
        options[key] = convert(f"env.wrappers.{name}.{key}", value, hints[key])
    for key, value in options.items():
        if value is inspect.Parameter.empty:
            raise UsageError(f"env.wrappers.{name}.{key}: missing, expected {{{name}: {{{key}: …}}}}")
    return Wrapper(name=name, options=options)


def _refuse(name: str) -> None:
    """Raises UsageError for a name that is none of ours."""
    ours = next((own for own, others in _ALIASES.items() if name in (own, *others)), None)
    if ours is not None:
        raise UsageError(f"env.wrappers: {name}, expected {_ELSEWHERE[ours]}")
    raise UsageError(f"env.wrappers: {name}{suggestion(name, sorted(_SINGLE))}")
