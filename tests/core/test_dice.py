"""Derivatives of the surrogate, of every order, by enumeration of a graph of two bits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

from pgkit.core.dice import Cost, Node, magic_box, surrogate
from pgkit.errors import UsageError

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

ROOT = Path(__file__).resolve().parents[2]
BASELINES: dict[str, tuple[Tensor | float, Tensor | float]] = {
    "none": (0.0, 0.0),
    "numbers": (12.0, 10.0),
    "of the parents": (11.8, torch.tensor([9.8, 9.8, 10.5, 10.5], dtype=torch.float64)),
}
X, Y = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64), torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)


def log_probs(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log p(x) and log p(y | x) of the four outcomes."""
    return Bernoulli(logits=theta[0] - theta[1]).log_prob(X), Bernoulli(logits=theta[1] * (1 + X)).log_prob(Y)


def early(theta: Tensor) -> Tensor:
    return 2 * X + theta[0] ** 2 * X


def late(theta: Tensor) -> Tensor:
    return 10 + 3 * X * Y - Y * theta[1].exp()


def expected(theta: Tensor) -> Tensor:
    first, second = log_probs(theta)
    return ((first + second).exp() * (early(theta) + late(theta))).sum()


def graph(theta: Tensor, baselines: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)) -> Tensor:
    """Returns the surrogate of each outcome, `[4]`."""
    first, second = log_probs(theta)
    return surrogate(
        {
            "x": Node(log_prob=first, baseline=baselines[0]),
            "y": Node(log_prob=second, parents=["x"], baseline=baselines[1]),
        },
        {"early": Cost(value=early(theta), parents=["x"]), "late": Cost(value=late(theta), parents=["y"])},
    )


def derivatives(outcome: Tensor, theta: Tensor) -> list[Tensor]:
    """Returns first, second and third derivatives `[2]`, `[4]`, `[8]` of a scalar."""
    found, current = [], outcome[None]
    for _ in range(3):
        current = torch.cat([torch.autograd.grad(each, theta, create_graph=True)[0] for each in current])
        found.append(current)
    return found


def point() -> Tensor:
    return torch.tensor([0.3, -0.7], requires_grad=True)


@pytest.mark.parametrize("baseline", BASELINES)
def test_derivatives_of_every_order_are_exact_with_and_without_baselines(baseline: str) -> None:
    theta = point()
    chances = sum(log_probs(theta)).exp().detach()
    ours = derivatives((chances * graph(theta, BASELINES[baseline])).sum(), theta)
    for found, exact in zip(ours, derivatives(expected(theta), theta), strict=True):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)


def test_baselines_lower_the_variance_of_both_derivatives_of_costs_far_from_0() -> None:
    theta = point()
    chances = sum(log_probs(theta)).exp().detach()

    def traces(baseline: str) -> list[float]:
        outcomes = [derivatives(each, theta)[:2] for each in graph(theta, BASELINES[baseline])]
        rows = [torch.stack(order).detach() for order in zip(*outcomes, strict=True)]
        return [float((chances @ row.square() - (chances @ row).square()).sum()) for row in rows]

    plain, less = traces("none"), traces("of the parents")
    assert less[0] < 0.7 * plain[0] and less[1] < 0.7 * plain[1]


def test_a_baseline_without_its_parents_lowers_only_first_derivatives_as_much() -> None:
    """Why the ancestors stand in the baseline term: left out, second derivatives gain less."""
    theta = point()
    chances = sum(log_probs(theta)).exp().detach()
    first, second = log_probs(theta)
    reference = torch.as_tensor(BASELINES["of the parents"][1])
    short = graph(theta, (11.8, 0.0)) + (1 - magic_box(second)) * reference
    whole = graph(theta, BASELINES["of the parents"])

    def variance(outcomes: Tensor, order: int) -> float:
        rows = torch.stack([derivatives(each, theta)[order] for each in outcomes]).detach()
        return float((chances @ rows.square() - (chances @ rows).square()).sum())

    assert variance(short, 0) == pytest.approx(variance(whole, 0), rel=1e-12)
    assert variance(whole, 1) < variance(short, 1)
    assert first.requires_grad


def test_a_cost_that_leaves_out_a_parent_is_biased() -> None:
    theta = point()
    first, second = log_probs(theta)
    nodes = {"x": Node(log_prob=first), "y": Node(log_prob=second)}
    blind = surrogate(nodes, {"all": Cost(value=early(theta) + late(theta), parents=["y"])})
    chances = (first + second).exp().detach()
    error = derivatives((chances * blind).sum(), theta)[0] - derivatives(expected(theta), theta)[0]
    assert float(error.detach().abs().max()) > 0.1


def test_the_value_is_the_sum_of_the_costs_and_baselines_are_detached() -> None:
    theta = point()
    torch.testing.assert_close(graph(theta, (2.0, 1.0)), early(theta) + late(theta))
    moving = theta.sum() * torch.ones(4)
    ours = derivatives(graph(theta, (moving, 0.0)).sum(), theta)
    fixed = derivatives(graph(theta, (moving.detach(), 0.0)).sum(), theta)
    assert all(torch.equal(found, other) for found, other in zip(ours, fixed, strict=True))


def test_wrong_graphs_are_refused_by_name() -> None:
    one = torch.zeros(2)
    node = Node(log_prob=one, parents=["first"])
    with pytest.raises(UsageError, match=r"parents of late: frst, expected among first \(did you mean first\?\)"):
        surrogate({"first": Node(log_prob=one)}, {"late": Cost(value=one, parents=["frst"])})
    with pytest.raises(UsageError, match="parents: first -> second -> first, expected no node upstream of itself"):
        surrogate({"first": Node(log_prob=one, parents=["second"]), "second": node}, {"c": Cost(value=one)})


def test_the_example_of_the_page_runs_and_is_right() -> None:
    page = (ROOT / "docs" / "computation_graphs.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pairs = re.findall(r"(-?[\d.]+), exactly (-?[\d.]+)", result.stdout)
    assert len(pairs) == 2
    # Statistical: ten standard errors of 100,000 samples; the answers themselves are 1.75 and 0.07.
    assert all(abs(float(found) - float(exact)) < 0.05 for found, exact in pairs)
