"""Importance weights: identities, bounds, extremes, and the diagnostics of their tails."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import genpareto

from pgkit.core import importance
from pgkit.errors import UsageError

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

INF = math.inf
EXTREME = torch.tensor([1000.0, -1000.0, 999.0, -INF, 0.0])


def test_a_ratio_is_zero_where_the_target_is() -> None:
    found = importance.log_ratio(torch.tensor([0.0, -INF, -INF]), torch.tensor([-1000.0, 0.0, -INF]))
    assert found.tolist() == [1000.0, -INF, -INF]


def test_a_sample_that_the_proposal_cannot_give_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^proposal: no density where the law has some, expected .*support$"):
        importance.log_ratio(torch.tensor([0.0]), torch.tensor([-INF]))


def test_extreme_weights_stay_finite_in_every_form() -> None:
    assert float(importance.self_normalised(EXTREME).exp().sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(importance.truncated(EXTREME, 10.0).exp().max()) == pytest.approx(10.0)
    assert float(importance.power_mean(EXTREME, mixing=0.25).exp().max()) == pytest.approx(4.0)
    share = 1 / (1 + math.exp(-1))
    assert importance.largest_share(EXTREME) == pytest.approx(share)
    assert importance.effective_sample_size(EXTREME) == pytest.approx(1 / (share**2 + (1 - share) ** 2))
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert importance.perplexity(EXTREME) == pytest.approx(math.exp(entropy))
    for each in (
        importance.truncated(EXTREME, 3.0),
        importance.power_mean(EXTREME),
        importance.self_normalised(EXTREME),
    ):
        assert each.exp().isfinite().all() and float(each[3]) == -INF


def test_weights_beyond_all_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^weights: e\^1000 overflows, expected self_normalised"):
        importance.weights(EXTREME)
    assert importance.weights(torch.tensor([-1000.0, -INF, 700.0])).isfinite().all()


@pytest.mark.parametrize(
    "form",
    [importance.self_normalised, importance.effective_sample_size, importance.perplexity, importance.largest_share,
     importance.pareto_k],
)  # fmt: skip
def test_weights_that_are_all_zero_are_refused(form: object) -> None:
    with pytest.raises(UsageError, match=r"^weights: all 0, expected a proposal"):
        form(torch.full((50,), -INF))


@pytest.mark.parametrize("wrong", [INF, math.nan])
@pytest.mark.parametrize(
    "form",
    [importance.weights, importance.self_normalised, importance.power_mean, lambda x: importance.truncated(x, 2.0),
     importance.pareto_k, lambda x: importance.heuristic_log_weights(x[None], [2])],
)  # fmt: skip
def test_what_no_density_gives_is_refused(form: object, wrong: float) -> None:
    with pytest.raises(UsageError, match=r"^log_weight: (nan|inf), expected"):
        form(torch.tensor([0.0, wrong]))


def test_equal_weights_count_fully_and_one_counts_as_one() -> None:
    equal, single = torch.full((8,), -700.0), torch.tensor([0.0] + [-INF] * 7)
    assert importance.effective_sample_size(equal) == pytest.approx(8)
    assert importance.perplexity(equal) == pytest.approx(8)
    assert importance.effective_sample_size(single) == importance.perplexity(single) == 1


def test_a_power_mean_is_the_weight_to_a_mixture() -> None:
    log_weight = torch.linspace(-5, 5, 11)
    weight = log_weight.exp()
    expected = weight / (0.7 + 0.3 * weight)
    torch.testing.assert_close(importance.power_mean(log_weight, mixing=0.3).exp(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(importance.power_mean(log_weight, mixing=0.0), log_weight)
    torch.testing.assert_close(
        importance.power_mean(log_weight, exponent=2.0, mixing=0.5).exp(), ((weight**2 + 1) / 2).sqrt()
    )


@pytest.mark.parametrize("options", [{"exponent": 0.0}, {"mixing": 1.0}, {"mixing": -0.1}])
def test_a_power_mean_without_meaning_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="exponent, mixing"):
        importance.power_mean(torch.zeros(2), **options)


@pytest.mark.parametrize("heuristic", ["balance", "power", "constant"])
@pytest.mark.parametrize("exponent", [1.0, 2.0, 5.0])
def test_the_shares_of_any_set_of_proposals_sum_to_one(heuristic: importance.Heuristic, exponent: float) -> None:
    values = (-INF, -1000.0, 0.0, 1000.0)
    columns = [column for column in itertools.product(values, repeat=3) if max(column) > -INF]
    shares = importance.heuristic_log_weights(
        torch.tensor(columns).T.double(), [3, 1, 7], heuristic=heuristic, exponent=exponent
    )
    torch.testing.assert_close(shares.exp().sum(dim=0), torch.ones(len(columns)), rtol=0, atol=1e-12)
    if heuristic != "constant":
        assert (shares.T[torch.tensor(columns) == -INF] == -INF).all()


def test_the_power_heuristic_at_one_is_the_balance_heuristic_and_sharpens_beyond() -> None:
    densities = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).double()
    balance = importance.heuristic_log_weights(densities, [1, 2, 3])
    one, ten = (importance.heuristic_log_weights(densities, [1, 2, 3], heuristic="power", exponent=e) for e in (1, 10))
    torch.testing.assert_close(one, balance)
    assert (ten.max(dim=0).values > balance.max(dim=0).values).all()


def test_a_sample_of_no_proposal_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^proposals: none has density at a sample"):
        importance.heuristic_log_weights(torch.tensor([[0.0, -INF], [0.0, -INF]]), [1, 1])


def test_the_balance_weight_is_that_to_the_mixture() -> None:
    generator = torch.Generator().manual_seed(0)
    target, densities = torch.randn(6, generator=generator), torch.randn(3, 6, generator=generator)
    source, counts = torch.tensor([0, 1, 1, 2, 2, 2]), [1, 2, 3]
    found = importance.multiple_log_weight(target, densities, source, counts)
    mixture = (torch.tensor(counts) / 6).log()[:, None] + densities
    torch.testing.assert_close(found, target - mixture.logsumexp(dim=0))


@pytest.mark.parametrize("heuristic", ["balance", "power", "constant"])
def test_multiple_weights_average_to_one_over_everything_that_can_be_drawn(heuristic: importance.Heuristic) -> None:
    """Σ_k Σ_x n_k/n q_k(x) w = Σ_x p(x) = 1, by enumeration."""
    proposals = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]])
    target, counts = torch.tensor([0.5, 0.4, 0.1]), [2, 3]
    source, value = torch.tensor(list(itertools.product(range(2), range(3)))).T
    found = importance.multiple_log_weight(
        target.log()[value], proposals.log()[:, value], source, counts, heuristic=heuristic
    )
    chance = torch.tensor(counts)[source] / 5 * proposals[source, value]
    assert float((chance * found.exp()).sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("shape", [0.1, 0.5, 0.9, 1.3])
def test_pareto_k_finds_the_shape_of_a_tail(shape: float) -> None:
    """Evenly spaced quantiles in place of draws; the fit of the same tail by maximum likelihood beside it."""
    levels = (torch.arange(20_000) + 0.5) / 20_000
    log_weight = torch.from_numpy(genpareto.ppf(levels.double().numpy(), shape)).log()
    found = importance.pareto_k(log_weight)
    assert found == pytest.approx(shape, abs=0.06)
    tail = log_weight.exp().sort().values[-math.ceil(3 * math.sqrt(20_000)) - 1 :]
    fitted, _, _ = genpareto.fit((tail[1:] - tail[0]).numpy(), floc=0)
    assert found == pytest.approx((425 * fitted + 5) / 435, abs=0.02)
    assert importance.pareto_k(log_weight + 5000) == pytest.approx(found)


def test_a_short_tail_is_pulled_to_one_half() -> None:
    levels = (torch.arange(500) + 0.5) / 500
    log_weight = torch.from_numpy(genpareto.ppf(levels.double().numpy(), 1.3)).log()
    tail = log_weight.exp().sort().values[-69:]
    fitted, _, _ = genpareto.fit((tail[1:] - tail[0]).numpy(), floc=0)
    assert importance.pareto_k(log_weight) == pytest.approx((68 * fitted + 5) / 78, abs=0.05)
    assert importance.pareto_k(log_weight) < fitted - 0.07


@pytest.mark.parametrize("log_weight", [torch.zeros(100), torch.arange(20.0), torch.tensor([0.0]), torch.arange(21.0)])
def test_pareto_k_is_null_without_a_tail_and_finite_with_one(log_weight: torch.Tensor) -> None:
    found = importance.pareto_k(log_weight)
    assert (found is None) == (len(log_weight) != 21) and (found is None or math.isfinite(found))
