"""The pathwise estimator of any expectation."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.func import jacfwd

from pgkit.core import expectation as core
from pgkit.core import pathwise
from pgkit.core.arguments import arguments, lower_triangular, repeated
from pgkit.core.chain import in_blocks
from pgkit.core.gaussian_rows import noise_of, path_rows
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters

PROBES = 16
"""Samples by which `accepts` finds out whether a cost has a gradient."""


@final
class Pathwise(ExpectationEstimator):
    """∇E[f] = E[∇_θ f(g_θ(ε))]: differentiates through the samples, which asks for a smooth law and a smooth cost.

    A cost without a gradient is refused. One that jumps between smooth pieces cannot be told from a smooth one: its
    jumps are ignored, and the estimate is then silently wrong; use `score`.

    `antithetic` draws half of the samples and reflects them about the mean of a symmetric law. The two of a pair are
    not independent, the pairs are: each row of `per_sample` is then the mean of a pair, and there are N/2 of them.
    Common random numbers need no option: generators with the same seed draw the same noise.

    Variance: for an L-Lipschitz cost and a Gaussian mean at most L² in total, whatever the dimension.
    Source: Kingma and Welling 2014, arXiv:1312.6114; Figurnov et al. 2018, arXiv:1805.08498.
    """

    def __init__(self, *, baseline: Baseline, antithetic: bool = False) -> None:
        super().__init__(baseline=baseline)
        self.antithetic = antithetic

    def accepts(self, expectation: Expectation, parameters: Parameters) -> None:
        """Raises UsageError where the law is not reparameterised, or the cost has no gradient."""
        law = self._accepted(expectation, parameters)
        samples = core.draw(law, PROBES, torch.Generator().manual_seed(0))
        pathwise.cost_gradient(expectation.cost, samples)

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean of ∇_θ f(x) over N samples, with per-sample gradients."""
        theta = core.leaves_of(parameters)
        parameters = {name: value.detach() for name, value in theta.items()}
        law = self._accepted(expectation, theta)
        again = generator.clone_state()
        number = pathwise.to_draw(num_samples, antithetic=self.antithetic)
        moving = self._draw(lower_triangular(law), generator, number)
        slopes, total = pathwise.cost_gradients(expectation.cost, moving, theta)
        samples, mean = moving.detach(), total / num_samples
        if (direct := expectation.direct_cost) is not None:
            with torch.enable_grad():
                mean = mean + core.flat_gradient(direct(samples, theta).mean(), theta)

        def per_sample() -> Tensor:
            if arguments(law):
                rows = self._by_arguments(expectation, parameters, samples, slopes, again.clone_state())
            else:
                rows = self._by_samples(expectation, parameters, samples, slopes, again.clone_state())
            return core.add_direct(rows, expectation, parameters, samples)

        return core.summarise_lazily(mean, per_sample, parameters, unbiased=True)

    def _accepted(self, expectation: Expectation, parameters: Parameters) -> Distribution:
        """Returns the law; raises UsageError where it is not reparameterised, or not symmetric if need be."""
        with torch.enable_grad():
            law = expectation.law(parameters)
        if not pathwise.is_reparameterised(law):
            name = type(getattr(law, "base_dist", law)).__name__
            raise UsageError(f"estimator: pathwise for {name}, which is not reparameterised, expected score")
        if self.antithetic:
            pathwise.centre(law)
        return law

    def _draw(self, law: Distribution, generator: torch.Generator, *sizes: int) -> Tensor:
        """Returns samples `[N, *event]` of a law, or of a batch of them, differentiable in what it was made of."""
        with core.seeded_by(generator), torch.enable_grad():
            moving = pathwise.rsample(law, *sizes)
            return torch.cat([moving, 2 * pathwise.centre(law) - moving]) if self.antithetic else moving

    def _by_arguments(
        self,
        expectation: Expectation,
        parameters: Parameters,
        samples: Tensor,
        slopes: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns the gradients of samples `[N, P]`, or of pairs `[N/2, P]`, by those in each argument of the law.

        The samples are drawn again, as noise or each from a law of its own.
        """
        law = expectation.law(parameters)
        number = len(samples) // 2 if self.antithetic else len(samples)
        slopes = slopes / 2 if self.antithetic else slopes
        if (noise_law := noise_of(law)) is not None:
            noise = self._draw(noise_law, generator, number)[:number]
            one, other = slopes[:number], slopes[number:]
            flows = (one + other, one - other) if self.antithetic else (one, one)
            return in_blocks(path_rows(law, *flows, noise), number, expectation, parameters)
        batch, leaves = repeated(law, number)
        moving = self._draw(batch, generator)
        _refuse_other_samples(moving.detach(), samples)
        gradients = torch.autograd.grad(
            moving, list(leaves.values()), slopes, materialize_grads=True, allow_unused=True
        )
        return core.to_parameters(dict(zip(leaves, gradients, strict=True)), expectation, parameters)

    def _by_samples(
        self,
        expectation: Expectation,
        parameters: Parameters,
        samples: Tensor,
        slopes: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns the same for a law that cannot be rebuilt from its arguments, by the Jacobian of every sample."""

        def sample(theta: Parameters) -> tuple[Tensor, Tensor]:
            moving = pathwise.rsample(expectation.law(theta), len(samples))
            return moving, moving.detach()

        with core.seeded_by(generator):
            try:
                jacobian, redrawn = jacfwd(sample, has_aux=True, randomness="same")(dict(parameters))
            except NotImplementedError as error:
                raise UsageError(
                    "per_sample: not known for a transformed law whose base torch cannot differentiate forwards, "
                    "expected estimator score"
                ) from error
        _refuse_other_samples(redrawn, samples)
        slopes = slopes.reshape(len(samples), -1)
        blocks = [jacobian[name].reshape(*slopes.shape, -1) for name in parameters]
        return torch.einsum("ne,nep->np", slopes, torch.cat(blocks, dim=2))


def _refuse_other_samples(redrawn: Tensor, samples: Tensor) -> None:
    """Raises UsageError where samples drawn again from the same seed are not the same, up to rounding."""
    if (redrawn - samples).abs().max() > 1e-3 * samples.abs().max():
        raise UsageError(
            "law: draws other samples from the same seed, expected one that draws on torch's generator alone"
        )
