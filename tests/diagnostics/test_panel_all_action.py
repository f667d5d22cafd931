"""The panel's row `all_action`: the estimator of that name on a batch that another was used on, exact and refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pgkit.baselines.constant import Zero
from pgkit.core.action_terms import RowTerms
from pgkit.core.processes import CHAIN
from pgkit.core.scores import Scores
from pgkit.diagnostics.candidates import candidate, chosen
from pgkit.diagnostics.comparison import Comparison
from pgkit.diagnostics.panel import EstimatorPanel
from pgkit.errors import UsageError
from pgkit.estimators.all_action import AllAction
from pgkit.estimators.score_function import ScoreFunction
from pgkit.protocols import Estimator
from pgkit.reporting.advice import estimators
from pgkit.returns.discounted import RewardToGo
from pgkit.snapshot import Facts, Snapshot
from tests.exact_critics import ExactActionCritic
from tests.problems import Enumeration, columns_of

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

GAMMA = 0.9
FACTS = Facts(env="Toy", columns=8, whole_episodes=True, has_values=True, layout={}, has_action_values=True)
COLUMNS = torch.tensor([0, 3, 3, 7, 9, 12, 17, 20, 22])
EACH = candidate("all_action")


def snapshot(problem: Enumeration, columns: Tensor, estimator: Estimator, *, error: float = 0.0) -> Snapshot:
    """Returns what an instrument sees of a batch that an estimator was used on."""
    critic = ExactActionCritic(problem, GAMMA, error)
    factors = columns_of(problem.factors(RewardToGo(gamma=GAMMA), critic, estimator), columns)
    reference = Zero().value(factors)
    coefficients, rows = estimator.coefficients(factors, reference), None
    if coefficients.ndim > 2:
        module = RowTerms(problem.policy, estimator.terms)
        rows = Scores(module, (factors.contexts, factors.samples, coefficients), factors.mask)
        coefficients = factors.mask.double()
    assert factors.scores is not None
    return Snapshot(
        trajectories=problem.trajectories.columns(columns),
        factors=factors,
        baseline=reference,
        coefficients=coefficients,
        estimator=estimator,
        coupling="independent",
        before=problem.policy,
        policy=problem.policy,
        scores=factors.scores,
        rows=rows,
    )


def gradients(seen: Snapshot, max_columns: int | None = None) -> Tensor:
    return Comparison(seen, [EACH], gamma=GAMMA, max_columns=max_columns).gradients(EACH)


@pytest.mark.parametrize("discount_states", [False, True])
def test_its_gradients_are_those_of_the_estimator_itself(discount_states: bool) -> None:
    problem = Enumeration(CHAIN, seed=3)
    seen = snapshot(problem, COLUMNS, ScoreFunction(gamma=GAMMA, discount_states=discount_states), error=0.3)
    used = snapshot(problem, COLUMNS, AllAction(gamma=GAMMA, discount_states=discount_states), error=0.3)
    assert used.rows is not None
    expected = used.rows.per_sample(used.coefficients)
    torch.testing.assert_close(gradients(seen), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients(seen, max_columns=8), expected[:8], rtol=0, atol=1e-12)


def test_its_mean_is_the_exact_gradient_and_its_variance_that_of_the_visits_alone() -> None:
    problem = Enumeration(CHAIN, seed=3)
    everyone = torch.arange(len(problem.paths))
    found = gradients(snapshot(problem, everyone, ScoreFunction(gamma=GAMMA, discount_states=True)))
    probability = problem.probabilities().detach()
    mean = probability @ found
    torch.testing.assert_close(mean, problem.exact_gradient(GAMMA), rtol=0, atol=1e-10)
    # Independent of pgkit: Σ_t γ^t Σ_a ∇π(a|s_t) Q_t(s_t, a) by differentiating the table of the policy.
    _, quality = problem.values(GAMMA)
    by_hand = []
    for _, steps in problem.paths:
        table, total = problem.table(), torch.zeros(())
        for t, (state, *_) in enumerate(steps):
            total = total + GAMMA**t * (table[state] * quality[t, state].detach()).sum()
        by_hand.append(problem.gradient(total))
    rows = torch.stack(by_hand)
    trace = probability @ (rows - probability @ rows).square().sum(dim=1)
    assert float(probability @ (found - mean).square().sum(dim=1)) == pytest.approx(float(trace), abs=1e-10)
    plain = problem.scores  # with the actions' noise there is more of it
    scored = torch.einsum("tn,tnp->np", snapshot(problem, everyone, ScoreFunction(gamma=GAMMA)).coefficients, plain)
    assert float(trace) < float(probability @ (scored - probability @ scored).square().sum(dim=1))


def test_the_panel_shows_one_where_it_is_in_use_itself_and_less_where_it_is_not() -> None:
    problem = Enumeration(CHAIN, seed=3)
    columns = torch.arange(len(problem.paths)).repeat(3)
    panel = EstimatorPanel(facts=FACTS, gamma=GAMMA, estimators=["zero", "all_action"])
    found = panel.measure(snapshot(problem, columns, AllAction(gamma=GAMMA)))
    assert found["panel/all_action/variance_ratio"] == pytest.approx(1.0, abs=1e-10)
    panel = EstimatorPanel(facts=FACTS, gamma=GAMMA, estimators=["all_action"])
    found = panel.measure(snapshot(problem, columns, ScoreFunction(gamma=GAMMA)))
    ratio = found["panel/all_action/variance_ratio"]
    assert ratio is not None and ratio < 1
    assert found["panel/all_action/variance_ratio_low"] is not None


def test_it_is_among_the_default_ones_only_where_each_action_has_a_value() -> None:
    assert [each.name for each in chosen(None, FACTS)][-1] == "all_action"
    without = replace(FACTS, has_action_values=False)
    assert "all_action" not in [each.name for each in chosen(None, without)]
    with pytest.raises(UsageError, match=r"estimator all_action, expected critic=action_value and Discrete actions$"):
        chosen(["all_action"], without)


@pytest.mark.parametrize("name", ["all_action_gls", "all_actions", "gae_0.9_all_action"])
def test_it_takes_no_baseline_and_no_return(name: str) -> None:
    with pytest.raises(UsageError, match=r"estimator .*expected a return .* or all_action"):
        candidate(name)


def test_advice_says_that_it_is_biased() -> None:
    ratio = {"": 0.2, "_low": 0.1, "_high": 0.3}
    said = estimators({f"panel/all_action/variance_ratio{end}": value for end, value in ratio.items()})
    assert said is not None and "biased" in said.sentence
