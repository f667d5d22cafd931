"""The score function with a learned control variate, for discrete laws and any cost."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pgkit.core import discrete
from pgkit.core import expectation as core
from pgkit.core.relaxation import relaxed_control
from pgkit.errors import UsageError
from pgkit.estimators.discrete import Relaxed
from pgkit.options import Count, Positive
from pgkit.protocols import Baseline
from pgkit.types import Expectation, GradientEstimate, Parameters


@final
class RELAX(Relaxed):
    """[f(b) − c(z̃)] ∇log p(b) + ∇c(z) − ∇c(z̃) with a network c that learns to lower the variance: unbiased.

    c is trained by its own Adam on the squared gradient, after it was read; it starts as c = 0, the score function.
    The network is made at the first estimate and stays with the object, so keep the object from call to call.
    Source: Grathwohl et al. 2018, arXiv:1711.00123.
    """

    def __init__(self, *, baseline: Baseline, hidden: Count = 32, lr: Positive = 0.01) -> None:
        super().__init__(baseline=baseline)
        self.hidden, self.lr = hidden, lr
        self._learned: _Surrogate | None = None

    def estimate(
        self, expectation: Expectation, parameters: Parameters, *, num_samples: int, generator: torch.Generator
    ) -> GradientEstimate:
        """Returns the mean over N samples, with per-sample gradients; then takes one step of c."""
        relaxation, logits = self.relaxation(expectation, parameters)
        surrogate = self._learned
        if surrogate is None:
            with core.seeded_by(generator):
                surrogate = self._learned = self._made(logits.numel(), logits.dtype)
        if surrogate.inputs != logits.numel():
            raise UsageError(f"estimator: relax for {logits.numel()} logits, expected the {surrogate.inputs} it knows")
        noise = discrete.uniform(logits, num_samples, generator), discrete.uniform(logits, num_samples, generator)
        with torch.enable_grad():
            hard, score, control = relaxed_control(surrogate, relaxation, logits, noise, create_graph=True)
            gradients = discrete.rows(core.evaluate(expectation.cost, hard), score) * score + control
            per_sample = discrete.through_logits(gradients, expectation, parameters)
            surrogate.learn(per_sample)
        per_sample = per_sample.detach() + core.direct_term(expectation, parameters, hard)
        return core.summarise(per_sample, parameters, unbiased=True)

    def state_dict(self) -> dict[str, Any]:
        """Returns the network and its optimizer; nothing before the first estimate."""
        known = self._learned
        if known is None:
            return {}
        return {
            "inputs": known.inputs,
            "network": known.network.state_dict(),
            "optimizer": known.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the network and its optimizer back."""
        self._learned = None
        if state:
            with torch.random.fork_rng(devices=[]):
                made = self._made(state["inputs"], next(iter(state["network"].values())).dtype)
            made.network.load_state_dict(state["network"])
            made.optimizer.load_state_dict(deepcopy(state["optimizer"]))  # or both would share its moments
            self._learned = made

    def _made(self, inputs: int, dtype: torch.dtype) -> _Surrogate:
        first, last = nn.Linear(inputs, self.hidden, dtype=dtype), nn.Linear(self.hidden, 1, dtype=dtype)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        network = nn.Sequential(first, nn.Tanh(), last)
        return _Surrogate(inputs, network, torch.optim.Adam(network.parameters(), lr=self.lr))


@dataclass(frozen=True)
class _Surrogate:
    """The network c and what trains it."""

    inputs: int
    network: nn.Sequential
    optimizer: torch.optim.Adam

    def __call__(self, z: Tensor) -> Tensor:
        """Returns c(z) `[N]`."""
        return self.network(z.reshape(len(z), -1)).squeeze(-1)

    def learn(self, per_sample: Tensor) -> None:
        """Takes one step on the mean squared gradient: its mean does not move with c, so its variance falls."""
        self.optimizer.zero_grad()
        per_sample.square().sum(dim=1).mean().backward()
        self.optimizer.step()
