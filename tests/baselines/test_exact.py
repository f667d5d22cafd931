"""Every baseline of conf/baseline that trains, over every batch there can be: its mean and its whole covariance.

The estimate is what an update would take, the gradient of the policy's objective; what it is held to, batch by batch,
is the definition written out in `references.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pytest
import torch
from gymnasium import spaces
from omegaconf import OmegaConf
from torch import Tensor

from pgkit.assemble import assemble
from pgkit.config import build, config_dir
from pgkit.core.persample import layout
from pgkit.core.processes import BANDIT, Process
from pgkit.critics.value import ValueCritic
from pgkit.errors import UsageError
from pgkit.estimators.score_function import ScoreFunction
from pgkit.policies.mlp import MLPPolicy
from pgkit.protocols import Baseline, Policy
from pgkit.returns.discounted import RewardToGo
from pgkit.rl.factors import factors_of
from pgkit.rl.objective import PolicyObjective, correction_of
from pgkit.schema.commands import serves
from pgkit.snapshot import Facts
from pgkit.types import Trajectories, WeightKind
from tests.baselines import references
from tests.end_to_end.runs import configuration
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

GAMMA = 0.9
TREE = Process(
    start=[1.0, 0.0],
    outcomes={
        (0, 0): [(1.0, 1.0, 1)],
        (0, 1): [(1.0, 3.0, None)],
        (1, 0): [(1.0, 2.0, None)],
        (1, 1): [(1.0, -1.0, None)],
    },
    num_actions=2,
    horizon=2,
)
"""An end at once, or one more step: three trajectories."""
PAST = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1, 1, 2, 0]).repeat(5)
RIDGE = 0.01
PRESENT = [option.stem for option in sorted((config_dir() / "baseline").glob("*.yaml"))]


class Ratio:
    """The cumulative log ratio of each prefix, as an importance weight of prefixes."""

    unbiased = True
    kind: WeightKind = "prefix"
    reach: Literal["none", "own", "all"] = "own"
    needs_whole_episodes = True

    def log_weight(self, policy: Policy, trajectories: Trajectories) -> Tensor:
        ratio = policy.log_prob(trajectories.obs[:-1], trajectories.actions) - trajectories.behavior_log_prob
        return torch.where(trajectories.mask, ratio, 0.0).cumsum(dim=0).detach()


class Case:
    """A problem whose data come from its policy itself, or from another one, and everything that is known of it."""

    def __init__(self, process: Process, *, off_policy: bool) -> None:
        self.problem = Enumeration(process, seed=4)
        self.drawn_by = Enumeration(process, seed=5) if off_policy else self.problem
        self.critic = self.problem.critic(GAMMA, error=0.4)

    @cached_property
    def trajectories(self) -> Trajectories:
        """All of them, with the log-probabilities of who drew them."""
        return self.drawn_by.trajectories

    def factors(self, estimator: ScoreFunction) -> Any:
        return factors_of(
            self.trajectories,
            policy=self.problem.policy,
            critic=self.critic,
            weights=Ratio(),
            returns=RewardToGo(gamma=GAMMA),
            estimator=estimator,
        )

    @cached_property
    def samples(self) -> list[list[references.Step]]:
        table, behaviour = (each.table().detach().numpy() for each in (self.problem, self.drawn_by))
        values = self.critic.table.numpy()
        return references.samples(self.problem.process, table, values, gamma=GAMMA, behaviour=behaviour)

    @cached_property
    def past(self) -> list[list[references.Step]]:
        return [self.samples[index] for index in (PAST % len(self.samples)).tolist()]

    def baseline(self, name: str, **keys: Any) -> Baseline:
        """Returns the baseline of an option, having learnt from a batch of the past."""
        space = spaces.Discrete(self.problem.process.num_states)
        facts = Facts(env="Toy", columns=100, whole_episodes=True, has_values=True, layout={})
        torch.manual_seed(0)
        network = ValueCritic(observation_space=space, generator=torch.Generator(), hidden_sizes=[2])
        node = {**OmegaConf.load(config_dir() / "baseline" / f"{name}.yaml"), **keys}
        offers = {"facts": facts, "observation_space": space, "critic": network}
        baseline: Baseline = build(node, expects=Baseline, offers=offers)
        past = columns_of(self.factors(PLAIN), PAST % len(self.samples))
        baseline.value(past)
        baseline.update(past)
        return baseline

    def compared(
        self, num_columns: int, baseline: Baseline, estimator: ScoreFunction, expected: Callable[[Any], np.ndarray]
    ) -> tuple[Tensor, Tensor]:
        """Returns mean `[P]` and covariance `[P, P]` over all batches, in every order, each held to its reference."""
        factors, chances = self.factors(estimator), self.drawn_by.probabilities().tolist()
        mean, second = torch.zeros(()), torch.zeros(())
        for drawn in itertools.product(range(len(chances)), repeat=num_columns):
            columns, chance = torch.tensor(drawn), math.prod(chances[each] for each in drawn)
            batch = columns_of(factors, columns)
            coefficients = estimator.coefficients(batch, baseline.value(batch))
            objective = PolicyObjective(
                policy=self.problem.policy,
                trajectories=self.trajectories.columns(columns),
                coefficients=coefficients,
                factors=batch,
                average="columns",
                entropy_coefficient=0.0,
                correction=correction_of(estimator, batch, coefficients),
            )
            found = self.problem.gradient(objective().value)
            reference = torch.from_numpy(expected([self.samples[each] for each in drawn]))
            torch.testing.assert_close(found, reference, rtol=0, atol=1e-10)
            mean, second = mean + chance * found, second + chance * torch.outer(found, found)
        return mean, second - torch.outer(mean, mean)


PLAIN = ScoreFunction(gamma=GAMMA, discount_states=True)
Maker = Callable[[Case, Baseline], references.Reference]


def gls(features: Callable[[Case], references.Features]) -> Maker:
    return lambda case, _: references.regression(references.contributions, features(case), case.past, RIDGE)


def linear(fit: Callable[..., references.Reference], past: Callable[[Case], Sequence[Any]]) -> Maker:
    return lambda case, _: fit(references.outcomes, polynomial(case), past(case), RIDGE)


def polynomial(case: Case) -> references.Features:
    return references.polynomial(case.problem.process.num_states)


def critic_features(case: Case) -> references.Features:
    """Returns 1 and the hidden layer of the critic that `Case.baseline` makes, by its weights."""
    space = spaces.Discrete(case.problem.process.num_states)
    torch.manual_seed(0)
    network = ValueCritic(observation_space=space, generator=torch.Generator(), hidden_sizes=[2]).network.network[0]
    hidden = np.tanh((network.weight.T + network.bias).detach().numpy())
    return lambda step: np.concatenate([[1.0], hidden[step.state]])


def network(case: Case, baseline: Any) -> references.Reference:
    states = torch.eye(case.problem.process.num_states)
    return references.tabulated((baseline.network(states)[:, 0] * baseline._unit).tolist())


def average(case: Case, _: Baseline) -> references.Reference:
    return references.constant(float(np.mean([step.signal for sample in case.past for step in sample])))


def known(reference: references.Reference) -> Maker:
    return lambda case, _: reference


CASES: dict[tuple[str, str], tuple[dict[str, Any], Maker]] = {
    ("zero", ""): ({}, known(references.constant(0.0))),
    ("constant", ""): ({"value": 0.7}, known(references.constant(0.7))),
    ("moving_average", ""): ({}, average),
    ("mean", ""): ({}, known(references.mean)),
    ("leave_one_out", ""): ({}, known(references.leave_one_out)),
    ("leave_one_out", "exclude"): ({"ended": "exclude"}, known(references.survivors)),
    ("value", ""): ({}, known(references.value)),
    ("optimal", ""): ({}, known(references.optimal())),
    ("optimal", "folds"): ({"folds": 2}, known(references.optimal(folds=2))),
    ("optimal_time", ""): ({}, known(references.optimal_time)),
    ("gls", ""): ({"ridge": RIDGE}, gls(lambda case: references.affine)),
    ("gls", "critic_features"): ({"ridge": RIDGE, "features": "critic_features"}, gls(critic_features)),
    ("gls", "polynomial"): ({"ridge": RIDGE, "features": "polynomial"}, gls(polynomial)),
    ("gls_network", ""): ({"hidden_sizes": [3]}, network),
    ("linear", ""): ({"ridge": RIDGE}, linear(references.from_the_past, lambda case: case.past)),
    ("linear", "cross_fitted"): (
        {"ridge": RIDGE, "cross_fitted": True},
        linear(references.regression, lambda case: []),
    ),
}
"""Every option that trains: the keys it is tried with, and what it should subtract."""


def test_every_baseline_that_trains_is_here() -> None:
    nodes = {name: OmegaConf.load(config_dir() / "baseline" / f"{name}.yaml") for name in PRESENT}
    assert {name for name, _ in CASES} == {name for name, node in nodes.items() if serves("train", "baseline", node)}


@pytest.mark.parametrize("num_columns", [2, 4])
@pytest.mark.parametrize("off_policy", [False, True], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("process", [BANDIT, TREE], ids=["bandit", "tree"])
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_mean_and_covariance_are_those_of_the_definition(
    name: str, variant: str, process: Process, off_policy: bool, num_columns: int
) -> None:
    """The mean is the true gradient, but for the batch mean: there it is (N−1)/N of it, exactly."""
    keys, maker = CASES[name, variant]
    case = Case(process, off_policy=off_policy)
    baseline = case.baseline(name, **keys)
    reference = maker(case, baseline)
    mean, covariance = case.compared(num_columns, baseline, PLAIN, lambda batch: references.estimate(batch, reference))
    share = (num_columns - 1) / num_columns if name == "mean" else 1.0
    assert baseline.unbiased is (name != "mean")
    torch.testing.assert_close(mean, share * case.problem.exact_gradient(GAMMA), rtol=0, atol=1e-10)
    assert float(covariance.trace()) > 0


@pytest.mark.parametrize("num_columns", [2, 4])
@pytest.mark.parametrize("off_policy", [False, True], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("name", ["zero", "value"])
@pytest.mark.parametrize("control", ["optimal_parameter", "optimal_layer"])
def test_control_variates_are_those_of_the_definition(
    control: Any, name: str, off_policy: bool, num_columns: int
) -> None:
    case = Case(TREE, off_policy=off_policy)
    estimator = ScoreFunction(gamma=GAMMA, discount_states=True, control_variate=control)
    reference = references.value if name == "value" else references.constant(0.0)
    size = sum(each.numel() for each in case.problem.policy.parameters())
    layers = [[p] for p in range(size)] if control == "optimal_parameter" else [list(range(size))]
    mean, _ = case.compared(
        num_columns, case.baseline(name), estimator, lambda batch: references.controlled(batch, layers, reference)
    )
    torch.testing.assert_close(mean, case.problem.exact_gradient(GAMMA), rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_columns", [2, 4])
@pytest.mark.parametrize("process", [BANDIT, TREE], ids=["bandit", "tree"])
def test_the_variance_of_leave_one_out_is_that_of_a_u_statistic_of_order_two(
    process: Process, num_columns: int
) -> None:
    """2 (2 (N−2) ζ₁ + ζ₂) / (N (N−1)), ζ₁ = tr Cov(E[h | one of both]), ζ₂ = tr Cov(h), h = ½ ΔG Δs at every time."""
    case = Case(process, off_policy=False)
    chances = case.problem.probabilities().detach().numpy()

    def at(sample: Sequence[references.Step], t: int) -> tuple[float, Any]:
        step = sample[t] if t < len(sample) else None
        return (0.0, 0.0) if step is None else (step.signal, step.scale * step.score)

    size = len(case.samples)
    kernel = np.zeros((size, size, len(case.samples[0][0].score)))
    for i, j in itertools.product(range(size), repeat=2):
        for t in range(process.horizon):
            (own, score), (other, its_score) = at(case.samples[i], t), at(case.samples[j], t)
            kernel[i, j] += 0.5 * (own - other) * (score - its_score)
    expected = np.einsum("i,j,ijp->p", chances, chances, kernel)
    one = np.einsum("i,ip->", chances, (np.einsum("j,ijp->ip", chances, kernel) - expected) ** 2)
    both = np.einsum("i,j,ijp->", chances, chances, (kernel - expected) ** 2)
    _, covariance = case.compared(
        num_columns,
        case.baseline("leave_one_out"),
        PLAIN,
        lambda batch: references.estimate(batch, references.leave_one_out),
    )
    formula = 2 * (2 * (num_columns - 2) * one + both) / (num_columns * (num_columns - 1))
    assert float(covariance.trace()) == pytest.approx(formula, abs=1e-10)


SINGLE = ("collect.episodes=1", "env.num_envs=1", "critic=value")


@pytest.mark.parametrize(
    "option", ["leave_one_out", "optimal", "optimal_time", "gls", "linear", "estimator.control_variate"]
)
def test_one_column_is_refused_by_name(option: str) -> None:
    choice = {
        "linear": ("baseline=linear", "baseline.cross_fitted=true"),
        "estimator.control_variate": ("baseline=zero", "estimator.control_variate=optimal_parameter"),
    }.get(option, (f"baseline={option}",))
    with pytest.raises(UsageError, match=r"expected (at least 2|2 .*at least)|baseline.pool of at least") as refusal:
        assemble(configuration("env=CartPole", *SINGLE, *choice))
    assert option.replace("_", "") in str(refusal.value).lower().replace("_", "")


def test_layers_are_told_apart() -> None:
    """With two layers the control variate of each is that of its own parameters."""
    policy = MLPPolicy(observation_space=spaces.Discrete(2), action_space=spaces.Discrete(2), hidden_sizes=[2])
    estimator = ScoreFunction(gamma=GAMMA, control_variate="optimal_layer")
    generator = torch.Generator().manual_seed(0)
    where = layout(policy)
    size = max(place.stop for place in where.values())
    gradients, scores = torch.randn(2, 5, size, generator=generator)
    found = estimator.control(gradients, scores, where)
    first = max(place.stop for name, place in where.items() if name.startswith("network.0"))
    for part in (slice(0, first), slice(first, size)):
        for n in range(5):
            others = [m for m in range(5) if m != n]
            multiple = (gradients[others, part] * scores[others, part]).sum() / scores[others, part].square().sum()
            expected = gradients[n, part] - multiple * scores[n, part]
            torch.testing.assert_close(found[n, part], expected, rtol=0, atol=1e-12)
    assert 0 < first < size
