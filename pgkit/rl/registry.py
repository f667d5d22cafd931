"""Finds and makes registered environments; every way in which that can fail is a one-line error with its cure."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium import error as gym_error
from gymnasium import logger
from gymnasium.envs.registration import EnvSpec, find_highest_version, load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv

from pgkit.errors import UsageError, did_you_mean
from pgkit.rl.pools import PREFIX, find_pool
from pgkit.rl.wrappers import Wrapper

# By name: what these environments say about themselves takes torch, which worker processes do without.
_KNOWN = "pgkit.rl.known"
for _name, _process in {
    "ShortCorridor": "short_corridor",
    "Chain": "chain",
    "Gamble": "gamble",
    "Ring": "ring",
}.items():
    gymnasium.register(f"pgkit/{_name}-v0", entry_point=f"{_KNOWN}:Tabular", kwargs={"process": _process})
gymnasium.register("pgkit/LQR-v0", entry_point=f"{_KNOWN}:Regulator")
gymnasium.register("pgkit/RecallCue-v0", entry_point=f"{_KNOWN}:recall_cue", reward_threshold=0.95)

_EXTRAS = {
    "gymnasium.envs.box2d": "box2d",
    "gymnasium.envs.mujoco": "mujoco",
    "ale_py": "atari",
    "minigrid": "minigrid",
    "envpool": "envpool",
}
"""Which extra of pgkit brings what the environments of a package need."""

_REGISTERED_BY = {"ALE/": "ale_py", "MiniGrid-": "minigrid", "BabyAI-": "minigrid", PREFIX: "envpool"}
"""Beginnings of ids that are registered only once a package has been imported."""


def find(id: str) -> EnvSpec:
    """Returns the specification of a registered environment; `module:Id-v0` imports the module first.

    Raises: UsageError naming near matches, a missing extra, or what Gymnasium says of a deprecated id.
    """
    if not id or id == "???":
        raise UsageError("env.id: not set, expected a registered Gymnasium id, as in env.id=CartPole-v1")
    module, _, name = id.rpartition(":")
    package = module or next((owner for start, owner in _REGISTERED_BY.items() if name.startswith(start)), "")
    if package:
        _import(package, id)
    if package == "envpool":
        return find_pool(id)
    if name in gymnasium.registry:
        return _current(gymnasium.registry[name])
    try:
        gymnasium.spec(name)
    except gym_error.DeprecatedEnv as error:
        raise UsageError(f"env.id: {id}, expected a current id ({str(error).rstrip('.')})") from error
    except gym_error.Error:
        pass  # Gymnasium's advice differs from case to case; ours is one line.
    raise UsageError(f"env.id: {id}, expected a registered Gymnasium id{_near(name)}")


def brief(error: BaseException) -> str:
    """Returns an exception on one line, with the place it came from, as in `KeyError: 'x' (robot.py:42)`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def check_kwargs(spec: EnvSpec, creator: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    """Returns nothing.

    Raises: UsageError naming a keyword that the environment does not take, with the nearest one that it does.
    """
    parameters = inspect.signature(creator).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.name not in ("self", "num_envs")]
    known += [] if "max_episode_steps" in known else ["max_episode_steps"]
    for key in kwargs:
        if key not in known:
            hint = did_you_mean(key, known)
            raise UsageError(f"env.kwargs: {key}, expected keywords of {spec.id}: {', '.join(known)}{hint}")


@contextlib.contextmanager
def naming_errors(spec: EnvSpec, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Yields while an environment is being made; what goes wrong leaves as a UsageError that says what to change."""
    try:
        yield
    except UsageError:
        raise
    except (gym_error.DependencyNotInstalled, ImportError) as error:
        raise UsageError(_missing(spec, error)) from error
    except Exception as error:
        cause = brief(error)
        if kwargs:
            raise UsageError(f"env.kwargs: {dict(kwargs)}, expected what {spec.id} takes ({cause})") from error
        raise UsageError(f"env.id: {spec.id}, expected an environment that can be made ({cause})") from error


def make_environment(
    spec: EnvSpec, kwargs: Mapping[str, Any], wrappers: Sequence[Wrapper] = ()
) -> gymnasium.Env[Any, Any]:
    """Returns one environment with its time limit and without Gymnasium's per-step checks, which `probe` replaces.

    The first of the wrappers lies next to the environment.

    Raises: UsageError where it cannot be made.
    """
    with naming_errors(spec, kwargs):
        if spec.entry_point is not None:
            check_kwargs(spec, creator_of(spec.entry_point), kwargs)
        _hear_mujoco()
        bare = dataclasses.replace(spec, order_enforce=False)
        environment: gymnasium.Env[Any, Any] = gymnasium.make(bare, disable_env_checker=True, **kwargs)
    return functools.reduce(lambda inner, wrapper: wrapper.around(inner), wrappers, environment)


def make_vector(
    spec: EnvSpec, num_envs: int, kwargs: Mapping[str, Any], wrappers: Sequence[Wrapper] = ()
) -> VectorEnv[Any, Any, Any]:
    """Returns the environment's own vectorised form, in NEXT_STEP autoreset mode.

    An environment that offers the mode as a keyword is asked for NEXT_STEP; one that cannot do it is refused. One that
    offers to clip rewards is asked not to, so that returns are logged raw: `env.reward_clip` is for that. A
    SAME_STEP environment cannot be shown as NEXT_STEP from outside: while one lane stands on its reset row the others
    must move, and it has no way to move some lanes only.

    Raises: UsageError where it cannot be made or does not say how it resets.
    """
    with naming_errors(spec, kwargs):
        assert spec.vector_entry_point is not None
        creator = creator_of(spec.vector_entry_point)
        check_kwargs(spec, creator, kwargs)
        chosen = dict(kwargs)
        for key, value in (("autoreset_mode", AutoresetMode.NEXT_STEP), ("reward_clipping", False)):
            if key in inspect.signature(creator).parameters:
                chosen.setdefault(key, value)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*AutoresetMode.*")  # refused below, in our words
            vector: VectorEnv[Any, Any, Any] = gymnasium.make_vec(
                spec, num_envs=num_envs, vectorization_mode="vector_entry_point", **chosen
            )
    mode = vector.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.NEXT_STEP:
        vector.close()
        stated = mode.name if isinstance(mode, AutoresetMode) else f"{mode!r}"
        cure = "" if spec.entry_point is None else "; env.vectorization=sync works"
        raise UsageError(
            f"env.vectorization: vector_entry_point, where {spec.id} states autoreset mode {stated}, "
            f"expected NEXT_STEP{cure}"
        )
    return functools.reduce(lambda inner, wrapper: wrapper.around_vector(inner), wrappers, vector)


def creator_of(entry_point: Any) -> Callable[..., Any]:
    """Returns the class or function behind an entry point."""
    return entry_point if callable(entry_point) else load_env_creator(entry_point)


def _hear_mujoco() -> None:
    """Sends MuJoCo's warnings where Python's go; on its own it writes a log file into the working folder."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is not None and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(lambda message: warnings.warn(f"MuJoCo: {message}", stacklevel=2))


def _current(spec: EnvSpec) -> EnvSpec:
    latest = find_highest_version(spec.namespace, spec.name)
    if spec.version is not None and latest is not None and latest > spec.version:
        logger.deprecation(f"env.id: {spec.id} is out of date, the current version is v{latest}.")
    return spec


def _import(package: str, id: str) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(package)
        cure = f'pip install "pgkit[{extra}]"' if extra else f"a module {package} that can be imported"
        raise UsageError(f"env.id: {id} needs {error.name}, which is not installed, expected {cure}") from error


def _missing(spec: EnvSpec, error: Exception) -> str:
    for entry_point in (spec.entry_point, spec.vector_entry_point):
        for package, extra in _EXTRAS.items():
            if isinstance(entry_point, str) and entry_point.startswith(package):
                return f'env.id: {spec.id} needs packages that are not installed, expected pip install "pgkit[{extra}]"'
    return f"env.id: {spec.id} needs packages that are not installed, expected: {' '.join(str(error).split())}"


def _near(name: str) -> str:
    lowered = {known.lower(): known for known in gymnasium.registry}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {lowered[near[0]]}?)" if near else ""
