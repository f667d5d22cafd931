"""Recurrent layers in numpy, with derivatives by hand: torch spends most of an unroll on calls for tiny tensors.

What each step of the way back multiplies by is known once the way forth is over, and computed for all rows at once.
"""

from __future__ import annotations

from typing import Any, Protocol, final

import numpy as np

Array = np.ndarray[Any, Any]
Gradients = tuple[Array, Array, Array, Array]
"""In gates `[T, N, G]`, the state before row 0 `[N, S]`, weight `[G, H]` and bias `[G]`."""


class Unroll(Protocol):
    """One way forth: `outputs` `[T, N, H]` and the state `after` the last row `[N, S]`."""

    outputs: Array
    after: Array

    def __init__(self, gates: Array, starts: Array | None, state: Array, weight: Array, bias: Array) -> None: ...

    def gradients(self, outputs: Array, after: Array) -> Gradients:
        """Returns the gradients of a scalar, given those in its outputs `[T, N, H]` and the state after them."""


@final
class GRUUnroll:
    """The unroll of `pgkit.core.recurrence.GRU`."""

    def __init__(self, gates: Array, starts: Array | None, state: Array, weight: Array, bias: Array) -> None:
        num_steps, num_columns, width = gates.shape
        size = width // 3
        self._weight, self._begun = weight, _begun(starts, num_steps)
        # Every array of a pass lies in one block: row t of each is written once.
        self._before = np.empty((num_steps, num_columns, size), gates.dtype)
        self._own = np.empty_like(gates)
        self._inner = np.empty_like(self._before)
        self.outputs = np.empty_like(self._before)
        into = np.ascontiguousarray(weight.T)
        for t in range(num_steps):
            before, own, inner, output = self._before[t], self._own[t], self._inner[t], self.outputs[t]
            before[...] = state
            if (begun := self._begun[t]) is not None:
                before[begun] = 0.0
            np.dot(before, into, out=own)
            own += bias
            outer = own[:, : 2 * size]
            outer += gates[t, :, : 2 * size]
            sigmoid(outer)
            np.multiply(own[:, 2 * size :], own[:, :size], out=inner)
            inner += gates[t, :, 2 * size :]
            np.tanh(inner, out=inner)
            np.subtract(before, inner, out=output)
            output *= own[:, size : 2 * size]
            output += inner
            state = output
        self.after = state.copy()

    def gradients(self, outputs: Array, after: Array) -> Gradients:
        """Returns the gradients of a scalar, given those in its outputs `[T, N, H]` and the state after them."""
        size = self._before.shape[2]
        reset, keep, own_inner = (self._own[..., part * size : (part + 1) * size] for part in range(3))
        to_inner = (1 - keep) * (1 - self._inner * self._inner)
        to_keep = (self._before - self._inner) * keep * (1 - keep)
        to_reset = own_inner * reset * (1 - reset)
        own = np.empty_like(self._own)
        inner = np.empty_like(self._inner)
        slope = after
        for t in reversed(range(len(own))):
            slope = slope + outputs[t]
            np.multiply(slope, to_inner[t], out=inner[t])
            np.multiply(inner[t], to_reset[t], out=own[t, :, :size])
            np.multiply(slope, to_keep[t], out=own[t, :, size : 2 * size])
            np.multiply(inner[t], reset[t], out=own[t, :, 2 * size :])
            slope *= keep[t]
            slope += np.dot(own[t], self._weight)
            if (begun := self._begun[t]) is not None:
                slope[begun] = 0.0
        gates = own.copy()
        gates[..., 2 * size :] = inner
        return gates, slope, *_products(own, self._before)


@final
class LSTMUnroll:
    """The unroll of `pgkit.core.recurrence.LSTM`."""

    def __init__(self, gates: Array, starts: Array | None, state: Array, weight: Array, bias: Array) -> None:
        num_steps, num_columns, width = gates.shape
        size = width // 4
        self._weight, self._begun = weight, _begun(starts, num_steps)
        self._before = np.empty((num_steps, num_columns, 2 * size), gates.dtype)
        self._own = np.empty_like(gates)
        self._squashed = np.empty((num_steps, num_columns, size), gates.dtype)
        self.outputs = np.empty_like(self._squashed)
        into = np.ascontiguousarray(weight.T)
        state = state.copy()
        for t in range(num_steps):
            before, own, squashed, output = self._before[t], self._own[t], self._squashed[t], self.outputs[t]
            before[...] = state
            if (begun := self._begun[t]) is not None:
                before[begun] = 0.0
            np.dot(before[:, :size], into, out=own)
            own += bias
            own += gates[t]
            sigmoid(own[:, : 2 * size])
            np.tanh(own[:, 2 * size : 3 * size], out=own[:, 2 * size : 3 * size])
            sigmoid(own[:, 3 * size :])
            cell = state[:, size:]
            np.multiply(own[:, size : 2 * size], before[:, size:], out=cell)
            cell += own[:, :size] * own[:, 2 * size : 3 * size]
            np.tanh(cell, out=squashed)
            np.multiply(own[:, 3 * size :], squashed, out=output)
            state[:, :size] = output
        self.after = state

    def gradients(self, outputs: Array, after: Array) -> Gradients:
        """Returns the gradients of a scalar, given those in its outputs `[T, N, H]` and the state after them."""
        size = self._squashed.shape[2]
        enter, keep, inner, last = (self._own[..., part * size : (part + 1) * size] for part in range(4))
        to_cell = last * (1 - self._squashed * self._squashed)
        to_last = self._squashed * last * (1 - last)
        of_cell = np.concatenate(
            (inner * enter * (1 - enter), self._before[..., size:] * keep * (1 - keep), enter * (1 - inner * inner)),
            axis=-1,
        )
        own = np.empty_like(self._own)
        slope, cell = after[:, :size], after[:, size:]
        for t in reversed(range(len(own))):
            slope = slope + outputs[t]
            cell = cell + slope * to_cell[t]
            np.multiply(np.tile(cell, 3), of_cell[t], out=own[t, :, : 3 * size])
            np.multiply(slope, to_last[t], out=own[t, :, 3 * size :])
            cell *= keep[t]
            slope = np.dot(own[t], self._weight)
            if (begun := self._begun[t]) is not None:
                slope[begun] = cell[begun] = 0.0
        return own, np.concatenate((slope, cell), axis=-1), *_products(own, self._before[..., :size])


def sigmoid(x: Array) -> None:
    """Returns nothing; makes 1 / (1 + exp(−x)) of x, as (1 + tanh(x/2)) / 2, which never overflows.

    Source: Abramowitz and Stegun 1964, section 4.5.
    """
    x *= 0.5
    np.tanh(x, out=x)
    x += 1
    x *= 0.5


def _begun(starts: Array | None, num_steps: int) -> list[Array | None]:
    """Returns which columns begin before each row, None where none does."""
    if starts is None:
        return [None] * num_steps
    return [row if row.any() else None for row in starts]


def _products(own: Array, before: Array) -> tuple[Array, Array]:
    """Returns the gradients in weight and bias, from those in what the layer made of the states before each row."""
    flat = own.reshape(-1, own.shape[-1])
    return flat.T @ before.reshape(len(flat), -1), flat.sum(axis=0)
