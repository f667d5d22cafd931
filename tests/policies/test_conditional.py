"""Masks of one dimension that depend on the choice in another: held against enumeration, choice by choice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.func import grad, vmap

from pgkit.errors import EnvironmentFault, UsageError
from pgkit.policies.categorical import BLOCKED, IndependentCategorical
from pgkit.policies.conditional import ConditionalCategorical
from pgkit.policies.law import MASKED
from pgkit.policies.mlp import MLPPolicy
from pgkit.rl.masks import ActionMaskObservation
from tests.end_to_end.runs import train

COUNTS = (2, 4, 3)
SPACE = spaces.MultiDiscrete(COUNTS)


def case(seed: int = 0, share: float = 0.4) -> tuple[Tensor, Tensor]:
    """Returns logits `[K]` and a table `[2, 4, 3]` that allows some actions."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(COUNTS, generator=generator) < share
    table[0, 1, 2] = True
    return 2 * torch.randn(sum(COUNTS), generator=generator, dtype=torch.float64), table


def chosen_in_turn(logits: Tensor, table: Tensor) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yields every allowed action with its probability, dimension by dimension, from the definition."""
    parts = [part.tolist() for part in logits.split(COUNTS)]
    for action in itertools.product(*map(range, COUNTS)):
        if not table[action]:
            continue
        probability = 1.0
        for place in range(len(COUNTS)):
            ways = [i for i in range(COUNTS[place]) if table[(*action[:place], i)].any()]
            weights = {i: math.exp(parts[place][i]) for i in ways}
            probability *= weights[action[place]] / math.fsum(weights.values())
        yield action, probability


@pytest.mark.parametrize("seed", range(5))
def test_probability_entropy_and_divergence_are_those_of_choosing_in_turn(seed: int) -> None:
    law, (logits, table), (others, _) = ConditionalCategorical(SPACE), case(seed), case(seed + 50)
    known, theirs = dict(chosen_in_turn(logits, table)), dict(chosen_in_turn(others, table))
    assert math.fsum(known.values()) == pytest.approx(1, abs=1e-12)
    parameters, other = law.joined(logits, table), law.joined(others, table)
    for action, probability in known.items():
        found = law.log_prob(parameters, torch.tensor(action))
        assert float(found) == pytest.approx(math.log(probability), abs=1e-10)
    entropy = -math.fsum(p * math.log(p) for p in known.values())
    divergence = math.fsum(p * math.log(p / theirs[action]) for action, p in known.items())
    assert float(law.entropy(parameters)) == pytest.approx(entropy, abs=1e-10)
    assert float(law.kl(parameters, other)) == pytest.approx(divergence, abs=1e-10)
    assert float(law.mean(parameters)[~table.reshape(-1)].sum()) == 0


def test_a_table_that_allows_everything_is_independent_choices() -> None:
    law, plain = ConditionalCategorical(SPACE), IndependentCategorical(SPACE)
    logits, _ = case()
    parameters = law.joined(logits, torch.ones(COUNTS))
    for action in itertools.product(*map(range, COUNTS)):
        torch.testing.assert_close(
            law.log_prob(parameters, torch.tensor(action)), plain.log_prob(logits, torch.tensor(action))
        )
    torch.testing.assert_close(law.entropy(parameters), plain.entropy(logits))


def test_gradients_are_finite_and_those_of_differences() -> None:
    law, (logits, table) = ConditionalCategorical(SPACE), case(3)
    action = torch.tensor((0, 1, 2))

    def log_prob(x: Tensor) -> Tensor:
        return law.log_prob(law.joined(x, table), action) + law.entropy(law.joined(x, table))

    found = grad(log_prob)(logits)
    for place in range(len(logits)):
        step = 1e-6 * torch.eye(len(logits), dtype=torch.float64)[place]
        slope = (log_prob(logits + step) - log_prob(logits - step)) / 2e-6
        torch.testing.assert_close(found[place], slope, atol=1e-8, rtol=1e-6)
    tables = torch.stack([case(seed)[1] for seed in range(6)])
    rows = torch.stack([case(seed)[0] for seed in range(6)])
    together = law.joined(rows, tables)
    torch.testing.assert_close(vmap(law.joined)(rows, tables), together)


@pytest.mark.statistical
def test_draws_have_the_probabilities_of_choosing_in_turn() -> None:
    # Pearson's statistic of 40,000 draws; a false alarm once in 10,000 seeds.
    law, (logits, table) = ConditionalCategorical(SPACE), case(1)
    known = dict(chosen_in_turn(logits, table))
    size = 40_000
    parameters = np.repeat(law.joined(logits, table).numpy()[None], size, axis=0)
    drawn = law.sample(parameters, law.noise(np.random.default_rng(0), (size,)))
    counts = dict.fromkeys(itertools.product(*map(range, COUNTS)), 0)
    for action in map(tuple, drawn.tolist()):
        counts[action] += 1
    assert all(counts[action] == 0 for action in counts if action not in known)

    def statistic(chances: dict[tuple[int, ...], float]) -> float:
        return sum((counts[a] - size * p) ** 2 / (size * p) for a, p in chances.items())

    limit = len(known) - 1 + 4 * math.sqrt(2 * (len(known) - 1)) + 10
    assert statistic(known) < limit
    even = dict.fromkeys(known, 1 / len(known))
    assert statistic(even) > limit


class Ladder(gymnasium.Env[Any, Any]):
    """Three steps; the second choice must not be below the first, and the table says so; pays for what is chosen."""

    def __init__(self, *, where: str = "info") -> None:
        self.action_space, self.where = spaces.MultiDiscrete([3, 4]), where
        seen = spaces.Box(-1, 1, (2,), np.float32)
        entries = {"seen": seen, "action_mask": spaces.MultiBinary([3, 4])}
        self.observation_space: Any = seen if where == "info" else spaces.Dict(entries)

    def _told(self) -> tuple[Any, dict[str, Any]]:
        self.table = np.triu(np.ones((3, 4), np.int8))
        self.table[int(self.np_random.integers(2)), 3] = 0
        seen = np.zeros(2, np.float32)
        if self.where == "info":
            return seen, {"action_mask": self.table}
        return {"seen": seen, "action_mask": self.table}, {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._told()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.table[tuple(action)], f"{action} is not allowed"
        self.time += 1
        obs, info = self._told()
        return obs, float(sum(action)), self.time == 3, False, info


gymnasium.register("Ladder-v0", entry_point=Ladder)


@pytest.mark.parametrize("where", ["info", "observation"])
@pytest.mark.parametrize(("agent", "policy"), [("reinforce", "mlp"), ("ppo", "mlp"), ("ppo", "gru")])
def test_training_never_chooses_what_the_table_forbids(tmp_path: Path, where: str, agent: str, policy: str) -> None:
    wrapped = ("env.wrappers=[{action_mask:{conditional:true}}]",) if where == "info" else ()
    slabs = ("collect.steps=8", "critic.steps=2") if agent == "ppo" else ()
    run = train(
        tmp_path, "env=gym", f"env.id={__name__}:Ladder-v0", f"env.kwargs={{where:{where}}}", f"agent={agent}",
        f"policy={policy}", "total_steps=200", "evaluation.episodes=4", *wrapped, *slabs,
    )  # fmt: skip
    assert run.summary["status"] == "finished"
    assert isinstance(run.parts.policy.law, ConditionalCategorical)


def test_a_table_without_an_allowed_action_is_named() -> None:
    law = ConditionalCategorical(SPACE)
    logits, table = case()
    parameters = torch.stack([law.joined(logits, each) for each in (table, torch.zeros(COUNTS))]).numpy()
    assert law.fault(parameters, np.array([True, True])) == BLOCKED
    assert law.fault(parameters, np.array([True, False])) is None
    assert (law.allowed(parameters) is None) and float(parameters[1].max()) == MASKED


def test_a_table_of_another_shape_is_refused() -> None:
    seen = spaces.Dict({"seen": spaces.Box(-1, 1, (2,)), "action_mask": spaces.MultiBinary([4, 2, 3])})
    with pytest.raises(UsageError, match=r"^policy.action_mask: .* or a table of the shape of all actions"):
        MLPPolicy(observation_space=seen, action_space=SPACE)
    environment = ActionMaskObservation(gymnasium.make("Ladder-v0", disable_env_checker=True))
    with pytest.raises(EnvironmentFault, match="of 12 numbers, expected 7"):
        environment.reset()
