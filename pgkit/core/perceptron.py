"""Plain multilayer perceptrons in numpy, on the parameters' own memory: evaluated, and differentiated by hand.

A small network on a small batch costs less than the bookkeeping of a tensor library around it. What is here is equal
to autograd and several times as fast; anything that is not such a network goes the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
from torch import Tensor, nn

from pgkit.core.layers import Tanh

Array = np.ndarray[Any, Any]
Slope = Callable[[Array], Array]
"""Returns the slope of an activation, in the room it is given or elsewhere."""
BLOCK = 1024
"""Rows that go through all layers together: their activations stay in a processor's cache."""


@final
class Perceptron:
    """Linear layers with one kind of activation between them; every in-place change of the parameters is seen at once.

    Attributes: sizes, those of the layers' outputs; num_parameters; dtype.
    """

    def __init__(self, network: nn.Sequential) -> None:
        linear = [layer for layer in network if isinstance(layer, nn.Linear)]
        self._weights = [_view(layer.weight) for layer in linear]
        self._transposed = [weight.T for weight in self._weights]
        self._biases = [_view(layer.bias) for layer in linear]
        kind = next((type(layer) for layer in network if type(layer) in _ACTIVATIONS), Tanh)
        self._activate, self._slope = _ACTIVATIONS[kind]
        self.sizes = [len(bias) for bias in self._biases]
        self.num_parameters = sum(weight.size + len(weight) for weight in self._weights)
        self.dtype = self._biases[0].dtype
        self.evaluations = 0
        self._room = [np.empty((0, size), self.dtype) for size in (*self.sizes[:-1], 0)]
        self._spare = [np.empty((2, 0, size), self.dtype) for size in self.sizes]
        self._ones = np.empty(0, self.dtype)

    @classmethod
    def of(cls, network: nn.Module) -> Perceptron | None:
        """Returns the network's twin in numpy; None where it is another kind of network, frozen, or not on the CPU."""
        if type(network) is not nn.Sequential or not len(network) % 2:
            return None
        layers = list(network)
        linear, between = layers[::2], {type(layer) for layer in layers[1::2]}
        plain = all(type(layer) is nn.Linear and layer.bias is not None for layer in linear)
        if not plain or len(between) > 1 or not between <= set(_ACTIVATIONS):
            return None
        parameters = [each for layer in linear for each in (layer.weight, layer.bias)]
        if any(not p.requires_grad or p.device.type != "cpu" or not p.is_contiguous() for p in parameters):
            return None
        return cls(network)

    def run(self, inputs: Array, outputs: Sequence[Array]) -> Array:
        """Writes the outputs of every layer, activated but for the last, into `outputs`, and returns the last.

        Shapes: inputs `[M, D]`; outputs `[M, size]`, one a layer.
        """
        hidden = inputs
        for index, output in enumerate(outputs):
            if index:
                self._activate(hidden)
            np.dot(hidden, self._transposed[index], out=output)
            output += self._biases[index]
            hidden = output
        return hidden

    def outputs(self, inputs: Array) -> Array:
        """Returns the outputs `[M, K]` of inputs `[M, D]`, a block of rows at a time."""
        result = np.empty((len(inputs), self.sizes[-1]), self.dtype)
        room = [np.empty((min(BLOCK, len(inputs)), size), self.dtype) for size in self.sizes[:-1]]
        for start in range(0, len(inputs), BLOCK):
            rows = slice(start, min(start + BLOCK, len(inputs)))
            count = rows.stop - start
            self.run(inputs[rows], [*(each[:count] for each in room), result[rows]])
        return result

    def evaluate(self, inputs: Array) -> Evaluation:
        """Returns the outputs of inputs `[M, D]`, to be differentiated before the next evaluation.

        What the rows leave behind lies in room that is used again: memory that is new every time costs more than the
        arithmetic does.
        """
        count = len(inputs)
        if count > len(self._room[0]):
            self._room = [np.empty((count, size), self.dtype) for size in (*self.sizes[:-1], 0)]
            block = min(count, BLOCK)
            self._spare = [np.empty((2, block, size), self.dtype) for size in self.sizes]
            self._ones = np.ones(block, self.dtype)
        outputs = np.empty((count, self.sizes[-1]), self.dtype)
        slopes = []
        for start in range(0, count, BLOCK):
            rows = slice(start, min(start + BLOCK, count))
            slopes.append(self._forward(inputs[rows], [room[rows] for room in self._room[:-1]], outputs[rows]))
        self.evaluations += 1
        return Evaluation(self, inputs, outputs, slopes)

    def _forward(self, hidden: Array, room: list[Array], outputs: Array) -> list[Slope]:
        """Fills hidden layers and outputs of a block of rows, and returns the slopes of the hidden layers."""
        slopes = []
        for index, output in enumerate((*room, outputs)):
            np.dot(hidden, self._transposed[index], out=output)
            output += self._biases[index]
            if index < len(room):
                slopes.append(self._slope(output))
            hidden = output
        return slopes

    def backward(self, inputs: Array, rows: slice, slopes: list[Slope], delta: Array, into: Array) -> None:
        """Writes the gradient that a block of rows of the last evaluation contributes into `into` `[P]`."""
        end, count = len(into), len(delta)
        for index in range(len(self._weights) - 1, -1, -1):
            weight = self._weights[index]
            begin = end - len(weight)
            # A product with ones adds rows up several times as fast as a reduction along the first axis.
            np.dot(self._ones[:count], delta, out=into[begin:end])
            end = begin - weight.size
            before = self._room[index - 1][rows] if index else inputs[rows]
            np.dot(delta.T, before, out=into[end:begin].reshape(weight.shape))
            if index:
                ahead, room = self._spare[index - 1][:, :count]
                delta = np.dot(delta, weight, out=ahead)
                delta *= slopes[index - 1](room)


@final
class Evaluation:
    """The `outputs` `[M, K]` of a perceptron on one batch, and the gradients of whatever is made of them."""

    def __init__(self, perceptron: Perceptron, inputs: Array, outputs: Array, slopes: list[list[Slope]]) -> None:
        self._perceptron, self._inputs, self.outputs, self._slopes = perceptron, inputs, outputs, slopes
        self._number = perceptron.evaluations

    def gradient(self, outputs: Array, into: Array) -> None:
        """Writes the gradient in the parameters, layer by layer each weight and then its bias, into `into`.

        Shapes: outputs `[M, K]`, the gradient of a scalar in the outputs; into `[P]`.
        Raises: RuntimeError once the perceptron was evaluated anew.
        """
        if self._number != self._perceptron.evaluations:
            raise RuntimeError("gradient: of an evaluation that another one followed, expected the last one")
        into.fill(0.0)
        share = into if len(self._slopes) == 1 else np.empty_like(into)
        for number, slopes in enumerate(self._slopes):
            rows = slice(number * BLOCK, min((number + 1) * BLOCK, len(outputs)))
            self._perceptron.backward(self._inputs, rows, slopes, outputs[rows], share)
            if share is not into:
                into += share


def picked(values: Array, index: Array | slice) -> Array:
    """Returns some rows of an array: views of a slice; otherwise copies, whole rows at a time as indexing does not."""
    result: Array = values[index] if isinstance(index, slice) else values.take(index, axis=0)
    return result


def _view(tensor: Tensor) -> Array:
    return tensor.detach().numpy()


def _tanh(x: Array) -> None:
    np.tanh(x, out=x)


def _tanh_slope(x: Array) -> Slope:
    np.tanh(x, out=x)

    def slope(room: Array) -> Array:
        np.multiply(x, x, out=room)
        result: Array = np.subtract(1, room, out=room)
        return result

    return slope


def _relu(x: Array) -> None:
    np.maximum(x, 0, out=x)


def _relu_slope(x: Array) -> Slope:
    np.maximum(x, 0, out=x)
    return lambda room: x > 0


def _sigmoid(x: Array) -> Array:
    # The exponent is capped where the quotient is 0 in any case.
    result: Array = 1 / (1 + np.exp(np.minimum(-x, 80)))
    return result


def _silu(x: Array) -> None:
    x *= _sigmoid(x)


def _silu_slope(x: Array) -> Slope:
    share = _sigmoid(x)
    x *= share
    # x σ(x) has the slope σ + x σ (1 − σ), in which x σ is the output.
    return lambda room: share + x * (1 - share)


_ACTIVATIONS: dict[type[nn.Module], tuple[Callable[[Array], None], Callable[[Array], Slope]]] = {
    Tanh: (_tanh, _tanh_slope),
    nn.ReLU: (_relu, _relu_slope),
    nn.SiLU: (_silu, _silu_slope),
}
"""What activates in place, and what does so and returns the slope at the inputs it found, computed when asked for."""
