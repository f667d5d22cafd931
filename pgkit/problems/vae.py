"""A variational autoencoder on generated data: an amortised conditional Gaussian and a model that is learnt too."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pgkit.options import Count, Index, Positive
from pgkit.problems.base import Problem
from pgkit.problems.conjugate_gaussian import rows
from pgkit.types import Parameters
from pgkit.vi.elbo import Elbo, Entropy, elbo


@final
class VAE(Problem):
    """The ELBO of p(y, z) = N(z; 0, I) N(y; decoder(z), noise² I) with q(z | y) = N by an encoder; maximised.

    Data: sines of a fixed random map of two latent dimensions, `width` of them, with noise. One sample is the latents
    of a whole minibatch, whose ELBO is a sum over its data; an estimator of an importance-weighted bound weighs whole
    minibatches, so that it wants `batch_size=1`. The objective is the ELBO per datum over
    all data, on noise that is the same at every call; there is no exact answer.
    Source: Kingma and Welling 2014, arXiv:1312.6114; Rezende, Mohamed and Wierstra 2014, arXiv:1401.4082.
    """

    maximise = True

    def __init__(
        self,
        *,
        observations: Count = 256,
        width: Count = 8,
        hidden: Count = 16,
        latents: Count = 2,
        noise: Positive = 0.3,
        entropy: Entropy = "detached",
        batch_size: Count | None = 32,
        target: float | None = -7.5,
        data_seed: Index = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(data_seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.data = (normal(observations, 2) @ normal(2, width)).sin() + noise * normal(observations, width)
        sizes = {"encoder": (width, hidden, 2 * latents), "decoder": (latents, hidden, width)}
        self._start = {}
        for part, (inputs, middle, outputs) in sizes.items():
            self._start[f"{part}.weight1"] = normal(middle, inputs) / math.sqrt(inputs)
            self._start[f"{part}.bias1"] = torch.zeros(middle, dtype=torch.float64)
            self._start[f"{part}.weight2"] = normal(outputs, middle) / math.sqrt(middle)
            self._start[f"{part}.bias2"] = torch.zeros(outputs, dtype=torch.float64)
        self._evaluation_noise = normal(8, observations, latents)
        self.noise, self.entropy, self.batch_size, self.target = noise, entropy, batch_size, target

    def parameters(self) -> dict[str, Tensor]:
        """Returns random weights, the same at every call."""
        return {name: value.clone() for name, value in self._start.items()}

    def expectation(self) -> Elbo:
        """Returns the bound at the start."""
        return self.at(self.parameters())

    def at(self, parameters: Parameters) -> Elbo:
        """Returns the bound over all data."""
        return self._bound(parameters, self.data)

    def minibatch(self, parameters: Parameters, generator: torch.Generator) -> Elbo:
        """Returns the bound of `batch_size` data, drawn anew."""
        return self._bound(parameters, self.data[rows(len(self.data), self.batch_size, generator)])

    def objective(self, parameters: Parameters) -> float:
        """Returns the ELBO per datum over all data, on fixed noise, in nats."""
        bound = self.at(parameters)
        law = encode(parameters, self.data)
        return float(bound.cost(law.mean + law.stddev * self._evaluation_noise).mean()) / len(self.data)

    def _bound(self, parameters: Parameters, data: Tensor) -> Elbo:
        standard, log_noise = Normal(0.0, 1.0), math.log(self.noise)

        def log_joint(z: Tensor, theta: Parameters) -> Tensor:
            residuals = (data - network("decoder", theta, z)) / self.noise
            log_likelihood = standard.log_prob(residuals) - log_noise
            return standard.log_prob(z).sum((-1, -2)) + log_likelihood.sum((-1, -2))

        return elbo(log_joint, lambda theta: encode(theta, data), parameters, entropy=self.entropy, model_moves=True)


def encode(parameters: Parameters, data: Tensor) -> Distribution:
    """Returns q(z | y) of all data as one law of `[B, L]`: means and log-deviations by a network of two layers."""
    mean, log_scale = network("encoder", parameters, data).chunk(2, dim=-1)
    return Independent(Normal(mean, log_scale.clamp(-7, 7).exp(), validate_args=False), 2, validate_args=False)


def network(part: str, parameters: Parameters, inputs: Tensor) -> Tensor:
    """Returns W₂ tanh(W₁ x + b₁) + b₂ for `[…, in]`."""
    hidden = (inputs @ parameters[f"{part}.weight1"].T + parameters[f"{part}.bias1"]).tanh()
    return hidden @ parameters[f"{part}.weight2"].T + parameters[f"{part}.bias2"]
