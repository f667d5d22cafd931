"""The variance of a minibatch gradient, split into what the data and what the samples contribute."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pgkit.types import expect


@dataclass(frozen=True, kw_only=True)
class TwoNoises:
    """Traces of covariance: `sampling` of one sample's gradient on one minibatch, E_B[Var(g | B)]; `data` of what a
    minibatch with endless samples would say, Var_B(E[g | B])."""

    sampling: float
    data: float

    def variance_of_mean(self, num_samples: int) -> float:
        """Returns the variance of the mean of N samples on one minibatch: more samples leave the data's noise."""
        return self.sampling / num_samples + self.data


def split_variance(gradients: Tensor) -> TwoNoises:
    """Returns the two parts of Var(g) = E_B[Var(g | B)] + Var_B(E[g | B]), by a one-way analysis of variance.

    `data` is unbiased and so may come out negative.
    Shapes: gradients `[M, N, P]`: N per-sample gradients on each of M independent minibatches, both at least 2.
    Source: Fisher 1925 (Statistical Methods for Research Workers), chapter 7.
    """
    sizes = expect("M N P .", gradients=gradients)
    within = float(gradients.var(dim=1).mean(dim=0).sum())
    between = float(gradients.mean(dim=1).var(dim=0).sum())
    return TwoNoises(sampling=within, data=between - within / sizes["N"])
