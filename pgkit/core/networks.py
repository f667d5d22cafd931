"""Multilayer perceptrons, the network of policies and critics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from pgkit.core.layers import Tanh

Activation = Literal["tanh", "relu", "silu"]
Initialisation = Literal["orthogonal", "default"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


def multilayer_perceptron(
    inputs: int,
    hidden_sizes: Sequence[int],
    outputs: int,
    *,
    activation: Activation,
    init: Initialisation,
    output_gain: float,
) -> nn.Sequential:
    """Returns Linear layers with an activation between them, the last one bare.

    `init="orthogonal"`: gain √2 in hidden layers and `output_gain` in the last, biases 0; `"default"`: torch's own.
    Draws from torch's global generator: fork it around the call.
    Source: Saxe, McClelland and Ganguli 2014, arXiv:1312.6120; gains as in Engstrom et al. 2020, arXiv:2005.12729.
    """
    sizes = [inputs, *hidden_sizes, outputs]
    layers: list[nn.Module] = []
    for index, (width, following) in enumerate(pairwise(sizes)):
        linear = nn.Linear(width, following)
        last = index == len(sizes) - 2
        if init == "orthogonal":
            nn.init.orthogonal_(linear.weight, gain=output_gain if last else math.sqrt(2))
            nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)
