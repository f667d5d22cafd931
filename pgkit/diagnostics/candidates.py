"""Estimators by name, and their coefficients on a batch that another estimator was used on.

A name is a return, a baseline, or both joined by `_`: `total`, `leave_one_out`, `gae_0.95`, `n_step_5_gls`. Without a
return it is reward-to-go; without a baseline it is zero, and the value where the return bootstraps from one.
`all_action` is the estimator of that name: it credits every action with its value and takes neither.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, final, get_args

import torch
from torch import Tensor

from pgkit.core import recursions
from pgkit.errors import UsageError, did_you_mean
from pgkit.snapshot import Facts, Snapshot

Return = Literal["total", "reward_to_go", "gae", "n_step", "all_action"]
Reference = Literal[
    "zero", "mean", "leave_one_out", "value", "optimal", "optimal_time", "optimal_parameter", "optimal_layer", "gls"
]
DEFAULT = ("zero", "leave_one_out", "value", "optimal", "gls", "gae_0.95", "gae_0.95_gls", "total", "all_action")
"""What a panel compares unless it is told: of these, those that the parts of the run allow."""
ALL_ACTION: Final = "all_action"
NAME = re.compile(r"(?:(total|reward_to_go)|(gae)_([0-9.]+)|(n_step)_([0-9]+))?(?:(?:^|_)([a-z_]+))?")


@final
@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An estimator that might have been used; `number` is λ or n, where its return has one."""

    name: str
    credit: Return
    number: float
    reference: Reference

    @property
    def needs_values(self) -> bool:
        """Whether it reads a critic's values."""
        return self.credit in ("gae", "n_step") or self.reference in ("value", "gls")

    @property
    def sums_actions(self) -> bool:
        """Whether its rows have a term for every action, with the critic's value of each."""
        return self.credit == ALL_ACTION


def candidate(name: str) -> Candidate:
    """Returns the estimator of a name.

    Raises: UsageError where there is none of that name.
    """
    if name == ALL_ACTION:
        return Candidate(name=name, credit=ALL_ACTION, number=0.0, reference="zero")
    found = NAME.fullmatch(name)
    if name and found:
        plain, gae, lam, n_step, n, reference = found.groups()
        credit = cast(Return, plain or gae or n_step or "reward_to_go")
        reference = cast(Reference, reference or ("value" if gae or n_step else "zero"))
        number = _number(lam or n)
        if reference in get_args(Reference) and number is not None and (credit != "gae" or number <= 1):
            return Candidate(name=name, credit=credit, number=number, reference=reference)
    words = [*get_args(Reference), "total", "gae_0.95", "n_step_5", ALL_ACTION]
    raise UsageError(
        f"diagnostics: estimator {name}, expected a return (total, reward_to_go, gae_λ, n_step_n), a baseline "
        f"({', '.join(get_args(Reference))}), both, as gae_0.95_gls, or {ALL_ACTION}{did_you_mean(name, words)}"
    )


def chosen(names: Sequence[str] | None, facts: Facts) -> list[Candidate]:
    """Returns the estimators of some names; of the default ones, those that the run allows.

    Raises: UsageError for an unknown name, or one that contradicts the parts of the run.
    """
    if names is None:
        return [each for each in map(candidate, DEFAULT) if _obstacle(each, facts) is None]
    found = [candidate(name) for name in names]
    for each in found:
        if (reason := _obstacle(each, facts)) is not None:
            raise UsageError(f"diagnostics: estimator {each.name}, expected {reason}")
    return found


def signal_of(each: Candidate, snapshot: Snapshot, *, gamma: float) -> Tensor:
    """Returns the signal of a candidate on a batch, `[T, N]`, in the unit of the batch's own."""
    trajectories, factors = snapshot.trajectories, snapshot.factors
    rewards, values = factors.rewards, factors.values
    assert rewards is not None
    tail = rewards.new_zeros(rewards.shape[0] + 1, rewards.shape[1]) if values is None else values
    ends = {"terminated": trajectories.terminated, "truncated": trajectories.truncated, "mask": trajectories.mask}
    if each.credit == "n_step":
        return recursions.n_step_return(rewards, tail, factors.log_weight, **ends, gamma=gamma, n=int(each.number))
    lam = each.number if each.credit == "gae" else 1.0
    result = recursions.lambda_return(rewards, tail, factors.log_weight, **ends, gamma=gamma, lam=lam)
    if each.credit == "total":
        result = (result[0] * (factors.log_weight[0] - factors.log_weight).exp()).expand_as(result)
    return torch.where(factors.mask, result, 0.0)


def _obstacle(each: Candidate, facts: Facts) -> str | None:
    """Returns what a candidate would need of the run, or None."""
    if each.sums_actions and not facts.has_action_values:
        return "critic=action_value and Discrete actions"
    if each.needs_values and not facts.has_values:
        return "a critic, as critic=value"
    if each.credit == "total" and not facts.whole_episodes:
        return "collect=episodes: a slab does not hold whole returns"
    if each.reference not in ("zero", "value") and facts.columns < 2:
        return f"2 columns a batch or more, not {facts.columns}"
    return None


def _number(text: str | None) -> float | None:
    try:
        return float(text or 0)
    except ValueError:
        return None
