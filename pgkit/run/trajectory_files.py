"""Trajectories on disk: tensors as safetensors, what they are as JSON beside them, no pickle; raw data, no γ in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pgkit.errors import UsageError
from pgkit.run.description import checked_bytes, parse, render
from pgkit.run.folder import write_bytes
from pgkit.run.spaces_json import space_from_json, space_to_json
from pgkit.types import Observations, Trajectories, map_observations

FORMAT = 1
SUFFIX = ".safetensors"
_WHAT = "trajectories that pgkit saved"
_OBS = "obs/"
"""What the name of each part of a composite observation begins with."""


@final
@dataclass(frozen=True, kw_only=True)
class SavedTrajectories:
    """Trajectories with the spaces they were recorded in; `source` says where they came from, for people.

    A `behavior_log_prob` of nan stands for one that was not logged.
    """

    trajectories: Trajectories
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    source: str = ""

    @property
    def has_log_prob(self) -> bool:
        """Whether every action has its log-probability under the policy that took it."""
        logged = self.trajectories.behavior_log_prob[self.trajectories.mask]
        return not bool(logged.isnan().any())

    def expect_spaces(self, observation_space: gym.Space[Any], action_space: gym.Space[Any], *, of: str) -> None:
        """Raises UsageError naming both spaces where these are others than those of the data."""
        pairs = {
            "observation": (self.observation_space, observation_space),
            "action": (self.action_space, action_space),
        }
        for name, (here, expected) in pairs.items():
            if here != expected:
                raise UsageError(f"data: {self.source}: {name} space {here}, expected that of {of}, {expected}")


def save_trajectories(path: Path | str, saved: SavedTrajectories) -> Path:
    """Returns the path of the tensors, `….safetensors`, once they and their description `….json` are written.

    Raises: UsageError for a path that ends otherwise; OSError where the disk refuses.
    """
    path = tensors_path(path)
    data = safetensors.torch.save(_named(saved.trajectories))
    content = {
        "format": FORMAT,
        "kind": "trajectories",
        "observation_space": space_to_json(saved.observation_space),
        "action_space": space_to_json(saved.action_space),
        "whole_episodes": saved.trajectories.whole_episodes,
        "composite": isinstance(saved.trajectories.obs, dict),
        "source": saved.source,
        "tensors_sha256": hashlib.sha256(data).hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)
    write_bytes(path.with_suffix(".json"), render(content))
    return path


def load_trajectories(path: Path | str) -> SavedTrajectories:
    """Returns what was saved under a path that ends in `.safetensors`; no code is loaded.

    Raises: UsageError naming the file that is missing, damaged, or written by a newer version.
    """
    path = tensors_path(path)
    content = parse(path.with_suffix(".json"), version=FORMAT, what=_WHAT)
    try:
        data = checked_bytes(path, content["tensors_sha256"], _WHAT)
        return SavedTrajectories(
            trajectories=_restored(safetensors.torch.load(data), content),
            observation_space=space_from_json(content["observation_space"]),
            action_space=space_from_json(content["action_space"]),
            source=content["source"] or str(path),
        )
    except UsageError:
        raise
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        # Checksums that fit do not make trajectories: someone may have written both.
        raise UsageError(f"{path}: {' '.join(str(error).split())}, expected {_WHAT}") from None


def find_trajectories(folder: Path) -> list[Path]:
    """Returns every file of trajectories below a folder, in order of their names: tensors with a description beside."""
    return [path for path in sorted(folder.rglob(f"*{SUFFIX}")) if _is_described(path)]


def tensors_path(path: Path | str) -> Path:
    """Returns the path.

    Raises: UsageError unless it ends in `.safetensors`.
    """
    if Path(path).suffix != SUFFIX:
        raise UsageError(f"trajectories: {path}, expected a file name that ends in {SUFFIX}")
    return Path(path)


def writable_path(path: Path | str) -> Path:
    """Returns a path for tensors, in a folder that is there or can be made.

    Raises: UsageError for any other.
    """
    path = tensors_path(path)
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"trajectories: {path}, expected a file that can be written")
    return path


def joined(parts: list[SavedTrajectories]) -> SavedTrajectories:
    """Returns the columns of all parts, padded to the longest; the policies of each part keep numbers of their own.

    Raises: UsageError where their spaces differ.
    """
    first, count = parts[0], 0
    for part in parts[1:]:
        part.expect_spaces(first.observation_space, first.action_space, of=first.source)
    if len(parts) == 1:
        return first
    length, padded = max(part.trajectories.num_steps for part in parts), []
    for part in parts:
        batch = _padded(part.trajectories, length)
        padded.append(batch.labelled(batch.behavior_id + count))
        count += int(batch.behavior_id.max()) + 1
    names = [name for name in _tensor_names() if name not in _OPTIONAL]
    whole: dict[str, Any] = dict.fromkeys(_OPTIONAL)
    whole |= {name: _side_by_side([getattr(batch, name) for batch in padded]) for name in names}
    batch = replace(padded[0], **whole)
    return replace(first, trajectories=batch, source=", ".join(dict.fromkeys(part.source for part in parts)))


_OPTIONAL = ("action_mask", "policy_state", "log_densities", "age", "group")
"""Fields that a batch may lack, which joining leaves out."""
_PER_COLUMN = ("behavior_id", "lane")
_NEVER = ("whole_episodes", "target_log_prob")
"""Fields that are no tensor, or true of one moment of a run."""


def _tensor_names() -> list[str]:
    return [field.name for field in fields(Trajectories) if field.name not in _NEVER]


def _named(trajectories: Trajectories) -> dict[str, Tensor]:
    """Returns every tensor by its name, contiguous copies."""
    found: dict[str, Tensor] = {}
    for name in _tensor_names():
        value = getattr(trajectories, name)
        if isinstance(value, dict):
            found |= {_OBS + key: tensor for key, tensor in value.items()}
        elif value is not None:
            found[name] = value
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in found.items()}


def _restored(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> Trajectories:
    known = {name for name in tensors if not name.startswith(_OBS)}
    if not known <= set(_tensor_names()):
        raise ValueError(f"unknown tensors {', '.join(sorted(known - set(_tensor_names())))}")
    obs: Observations = (
        {name.removeprefix(_OBS): tensor for name, tensor in tensors.items() if name.startswith(_OBS)}
        if content["composite"]
        else tensors["obs"]
    )
    given = {name: tensors[name] for name in known if name != "obs"}
    return Trajectories(obs=obs, whole_episodes=bool(content["whole_episodes"]), **given)


def _is_described(path: Path) -> bool:
    try:
        return '"kind": "trajectories"' in path.with_suffix(".json").read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return False


def _padded(batch: Trajectories, length: int) -> Trajectories:
    """Returns the batch with rows outside the mask after its own."""
    extra = length - batch.num_steps
    names = [name for name in _tensor_names() if name not in (*_OPTIONAL, *_PER_COLUMN, "obs")]
    rows: dict[str, Any] = {name: _grown(getattr(batch, name), extra) for name in names}
    return replace(batch, obs=map_observations(lambda x: _grown(x, extra), batch.obs), **rows)


def _grown(tensor: Tensor, extra: int) -> Tensor:
    """Returns the tensor with `extra` rows of its last; of booleans, False."""
    last = tensor[-1:] if tensor.dtype != torch.bool else torch.zeros_like(tensor[-1:])
    return torch.cat([tensor, *([last] * extra)]) if extra else tensor


def _side_by_side(values: list[Any]) -> Any:
    """Returns arrays, or dicts of such, joined along their columns."""
    if isinstance(values[0], dict):
        return {key: _side_by_side([value[key] for value in values]) for key in values[0]}
    return torch.cat(values, dim=0 if values[0].dim() == 1 else 1)
