"""Samples reweighted towards the better ones, as far as a relative entropy allows.

Of all distributions over M samples with KL(p ‖ uniform) ≤ ε the one of largest mean advantage is p ∝ exp(A / η), with
η the minimum of the convex dual ηε + η log mean exp(A / η).
Source: Peters, Mülling and Altün 2010 (AAAI).
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from pgkit.types import expect


def exponential_weights(advantages: Tensor, temperature: float) -> Tensor:
    """Returns weights ∝ exp(A / η) whose mean is 1, `[M]`.

    Shapes: advantages `[M]`.
    Source: Peters, Mülling and Altün 2010 (AAAI).
    """
    expect("M .", advantages=advantages)
    return torch.softmax(advantages.double() / temperature, dim=0).to(advantages.dtype) * len(advantages)


def relative_entropy(weights: Tensor) -> float:
    """Returns KL(p ‖ uniform) = mean w log w of weights whose mean is 1, in nats.

    Shapes: weights `[M]`.
    Source: Kullback and Leibler 1951.
    """
    return float(torch.special.xlogy(weights.double(), weights.double()).mean())


def temperature_within(advantages: Tensor, bound: float) -> float:
    """Returns the η whose weights are `bound` nats from uniform: the minimum of the dual, where its slope vanishes.

    Infinite where all advantages are the same; where even all weight on the largest ones is within the bound, small
    enough that it is there.
    Shapes: advantages `[M]`.
    Source: Peters, Mülling and Altün 2010 (AAAI).
    """
    expect("M .", advantages=advantages)
    values = advantages.double()
    spread = float(values.max() - values.min()) if len(values) else 0.0
    if spread == 0:
        return math.inf
    smallest = spread * 1e-9

    def slope(logarithm: float) -> float:
        return bound - relative_entropy(exponential_weights(values, math.exp(logarithm)))

    if slope(math.log(smallest)) >= 0:
        return smallest
    # By Hoeffding's lemma the divergence is at most spread² / 8η².
    most = spread / math.sqrt(8 * bound)
    return math.exp(brentq(slope, math.log(smallest), math.log(most) + 1e-9, xtol=1e-13))
