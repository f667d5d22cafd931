"""The last batches, with the policies that collected them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, final

import torch
from torch import Tensor

from pgkit.core.importance import effective_sample_size
from pgkit.core.module_state import overwritten
from pgkit.experience import Behavior, Behaviors
from pgkit.options import Fraction, Range
from pgkit.protocols import Policy
from pgkit.reuse.densities import log_densities
from pgkit.reuse.joining import joined, state_of, trajectories_of
from pgkit.types import Metrics, Trajectories


@dataclass(kw_only=True)
class _Kept:
    """A batch, the policies that acted in it (none where they are not kept), and what was said of its actions.

    Policies are modules, of which copies are kept and saved. `said` holds log μ(a|s) `[T, N]` by the number of the
    policy; `own` are the numbers of the batch's policies.
    """

    trajectories: Trajectories
    policies: Sequence[Any]
    own: range
    said: dict[int, Tensor]
    age: int = 0


@final
class Window:
    """Joins the current batch and up to `batches` − 1 earlier ones, each column with every policy's log-probabilities.

    Old policies are kept whole, parameters and preprocessing moments, and are asked once about each new batch, as the
    new policy is about each old one: log-probabilities never change afterwards. Where memory asks for it,
    `keep="log_probabilities"` forgets the policies; weights then have each column's own behaviour and no mixture.

    Bias: with `min_ess` above 0 a batch goes because of what is in it; a batch that is used twice also steered the
    policy whose gradient it now estimates. Both are slight where steps are small; estimates count as dependent.
    Source: Veach and Guibas 1995 (SIGGRAPH); in policy search Tang and Abbeel 2010 (NeurIPS).
    """

    tags = ("reuse/batches", "reuse/columns", "reuse/dropped")

    def __init__(
        self,
        *,
        policy: Policy,
        behavior: Behavior,
        batches: Annotated[int, Range(least=2)] = 4,
        keep: Literal["parameters", "log_probabilities"] = "parameters",
        min_ess: Fraction = 0.0,
    ) -> None:
        self.batches, self.keep, self.min_ess = batches, keep, min_ess
        self.unbiased = min_ess == 0
        self._policy, self._behavior = policy, behavior
        self._kept: list[_Kept] = []
        self._next = self._dropped = 0

    def extend(self, trajectories: Trajectories, behaviors: Behaviors) -> Trajectories:
        """Returns the new batch and the old ones beside it, the newest first."""
        if self._kept and self.min_ess > 0:
            self._drop()
        gone, self._kept = self._kept[self.batches - 1 :], self._kept[: self.batches - 1]
        new = self._entry(trajectories, behaviors, room=gone[0].policies if gone else None)
        for old in self._kept:
            old.age += 1
            if self.keep == "parameters":
                new.said.update(zip(old.own, log_densities(old.policies, new.trajectories), strict=True))
                old.said.update(zip(new.own, log_densities(behaviors.policies, old.trajectories), strict=True))
        self._kept = [new, *self._kept]
        known = {number for entry in self._kept for number in entry.own}
        for entry in self._kept:
            entry.said = {number: said for number, said in entry.said.items() if number in known}
        whole = joined(
            [entry.trajectories for entry in self._kept],
            said=[entry.said for entry in self._kept],
            own=[entry.own for entry in self._kept],
            ages=[entry.age for entry in self._kept],
            complete=self.keep == "parameters",
        )
        # Where the policy that learns acts as well, all its log-probabilities are known by now.
        learner = next((place for place, each in enumerate(behaviors.policies) if each is self._policy), None)
        if learner is None or whole.log_densities is None:
            return whole
        return replace(whole, target_log_prob=whole.log_densities[learner])

    def metrics(self) -> Metrics:
        """Returns the batches and columns of the last estimate, and the batches dropped since the last report."""
        columns = sum(entry.trajectories.num_columns for entry in self._kept)
        dropped, self._dropped = self._dropped, 0
        return dict(zip(self.tags, (float(len(self._kept)), float(columns), float(dropped)), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Returns every batch that is kept, with the parameters of its policies."""
        return {
            "next": self._next,
            "kept": [
                {
                    "trajectories": state_of(entry.trajectories),
                    "policies": [policy.state_dict() for policy in entry.policies],
                    "own": [entry.own.start, entry.own.stop],
                    "said": dict(entry.said),
                    "age": entry.age,
                }
                for entry in self._kept
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._next = state["next"]
        self._kept = []
        for saved in state["kept"]:
            policies: Sequence[Any] = copy.deepcopy(self._behavior.acting().policies) if saved["policies"] else ()
            for policy, tensors in zip(policies, saved["policies"], strict=True):
                policy.load_state_dict(tensors)
            self._kept.append(
                _Kept(
                    trajectories=trajectories_of(saved["trajectories"]),
                    policies=policies,
                    own=range(*saved["own"]),
                    said={int(number): said for number, said in saved["said"].items()},
                    age=saved["age"],
                )
            )

    def _entry(self, trajectories: Trajectories, behaviors: Behaviors, *, room: Sequence[Any] | None) -> _Kept:
        """Returns the new batch with copies of its policies, written over those of a batch that left (`room`)."""
        own = range(self._next, self._next + len(behaviors.policies))
        self._next = own.stop
        several = len(own) > 1
        said = log_densities(behaviors.policies, trajectories) if several else trajectories.behavior_log_prob[None]
        labelled = trajectories.labelled(behaviors.lanes.to(trajectories.lane.device)[trajectories.lane])
        kept = _copies(behaviors.policies, room) if self.keep == "parameters" else ()
        return _Kept(trajectories=labelled, policies=kept, own=own, said=dict(zip(own, said, strict=True)))

    def _drop(self) -> None:
        """Forgets batches that the policy which learns would hardly have sampled."""
        before = len(self._kept)
        self._kept = [entry for entry in self._kept if self._worth(entry) >= self.min_ess]
        self._dropped += before - len(self._kept)

    def _worth(self, entry: _Kept) -> float:
        """Returns the effective share of a batch's columns under the policy that learns, 0 to 1."""
        batch = entry.trajectories
        log_prob = log_densities([self._policy], batch)[0]
        ratio = torch.where(batch.mask, log_prob - batch.behavior_log_prob, 0.0).double().sum(dim=0)
        if not torch.isfinite(ratio).any():
            return 0.0
        return effective_sample_size(ratio) / len(ratio)


def _copies(policies: Sequence[Any], room: Sequence[Any] | None) -> Sequence[Any]:
    """Returns copies of the policies: modules made anew the first time, and later those in `room` overwritten."""
    if room is None:
        return copy.deepcopy(policies)
    return [overwritten(kept, policy) for kept, policy in zip(room, policies, strict=True)]
