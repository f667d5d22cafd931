"""The last batches, with the policies that collected them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, Any, Literal, final

import torch
from torch import Tensor

from pgkit.core.importance import effective_sample_size
from pgkit.core.module_state import overwritten
from pgkit.experience import Acting, Behavior, Behaviors
from pgkit.options import Fraction, Range
from pgkit.protocols import Policy
from pgkit.reuse.densities import log_densities
from pgkit.reuse.joining import joined, state_of, trajectories_of
from pgkit.types import Metrics, Trajectories


@dataclass(kw_only=True)
class _Kept:
    """One batch of those that are joined: its columns, its rows, and the policies that acted in it.

    Policies are modules, of which copies are kept and saved, none where they are forgotten.
    """

    columns: int
    rows: int
    policies: int
    copies: Sequence[Any]


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
        batches: Annotated[int, Range(least=2, most=1000)] = 4,
        keep: Literal["parameters", "log_probabilities"] = "parameters",
        min_ess: Fraction = 0.0,
    ) -> None:
        self.batches, self.keep, self.min_ess = batches, keep, min_ess
        self.unbiased = min_ess == 0
        self._policy, self._behavior = policy, behavior
        self._whole: Trajectories | None = None
        self._kept: list[_Kept] = []  # as they lie in the whole, the newest first
        self._dropped = 0

    def extend(self, trajectories: Trajectories, behaviors: Behaviors) -> Trajectories:
        """Returns the new batch and the old ones beside it, the newest first."""
        gone, acted = self._leave(), behaviors.policies
        new = self._beginning(trajectories, behaviors)
        batches = [new] if self._whole is None else [new, self._ageing(self._whole, acted)]
        copies = () if self.keep == "log_probabilities" else _copies(acted, gone.copies if gone else None)
        kept = _Kept(columns=new.num_columns, rows=new.num_steps, policies=len(acted), copies=copies)
        self._kept.insert(0, kept)
        whole = self._whole = joined(batches, rows=max(batch.rows for batch in self._kept))
        # Where the policy that learns acts as well, all its log-probabilities are known by now.
        learner = next((place for place, each in enumerate(acted) if each is self._policy), None)
        if learner is None or whole.log_densities is None:
            return whole
        return replace(whole, target_log_prob=whole.log_densities[learner])

    def _beginning(self, trajectories: Trajectories, behaviors: Behaviors) -> Trajectories:
        """Returns the new batch, of which every policy that is kept has been asked."""
        new = replace(
            trajectories,
            behavior_id=behaviors.lanes.to(trajectories.lane.device)[trajectories.lane],
            age=torch.zeros_like(trajectories.lane),
        )
        if self.keep == "log_probabilities":
            return new
        alone = len(behaviors.policies) == 1
        own = new.behavior_log_prob[None] if alone else log_densities(behaviors.policies, new)
        before = [policy for batch in self._kept for policy in batch.copies]
        return replace(new, log_densities=torch.cat([own, log_densities(before, new)]) if before else own)

    def _ageing(self, old: Trajectories, acted: Sequence[Acting]) -> Trajectories:
        """Returns the batches that stay, of which the new policies have been asked, theirs the first numbers now."""
        assert old.age is not None
        said = old.log_densities
        return replace(
            old,
            behavior_id=old.behavior_id + len(acted),
            age=old.age + 1,
            log_densities=None if said is None else torch.cat([log_densities(acted, old), said]),
        )

    def metrics(self) -> Metrics:
        """Returns the batches and columns of the last estimate, and the batches dropped since the last report."""
        columns = sum(batch.columns for batch in self._kept)
        dropped, self._dropped = self._dropped, 0
        return dict(zip(self.tags, (float(len(self._kept)), float(columns), float(dropped)), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Returns every batch that is kept, with the parameters of its policies."""
        kept = [{**vars(batch), "copies": [policy.state_dict() for policy in batch.copies]} for batch in self._kept]
        whole = None if self._whole is None else state_of(self._whole)
        return {"whole": whole, "kept": kept, "dropped": self._dropped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self._whole = None if state["whole"] is None else trajectories_of(state["whole"])
        self._kept, self._dropped = [], state["dropped"]
        for saved in state["kept"]:
            copies: Sequence[Any] = copy.deepcopy(self._behavior.acting().policies) if saved["copies"] else ()
            for policy, tensors in zip(copies, saved["copies"], strict=True):
                policy.load_state_dict(tensors)
            self._kept.append(_Kept(**{**saved, "copies": copies}))

    def _leave(self) -> _Kept | None:
        """Forgets what is not to be joined with the next batch; returns one that went."""
        worth = self._worth() if self.min_ess > 0 else [1.0] * len(self._kept)
        stay = [place for place, share in enumerate(worth) if share >= self.min_ess]
        self._dropped += len(self._kept) - len(stay)
        stay = stay[: self.batches - 1]
        gone = next((batch for place, batch in enumerate(self._kept) if place not in stay), None)
        if self._whole is not None and gone is not None:
            self._whole = _part(self._whole, self._kept, stay) if stay else None
            self._kept = [self._kept[place] for place in stay]
        return gone

    def _worth(self) -> list[float]:
        """Returns the effective share of each batch's columns under the policy that learns, 0 to 1."""
        if self._whole is None:
            return []
        log_prob = log_densities([self._policy], self._whole)[0]
        ratio = torch.where(self._whole.mask, log_prob - self._whole.behavior_log_prob, 0.0).double().sum(dim=0)
        return [
            effective_sample_size(each) / len(each) if torch.isfinite(each).any() else 0.0
            for each in ratio.split([batch.columns for batch in self._kept])
        ]


def _part(whole: Trajectories, kept: Sequence[_Kept], stay: Sequence[int]) -> Trajectories:
    """Returns the columns of the batches at `stay`, with the policies that acted there, numbered anew."""
    columns = _places([batch.columns for batch in kept], stay)
    policies = _places([batch.policies for batch in kept], stay)
    part = whole.columns(columns)
    said, ids = part.log_densities, part.behavior_id
    if isinstance(policies, Tensor):
        policies = policies.to(ids.device)
        number = ids.new_zeros(sum(batch.policies for batch in kept))
        ids = number.scatter_(0, policies, torch.arange(len(policies), device=ids.device))[ids]
    return replace(part, behavior_id=ids, log_densities=None if said is None else said[policies])


def _places(sizes: Sequence[int], stay: Sequence[int]) -> slice | Tensor:
    """Returns where the parts at `stay` lie: as a slice where the last ones go, so that nothing need be copied."""
    ends = list(accumulate(sizes, initial=0))
    if list(stay) == list(range(len(stay))):
        return slice(0, ends[len(stay)])
    return torch.cat([torch.arange(ends[place], ends[place + 1]) for place in stay])


def _copies(policies: Sequence[Any], room: Sequence[Any] | None) -> Sequence[Any]:
    """Returns copies of the policies: modules made anew the first time, and later those in `room` overwritten."""
    if room is None:
        return copy.deepcopy(policies)
    return [overwritten(kept, policy) for kept, policy in zip(room, policies, strict=True)]
