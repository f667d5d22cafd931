"""Layer by layer: exact where a layer's Fisher matrix is the Kronecker product that it is taken for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pgkit.core.kronecker import solve_kronecker
from pgkit.core.natural import solve_by_samples, solve_dense
from pgkit.core.persample import LayerScores
from pgkit.errors import UsageError

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]


def product_of(seen: Tensor, sent: Tensor) -> tuple[Tensor, Tensor]:
    """Returns inputs and output gradients `[T, N, …]` of every pair, so that both are independent."""
    rows, columns = len(seen), len(sent)
    return seen[:, None].expand(rows, columns, -1), sent[None].expand(rows, columns, -1)


def scores_of(layers: list[LayerScores], size: int) -> Tensor:
    """Returns the scores `[T·N, P]` that the layers stand for."""
    rows = layers[0].outputs.flatten(0, 1).shape[0]
    scores = torch.zeros(rows, size)
    for layer in layers:
        outputs = layer.outputs.flatten(0, 1)
        if layer.inputs is not None and layer.weight is not None:
            inputs = layer.inputs.flatten(0, 1)
            scores[:, layer.weight] = (outputs[:, :, None] * inputs[:, None]).flatten(1)
        if layer.bias is not None:
            scores[:, layer.bias] = outputs
    return scores


@pytest.mark.parametrize("parts", ["weight", "bias", "both"])
def test_independent_inputs_and_gradients_are_solved_exactly(parts: str) -> None:
    inputs, outputs = product_of(torch.randn(6, 3), torch.randn(5, 2))
    weight = slice(0, 6) if parts != "bias" else None
    bias = None if parts == "weight" else slice(6, 8) if parts == "both" else slice(0, 2)
    layer = LayerScores(outputs=outputs, inputs=inputs, weight=weight, bias=bias)
    size = {"weight": 6, "bias": 2, "both": 8}[parts]
    scores, gradient = scores_of([layer], size), torch.randn(size)
    found = solve_kronecker([layer], torch.ones(6, 5, dtype=torch.bool), gradient, damping=0.0)
    assert torch.allclose(found, solve_dense(scores.T @ scores / len(scores), gradient), atol=1e-10)


def test_dependent_ones_are_not() -> None:
    inputs, outputs = torch.randn(6, 5, 3), torch.randn(6, 5, 2)
    layer = LayerScores(outputs=outputs * inputs[:, :, :1], inputs=inputs, weight=slice(0, 6), bias=None)
    scores, gradient = scores_of([layer], 6), torch.randn(6)
    found = solve_kronecker([layer], torch.ones(6, 5, dtype=torch.bool), gradient, damping=0.0)
    assert not torch.allclose(found, solve_dense(scores.T @ scores / len(scores), gradient), atol=1e-2)


def test_constants_are_solved_with_all_their_damping() -> None:
    layer = LayerScores(outputs=torch.randn(4, 5, 3), inputs=None, weight=None, bias=slice(0, 3))
    scores, gradient = scores_of([layer], 3), torch.randn(3)
    found = solve_kronecker([layer], torch.ones(4, 5, dtype=torch.bool), gradient, damping=0.3)
    assert torch.allclose(found, solve_dense(scores.T @ scores / 20, gradient, damping=0.3), atol=1e-10)


def test_rows_outside_the_mask_do_not_count() -> None:
    mask = torch.rand(6, 5) > 0.4
    inputs, outputs = torch.randn(6, 5, 3), torch.randn(6, 5, 2)
    wild = [torch.where(mask[:, :, None], each, 1e9) for each in (inputs, outputs)]
    gradient = torch.randn(8)
    tame, other = (
        solve_kronecker(
            [LayerScores(outputs=d, inputs=a, weight=slice(0, 6), bias=slice(6, 8))], mask, gradient, damping=0.1
        )
        for a, d in ((inputs, outputs), wild)
    )
    assert torch.equal(tame, other)


def test_damping_shrinks_towards_the_gradient_over_it() -> None:
    inputs, outputs = product_of(torch.randn(6, 3), torch.randn(5, 2))
    layer = LayerScores(outputs=outputs, inputs=inputs, weight=slice(0, 6), bias=slice(6, 8))
    gradient, all_rows = torch.randn(8), torch.ones(6, 5, dtype=torch.bool)
    found = solve_kronecker([layer], all_rows, gradient, damping=1e10)
    assert torch.allclose(found * 1e10, gradient, rtol=1e-3)


def test_a_policy_that_no_step_moves_leaves_the_gradient_to_the_damping() -> None:
    layer = LayerScores(outputs=torch.zeros(2, 2, 2), inputs=torch.zeros(2, 2, 3), weight=slice(0, 6), bias=None)
    gradient = torch.randn(6)
    found = solve_kronecker([layer], torch.ones(2, 2, dtype=torch.bool), gradient, damping=0.5)
    assert torch.allclose(found, gradient / 0.5, atol=1e-10)


@pytest.mark.parametrize("count", [3, 20])
def test_a_solve_among_samples_is_that_of_the_matrix(count: int) -> None:
    scores, gradient = torch.randn(count, 7), torch.randn(7)
    found = solve_by_samples(scores, gradient, damping=0.05)
    assert torch.allclose(found, solve_dense(scores.T @ scores / count, gradient, damping=0.05), atol=1e-10)


def test_a_solve_among_samples_asks_for_damping() -> None:
    with pytest.raises(UsageError, match="damping: 0 among samples, expected above 0"):
        solve_by_samples(torch.randn(3, 7), torch.randn(7), damping=0.0)
