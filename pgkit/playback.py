"""Policies of finished runs, ready to act again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # ships no types

from pgkit.config import build
from pgkit.errors import UsageError
from pgkit.protocols import Policy
from pgkit.rl.evaluation import Deterministic, play
from pgkit.rl.lanes import Lanes
from pgkit.run.checkpoint import SavedPolicy, load_policy_state
from pgkit.run.seeds import Streams, draw_seeds
from pgkit.run.statistics import summarise_episodes
from pgkit.types import Trajectories


def load_policy(folder: Path | str, *, trusted: Sequence[str] = ()) -> Any:
    """Returns the policy that a run left, normaliser included, as a `torch.nn.Module`.

    `policy.log_prob(obs, actions)` is differentiable; `policy.actor()` is a fast function from numpy observations
    `[N, *obs]` to the parameters of `policy.law`. Of a policy with a memory observations are `[T, N, *obs]`, and the
    actor has to be told of ends, by `follow`. No code is loaded from the folder.

    Raises: UsageError naming the file that is missing or damaged, or a class that is not trusted.
    """
    return restore(load_policy_state(Path(folder) / "checkpoints" / "last"), trusted=trusted)


def restore(saved: SavedPolicy, *, trusted: Sequence[str] = ()) -> Any:
    """Returns the policy behind a checkpoint."""
    policy = build(
        saved.config,
        expects=Policy,
        trusted=trusted,
        observation_space=saved.observation_space,
        action_space=saved.action_space,
    )
    try:
        policy.load_state_dict(dict(saved.tensors))
    except RuntimeError as error:
        raise UsageError(f"{saved.path}: {' '.join(str(error).split())}, expected the policy's own tensors") from None
    return policy


def lanes_of(folder: Path, *, num_envs: int, trusted: Sequence[str] = ()) -> Lanes:
    """Returns lanes of the environment that a run was trained on, able to pause where they can.

    Raises: UsageError where the run's configuration cannot be read.
    """
    file = folder / ".hydra" / "config.yaml"
    try:
        node = OmegaConf.to_container(OmegaConf.load(file).env)
    except (OSError, AttributeError, YAMLError, OmegaConfBaseException) as error:
        raise UsageError(f"{file}: {' '.join(str(error).split())}, expected the configuration of a run") from None
    module, colon, _ = str(node.get("id", "") if isinstance(node, dict) else "").rpartition(":")
    if colon and module.partition(".")[0] not in trusted:
        # `module:Anything-v0` imports the module, and the folder may be a stranger's.
        raise UsageError(f"{file}: env.id imports {module}, expected it among trusted_packages on the command line")
    return pausing_lanes(node, num_envs=num_envs, trusted=trusted)


def pausing_lanes(node: Any, *, num_envs: int, trusted: Sequence[str]) -> Lanes:
    """Returns lanes for playing whole episodes: sync ones, where those see and do what the ones of the node do.

    Rewards are those of the environment: what clipping them was for is over.
    """
    wanted = {**node, "num_envs": num_envs, "reward_clip": None}
    own = wanted.get("vectorization") == "vector_entry_point"
    try:
        lanes: Lanes = build({**wanted, "vectorization": "sync"}, expects=Lanes, trusted=trusted)
    except UsageError:  # it has a vectorised form alone, or is wrong in a way that comes up again
        return cast(Lanes, build({**wanted, "vectorization": "auto"}, expects=Lanes, trusted=trusted))
    if own:
        vector: Lanes = build(wanted, expects=Lanes, trusted=trusted)
        if (vector.observation_space, vector.action_space) != (lanes.observation_space, lanes.action_space):
            return vector
    return lanes


def play_both(
    policy: Any,
    lanes: Lanes,
    *,
    episodes: int,
    streams: Streams,
    keep: Callable[[Trajectories], object] | None = None,
) -> dict[str, dict[str, Any]]:
    """Returns the statistics of the deterministic and of the stochastic policy, each over `episodes` episodes.

    `keep` is handed the trajectories of the stochastic one.
    Raises: RunFault where an episode does not end.
    """
    results: dict[str, dict[str, Any]] = {}
    generator = streams.evaluation
    for name, law in (("deterministic", Deterministic(policy.law)), ("stochastic", policy.law)):
        seeds = draw_seeds(generator, lanes.num_lanes)
        batch = play(lanes, policy.actor(), law, episodes=episodes, seeds=seeds, generator=generator)
        results[name] = summarise_episodes(batch.returns, batch.lengths, generator=generator)
        if keep is not None and name == "stochastic":
            keep(batch.trajectories)
    return results
