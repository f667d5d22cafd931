"""A network as the state-dependent baseline of least variance."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal, final

import torch
from gymnasium import spaces
from torch import Tensor

from pgkit.baselines.optimal import scores_of
from pgkit.core.encoder import Encoder
from pgkit.core.networks import multilayer_perceptron
from pgkit.options import Count, Positive
from pgkit.types import Coupling, Factors


@final
class GLSNetwork:
    """b_w(s), trained after each batch to make Σ_i |Σ_t scale_t (G_t − b_w(s_t)) s_t|² small.

    That is the noise of the gradient itself, where a critic minimises squared errors of the return, whatever the scores
    are. The scores are those of the policy as it is when they are first read, which after an update is the next one.
    Bias: none, as the network learns from a batch only after it was read.
    Source: Greensmith, Bartlett and Baxter 2004 (JMLR 5:1471) for the objective.
    """

    unbiased = True
    coupling: Coupling = "independent"
    needs_values = False
    needs_scores = True
    least_columns = 1

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        hidden_sizes: list[Count] = [64, 64],  # noqa: B006 read only
        activation: Literal["tanh", "relu", "silu"] = "tanh",
        learning_rate: Positive = 3e-3,
        steps: Count = 10,
    ) -> None:
        self.encoder = Encoder(observation_space, normalise=False, images="scale")
        self.network = multilayer_perceptron(
            self.encoder.features, hidden_sizes, 1, activation=activation, init="orthogonal", output_gain=1.0
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.steps = steps
        self._unit: float | None = None

    def value(self, factors: Factors) -> Tensor:
        """Returns b(s) at every factor, `[F, N]`; 0 before the first batch was learnt from."""
        if self._unit is None:
            return torch.zeros_like(factors.signal)
        with torch.no_grad():
            return self._forward(factors)

    def update(self, factors: Factors) -> None:
        """Takes gradient steps on the squared length of every trajectory's gradient."""
        scores, scale = scores_of(factors, "gls_network")
        if self._unit is None:
            valid = factors.signal[factors.mask]
            self._unit = float(valid.abs().mean()) or 1.0
        for _ in range(self.steps):
            baseline = self._forward(factors)
            gradients = scores.per_sample(scale * (factors.signal - baseline.detach()))
            # ∂|g_n|²/∂b_t = −2 scale_t ⟨s_t, g_n⟩; its size is left to the optimizer, which knows none.
            slope = -2 * scale * scores.step_products(gradients)
            self.optimizer.zero_grad()
            baseline.backward(slope / slope.abs().sum().clamp(min=torch.finfo(slope.dtype).tiny))
            self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the network, the optimizer and the unit of the output."""
        return {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "unit": self._unit
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts them back."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))  # or both would share its moments
        self._unit = state["unit"]

    def _forward(self, factors: Factors) -> Tensor:
        assert factors.contexts is not None and self._unit is not None
        with torch.no_grad():
            features = self.encoder(factors.contexts)
        output: Tensor = self.network(features).squeeze(-1) * self._unit
        return torch.where(factors.mask, output, 0.0)
