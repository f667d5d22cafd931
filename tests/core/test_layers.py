"""The layers that the batched gradients know behave as torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, hessian, jvp, vmap

from pgkit.core.layers import Constant, Tanh

pytestmark = [pytest.mark.equivalence, pytest.mark.usefixtures("float64")]


def test_tanh_and_its_derivatives_are_right() -> None:
    x = torch.linspace(-4, 4, 12).reshape(3, 4).requires_grad_()
    torch.testing.assert_close(Tanh()(x), torch.tanh(x), rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(Tanh(), (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(Tanh(), (x,))


def test_tanh_goes_through_function_transforms() -> None:
    x, tangent = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    for transform in (
        lambda f: vmap(f)(x),
        lambda f: vmap(f, in_dims=1, out_dims=1)(x),
        lambda f: vmap(grad(lambda row: f(row).square().sum()))(x),
        lambda f: jvp(f, (x,), (tangent,))[1],
        lambda f: hessian(lambda row: f(row).prod())(x[0]),
        lambda f: grad(lambda a: jvp(f, (a,), (tangent,))[1].sum())(x),
    ):
        torch.testing.assert_close(transform(Tanh()), transform(torch.tanh), rtol=0, atol=1e-12)


def test_tanh_is_differentiable_where_it_saturates() -> None:
    x = torch.tensor([-1e3, 0.0, 1e3], requires_grad=True)
    (gradient,) = torch.autograd.grad(Tanh()(x).sum(), x)
    assert gradient.tolist() == [0.0, 1.0, 0.0]


def test_a_constant_is_repeated_for_every_row_and_learns_from_all() -> None:
    layer = Constant(torch.tensor([1.0, 2.0]))
    rows = layer(torch.zeros(4, 3, 7))
    assert rows.shape == (4, 3, 2) and torch.equal(rows[2, 1], layer.value)
    rows.sum().backward()
    assert layer.value.grad.tolist() == [12.0, 12.0]
