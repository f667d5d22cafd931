"""Fisher matrices by three roads, and their products with vectors."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Gamma,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    StudentT,
)

from pgkit.core import expectation as core
from pgkit.core import fisher, gaussian
from pgkit.core.analytic import analytic_entropy, analytic_kl
from pgkit.errors import UsageError
from pgkit.types import Expectation

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

LOGITS = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
SCALE = torch.tensor([0.5, 2.0, 1.1], dtype=torch.float64)
CHOLESKY = torch.tensor([[1.0, 0.0], [0.4, 0.7]], dtype=torch.float64)

LAWS = {
    "normal": (
        lambda p: Normal(p["m"], p["s"]),
        {"m": torch.tensor(0.3, dtype=torch.float64), "s": torch.tensor(1.7, dtype=torch.float64)},
    ),
    "log_std": (lambda p: Independent(Normal(p["m"], p["l"].exp()), 1), {"m": LOGITS, "l": SCALE.log()}),
    "joint": (
        lambda p: MultivariateNormal(p["m"], scale_tril=p["c"].tril()),
        {"m": LOGITS[:2], "c": CHOLESKY},
    ),
    "shared": (lambda p: Normal(p["t"].sum(), (p["t"] ** 2).sum()), {"t": SCALE}),
    "categorical": (lambda p: Categorical(logits=p["l"]), {"l": LOGITS}),
    "one_hot": (lambda p: OneHotCategorical(logits=p["l"]), {"l": LOGITS}),
    "bernoullis": (lambda p: Independent(Bernoulli(logits=p["l"]), 1), {"l": LOGITS}),
    "binomial": (lambda p: Binomial(4, logits=p["l"]), {"l": LOGITS[0]}),
}
CLOSED = {
    "normal": torch.diag(torch.tensor([1.0, 2.0]).double() / 1.7**2),
    "log_std": torch.diag(torch.cat([1 / SCALE**2, torch.full((3,), 2.0).double()])),
    "joint": torch.block_diag(gaussian.fisher_mean(CHOLESKY @ CHOLESKY.T), gaussian.fisher_cholesky(CHOLESKY)),
    "categorical": torch.diag(LOGITS.softmax(0)) - torch.outer(LOGITS.softmax(0), LOGITS.softmax(0)),
    "one_hot": torch.diag(LOGITS.softmax(0)) - torch.outer(LOGITS.softmax(0), LOGITS.softmax(0)),
    "bernoullis": torch.diag(LOGITS.sigmoid() * (-LOGITS).sigmoid()),
    "binomial": (4 * LOGITS[0].sigmoid() * (-LOGITS[0]).sigmoid()).reshape(1, 1),
}


@pytest.mark.parametrize("name", LAWS)
def test_the_exact_matrix_is_the_hessian_of_the_divergence_and_the_closed_form(name: str) -> None:
    law, parameters = LAWS[name]
    exact = fisher.exact(law, parameters)
    if name in CLOSED:
        torch.testing.assert_close(exact, CLOSED[name], rtol=0, atol=1e-10)
    torch.testing.assert_close(fisher.kl_hessian(law, parameters), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", LAWS)
def test_products_with_vectors_need_no_matrix(name: str) -> None:
    law, parameters = LAWS[name]
    exact = fisher.exact(law, parameters)
    vector = torch.randn(len(exact), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fisher.vector_product(law, parameters, vector), exact @ vector, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("law", "value", "expected"),
    [(Poisson, 3.0, 1 / 3), (lambda x: Gamma(2.0, x), 3.0, 2 / 9), (lambda x: Laplace(0.0, x), 2.0, 1 / 4)],
)
def test_the_hessian_serves_laws_without_an_enumeration(law: object, value: float, expected: float) -> None:
    point = {"x": torch.tensor(value)}
    assert float(fisher.kl_hessian(lambda p: law(p["x"]), point)) == pytest.approx(expected, abs=1e-10)
    with pytest.raises(UsageError, match=r"^fisher: exact for \w+, expected kl_hessian or empirical$"):
        fisher.exact(lambda p: law(p["x"]), point)


@pytest.mark.parametrize("name", ["categorical", "normal"])
def test_the_empirical_matrix_over_all_values_is_the_exact_one(name: str) -> None:
    law, parameters = LAWS[name]
    if name == "categorical":
        x, chances = torch.arange(3), LOGITS.softmax(0)
    else:
        from tests.laws import hermite

        nodes, chances = hermite()
        x = 0.3 + 1.7 * nodes
    rows = core.scores(Expectation(cost=lambda x: x, law=law), parameters, x) * (len(x) * chances).sqrt()[:, None]
    exact = fisher.exact(law, parameters)
    torch.testing.assert_close(fisher.empirical(rows), exact, rtol=0, atol=1e-10)
    vector = torch.ones(len(exact))
    torch.testing.assert_close(fisher.empirical_vector_product(rows, vector), exact @ vector, rtol=0, atol=1e-10)


def test_what_cannot_happen_has_no_part_in_the_matrix() -> None:
    law = lambda p: Categorical(logits=torch.stack([p["a"], p["b"], torch.tensor(-torch.inf)]))  # noqa: E731
    found = fisher.exact(law, {"a": torch.tensor(0.0), "b": torch.tensor(0.0)})
    torch.testing.assert_close(found, torch.tensor([[0.25, -0.25], [-0.25, 0.25]]))


def test_divergences_and_entropies_without_closed_form_are_refused_by_name() -> None:
    normal, heavy = Normal(0.0, 1.0), Independent(StudentT(torch.ones(2)), 1)
    assert float(analytic_kl(normal, Normal(1.0, 1.0))) == pytest.approx(0.5)
    assert float(analytic_entropy(normal)) == pytest.approx(1.4189385332046727)
    with pytest.raises(UsageError, match=r"^analytic_kl: Normal and Independent StudentT, expected laws with a closed"):
        analytic_kl(normal, heavy)
    from torch.distributions import MixtureSameFamily

    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Normal(torch.zeros(2), torch.ones(2)))
    with pytest.raises(UsageError, match=r"^analytic_entropy: MixtureSameFamily, expected a law with a closed form"):
        analytic_entropy(mixture)
