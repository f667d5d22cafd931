"""Recurrent layers, by hand or written out in torch: states may be reset between rows, and every gradient can be taken.

A layer reads what its gates make of the inputs, all rows at once by whoever calls it, and adds what they make of the
state, row by row. Its state is an argument and a result, never kept in the module; the first of its parts is the
output.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from pgkit.core.recurrence_by_hand import GRUUnroll, LSTMUnroll, Unroll, sigmoid

Array = np.ndarray[Any, Any]
Step = Callable[[Array, Array], Array]
"""(gates of the inputs `[N, G]`, state `[N, S]`) -> the next state `[N, S]`, in numpy."""


class Recurrence(nn.Module, ABC):
    """One recurrent layer of `size` units H. A state `[N, S]` is one or more vectors of H, side by side."""

    num_gates: ClassVar[int]
    num_parts: ClassVar[int]
    by_hand: ClassVar[type[Unroll]]

    def __init__(self, size: int, *, init: Literal["orthogonal", "default"]) -> None:
        super().__init__()
        self.size = size
        self.hidden = nn.Linear(size, self.num_gates * size)
        if init == "orthogonal":
            for block in self.hidden.weight.split(size):
                nn.init.orthogonal_(block)
            nn.init.zeros_(self.hidden.bias)
        else:
            for parameter in self.hidden.parameters():
                nn.init.uniform_(parameter, -1 / math.sqrt(size), 1 / math.sqrt(size))

    @property
    def state_size(self) -> int:
        """S."""
        return self.num_parts * self.size

    def forward(
        self, gates: Tensor, starts: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the outputs `[T, N, H]` and the state `[N, S]` after the last row.

        The state before row 0 is `state`, zeros by default; it is zeros again before every row in `starts`.
        On a CPU the way there and back is by hand, unless somebody listens to the layer's uses.
        Shapes: gates `[T, N, G]`; starts `[T, N]` bool; state `[N, S]`.
        """
        state = gates.new_zeros(gates.shape[1], self.state_size) if state is None else state.to(gates.dtype)
        if gates.device.type != "cpu" or self.hidden._forward_hooks:
            return self.written_out(gates, starts, state)
        outputs: tuple[Tensor, Tensor] = _ByHand.apply(self, gates, starts, state, *self.hidden.parameters())
        return outputs

    def written_out(self, gates: Tensor, starts: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the same from torch's own operations, row by row."""
        parts = tuple(state.split(self.size, dim=-1))
        resets = [False] * len(gates) if starts is None else starts.any(dim=1).tolist()
        outputs = []
        for t, row in enumerate(gates.unbind(0)):
            if resets[t]:
                assert starts is not None
                parts = tuple(part.masked_fill(starts[t, :, None], 0.0) for part in parts)
            parts = self._advanced(row, parts)
            outputs.append(parts[0])
        return torch.stack(outputs), torch.cat(parts, dim=-1)

    @abstractmethod
    def _advanced(self, gates: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Returns the parts of the state `[N, H]` after one row of gates `[N, G]`."""

    @abstractmethod
    def stepper(self) -> Step:
        """Returns one row's step in numpy, on the parameters' own memory."""

    def _views(self) -> tuple[Array, Array]:
        return self.hidden.weight.detach().numpy().T, self.hidden.bias.detach().numpy()


@final
class GRU(Recurrence):
    """r, z = σ(x + U h), n = tanh(x_n + r ∘ (U_n h + b_n)), h ← n + z ∘ (h − n).

    Source: Cho et al. 2014, arXiv:1406.1078, in the form of cuDNN and `torch.nn.GRU`.
    """

    num_gates, num_parts, by_hand = 3, 1, GRUUnroll

    def _advanced(self, gates: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (hidden,) = parts
        size = self.size
        outer, inner = gates.split((2 * size, size), dim=-1)
        own, own_inner = self.hidden(hidden).split((2 * size, size), dim=-1)
        reset, keep = torch.sigmoid(outer + own).split(size, dim=-1)
        return (torch.lerp(torch.tanh(torch.addcmul(inner, reset, own_inner)), hidden, keep),)

    def stepper(self) -> Step:
        weight, bias = self._views()
        size = self.size

        def step(gates: Array, state: Array) -> Array:
            own = state @ weight
            own += bias
            outer = own[:, : 2 * size]
            outer += gates[:, : 2 * size]
            sigmoid(outer)
            inner = own[:, 2 * size :]
            inner *= outer[:, :size]
            inner += gates[:, 2 * size :]
            np.tanh(inner, out=inner)
            result = state - inner
            result *= outer[:, size:]
            result += inner
            return result

        return step


@final
class LSTM(Recurrence):
    """i, f, o = σ(x + U h), g = tanh(x_g + U_g h), c ← f ∘ c + i ∘ g, h ← o ∘ tanh c; the state is h, then c.

    Gates are in the order i, f, g, o. The forget gate begins with a bias of 1, so that an untrained layer remembers.
    Source: Hochreiter and Schmidhuber 1997; Jozefowicz, Zaremba and Sutskever 2015 (ICML) for the bias.
    """

    num_gates, num_parts, by_hand = 4, 2, LSTMUnroll

    def __init__(self, size: int, *, init: Literal["orthogonal", "default"]) -> None:
        super().__init__(size, init=init)
        with torch.no_grad():
            self.hidden.bias[size : 2 * size] += 1.0

    def _advanced(self, gates: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, cell = parts
        size = self.size
        outer, inner, last = (gates + self.hidden(hidden)).split((2 * size, size, size), dim=-1)
        enter, keep = torch.sigmoid(outer).split(size, dim=-1)
        cell = torch.addcmul(keep * cell, enter, torch.tanh(inner))
        return torch.sigmoid(last) * torch.tanh(cell), cell

    def stepper(self) -> Step:
        weight, bias = self._views()
        size = self.size

        def step(gates: Array, state: Array) -> Array:
            own = state[:, :size] @ weight
            own += bias
            own += gates
            outer, inner, last = own[:, : 2 * size], own[:, 2 * size : 3 * size], own[:, 3 * size :]
            sigmoid(outer)
            np.tanh(inner, out=inner)
            sigmoid(last)
            result = np.empty_like(state)
            hidden, cell = result[:, :size], result[:, size:]
            np.multiply(outer[:, size:], state[:, size:], out=cell)
            inner *= outer[:, :size]
            cell += inner
            np.tanh(cell, out=hidden)
            hidden *= last
            return result

        return step


@final
class _ByHand(torch.autograd.Function):
    """A layer's unroll in numpy; a derivative of its derivative goes by torch's own operations."""

    @staticmethod
    def forward(
        ctx: Any, layer: Recurrence, gates: Tensor, starts: Tensor | None, state: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        arrays = (each.detach().numpy() for each in (state, weight, bias))
        found = layer.by_hand(gates.detach().numpy(), None if starts is None else starts.numpy(), *arrays)
        ctx.layer, ctx.starts, ctx.found = layer, starts, found
        ctx.save_for_backward(gates, state, weight, bias)
        return torch.from_numpy(found.outputs), torch.from_numpy(found.after)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            gates, state, weight, bias = ctx.saved_tensors
            inputs = [each if each.requires_grad else None for each in (gates, state, weight, bias)]
            values = ctx.layer.written_out(gates, ctx.starts, state)
            wanted = [each for each in inputs if each is not None]
            found = iter(torch.autograd.grad(values, wanted, slopes, create_graph=True))
            result = [None if each is None else next(found) for each in inputs]
        else:
            result = [torch.from_numpy(each) for each in ctx.found.gradients(*(each.numpy() for each in slopes))]
        return None, result[0], None, *result[1:]
