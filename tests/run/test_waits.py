"""How often the host waits for a device, who waits and what for: counted on a device that is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from pgkit.core.natural import solve_conjugate_gradient
from pgkit.errors import RunFault
from pgkit.run.journal import Journal
from pgkit.updates.climbing import Climber, expect_finite
from pgkit.updates.minibatches import Minibatches
from tests.end_to_end.runs import train_briefly
from tests.pretend import DEVICE, pretence
from tests.run.test_device import elsewhere

COLLECTED = {
    "rl/rollout.py:collect": 2,  # how many episodes ended; their returns and lengths, and whether all is finite
    "types.py:valid": 1,  # how many rows count: the size of all that follows
}
LOGGED = {"run/journal.py:write": 1}  # the loss of the critic, which nobody asked for earlier
FIRST_ORDER = {"updates/gradient_step.py:step": 1}  # whether the gradient is finite, with all that is logged of it
GEOMETRIC = {"updates/climbing.py:gradient_of": 1}  # whether the gradient is finite, and not 0
TRIES = 21
ACTING = {"policies/actor.py:act": 100_000}  # every step of an environment on the host takes actions from the device

AGENTS = {
    # Whether all gradients were finite, with all that is logged of the update.
    "ppo": {**COLLECTED, **LOGGED, "updates/ppo_clip.py:_averages": 1},
    "vpg": {**COLLECTED, **LOGGED, **FIRST_ORDER},
    "a2c": {**COLLECTED, **LOGGED, **FIRST_ORDER},
    # Whether there is a curvature to divide by, and whether the step that was just tried may stay.
    "trpo": {**COLLECTED, **LOGGED, **GEOMETRIC, "updates/trust_region.py:step": 1 + TRIES},
    "reinforce": {**ACTING, **FIRST_ORDER},
    "npg": {
        **COLLECTED,
        **LOGGED,
        **GEOMETRIC,
        "updates/natural.py:__init__": 1,  # the damping, in the unit of the Fisher matrix
        "core/natural.py:solve_by_samples": 1,  # whether torch could factorise it
        "updates/natural.py:step": 1,  # whether there is a curvature to divide by
        "updates/within.py:advance_within": TRIES,  # whether the step that was just tried may stay
    },
}  # fmt: skip
"""The most waits a batch, by who waits: what is not here waits for nothing."""
ON_THE_DEVICE = ("collect=torch_steps", "collect.steps=16", "env.num_envs=4", "total_steps=160")
ON_THE_HOST = ("collect.episodes=4", "env.num_envs=4", "total_steps=200", "baseline=leave_one_out")


def waits_of(*overrides: str, patch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """Returns who waited how often in every batch after the first."""
    counts: list[Counter[str]] = []
    with elsewhere() as waits:
        write = Journal.write

        def written(self: Journal, *arguments: Any) -> None:
            write(self, *arguments)
            counts.append(Counter(waits))

        patch.setattr(Journal, "write", written)
        train_briefly(*overrides, "diagnostics=none")
    return [after - before for before, after in pairwise(counts)]


def expect_at_most(found: list[Counter[str]], allowed: dict[str, int]) -> None:
    assert len(found) > 0
    for batch in found:
        excess = {place: count for place, count in batch.items() if count > allowed.get(place, 0)}
        assert not excess


@pytest.mark.parametrize(
    ("agent", "env"), [*((agent, "CartPole") for agent in AGENTS), ("ppo", "Pendulum"), ("reinforce", "Pendulum")]
)
def test_nobody_waits_but_to_decide_and_to_log(agent: str, env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ON_THE_HOST if agent == "reinforce" else ON_THE_DEVICE
    if env == "Pendulum" and where is ON_THE_HOST:
        where = ("collect=steps", "returns.cut=zero", *ON_THE_DEVICE[1:])
    expect_at_most(waits_of(f"env={env}", f"agent={agent}", *where, patch=monkeypatch), AGENTS[agent])


def test_a_target_divergence_is_a_decision_a_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ("env=CartPole", "agent=ppo", "update.target_kl=0.05", "update.epochs=2", "update.minibatches=3")
    found = waits_of(*agent, *ON_THE_DEVICE, patch=monkeypatch)
    expect_at_most(found, {**AGENTS["ppo"], "updates/ppo_clip.py:step": 6})
    assert any(batch["updates/ppo_clip.py:step"] for batch in found)


def test_a_number_taken_in_the_loop_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    within = Minibatches.within

    def curious(self: Minibatches, advantages: torch.Tensor) -> torch.Tensor:
        assert advantages.mean().item() < float("inf")
        return within(self, advantages)

    monkeypatch.setattr(Minibatches, "within", curious)
    found = waits_of("env=CartPole", "agent=ppo", *ON_THE_DEVICE, patch=monkeypatch)
    with pytest.raises(AssertionError, match="ppo_clip"):
        expect_at_most(found, AGENTS["ppo"])


HOST = torch.tensor([2, 0])
WAITING: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "a number": lambda x, mask: x.sum().item(),
    "a condition": lambda x, mask: bool(mask.any()),
    "a list": lambda x, mask: x.tolist(),
    "a copy on the host": lambda x, mask: x.cpu(),
    "rows of a mask": lambda x, mask: x[mask],
    "places": lambda x, mask: mask.nonzero(),
    "different numbers": lambda x, mask: x.unique(),
    "numbers in the rows of a mask": lambda x, mask: x.index_put_((mask,), -x[:2]),
    "rows by numbers of the host": lambda x, mask: x[HOST],
    "a copy of the host that is in no hurry": lambda x, mask: HOST.to(DEVICE),
    "a number made for the device": lambda x, mask: torch.tensor(2.0, device=DEVICE),
}
GOING_ON: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "arithmetic": lambda x, mask: (x * 2.0 + 1).clamp(max=0.5).sum(),
    "a choice": lambda x, mask: torch.where(mask, x, 0.0),
    "one number for the rows of a mask": lambda x, mask: x.masked_fill(mask, 0.0),
    "the same in place": lambda x, mask: x.__setitem__(mask, 0.0),
    "a slice": lambda x, mask: x[1:].clone(),
    "rows by numbers of the device": lambda x, mask: x[torch.arange(2, device=DEVICE)],
    "a copy of the host": lambda x, mask: HOST.to(DEVICE, non_blocking=True),
}


@pytest.mark.parametrize("name", [*WAITING, *GOING_ON])
def test_what_the_host_waits_for(name: str) -> None:
    with pretence() as waits:
        x, mask = torch.arange(3.0).to(DEVICE), torch.tensor([True, False, True]).to(DEVICE)
        before = waits.total()
        (WAITING | GOING_ON)[name](x, mask)
        assert (waits.total() > before) == (name in WAITING)


def test_a_device_leaves_parameters_as_the_last_good_step_did() -> None:
    with pretence() as waits:
        parameter = torch.nn.Parameter(torch.zeros(3).to(DEVICE))
        climber = Climber(torch.optim.Adam([parameter], lr=0.1), max_grad_norm=0.5, schedule="constant")
        climber.begin(0.0)
        good, bad = torch.ones(3).to(DEVICE), torch.tensor([1.0, float("nan"), 0.0]).to(DEVICE)
        before = waits.total()
        climber.follow(good)
        stayed = parameter.detach().clone()
        lengths = [climber.follow(bad), climber.follow(good)]
        assert waits.total() == before
        assert stayed.cpu().tolist() == parameter.detach().cpu().tolist() == pytest.approx([0.1] * 3)
        with pytest.raises(RunFault, match="gradient/norm: nan"):
            expect_finite(float(lengths[0]))


@pytest.mark.parametrize("iterations", [2, 9])
def test_conjugate_gradients_are_the_same_without_waiting(iterations: int) -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0]))
    gradient = torch.tensor([1.0, -1.0, 0.5, 0.25])
    host = solve_conjugate_gradient(lambda v: matrix @ v, gradient, iterations=iterations, damping=0.1)
    with pretence() as waits:
        there, start = matrix.to(DEVICE), gradient.to(DEVICE)
        before = waits.total()
        found = solve_conjugate_gradient(lambda v: there @ v, start, iterations=iterations, damping=0.1)
        assert waits.total() == before
        torch.testing.assert_close(found.solution.cpu(), host.solution)
        assert int(found.iterations) == int(host.iterations) <= iterations
