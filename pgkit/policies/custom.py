"""A policy over a network of the user's own."""

from __future__ import annotations

import math
from typing import Any, Literal, final

import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.encoder import Encoder
from pgkit.core.layers import Rowwise
from pgkit.errors import UsageError
from pgkit.options import Count, Part
from pgkit.policies.actor import torch_actor
from pgkit.policies.base import Actor, NetworkPolicy
from pgkit.policies.laws import LawName


@final
class CustomPolicy(NetworkPolicy):
    """π(a|s) by a linear layer over what a module of the user's makes of the encoded observation.

    The module maps `[M, inputs]` to `[M, F]`, row by row: a row's outputs depend on no other row, nor on chance. Its
    constructor gets the keywords of its node, and `inputs` and `observation_space` where it names them.
    """

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        network: Part,
        init: Literal["orthogonal", "default"] = "orthogonal",
        law: LawName = "auto",
        components: Count = 5,
        state_dependent_std: bool = False,
        initial_log_std: float = 0.0,
        action_mask: str | None = "action_mask",
        normalise_observations: bool = False,
    ) -> None:
        def layers(encoder: Encoder, outputs: int) -> nn.Sequential:
            own = network(inputs=encoder.features, observation_space=observation_space)
            head = nn.Linear(_width(own, encoder.features), outputs)
            if init == "orthogonal":
                nn.init.orthogonal_(head.weight, gain=0.01)
                nn.init.zeros_(head.bias)
            return nn.Sequential(Rowwise(own), head)

        super().__init__(
            observation_space=observation_space, action_space=action_space, law=law, components=components,
            state_dependent_std=state_dependent_std, initial_log_std=initial_log_std, action_mask=action_mask,
            normalise_observations=normalise_observations, images="scale", layers=layers,
        )  # fmt: skip

    def actor(self) -> Actor:
        """Returns a function from numpy observations to law parameters `[N, K]` that follows every later update."""
        return torch_actor(self)


def _width(network: Any, inputs: int) -> int:
    """Returns how many features a module puts out, found by trying it.

    Raises: UsageError for what is no module of rows.
    """
    if not isinstance(network, nn.Module):
        raise UsageError(f"policy.network: {type(network).__name__}, expected a torch.nn.Module")
    rows = torch.linspace(-1, 1, 3 * inputs).reshape(3, inputs)
    try:
        with torch.no_grad():
            together, last = network(rows), network(rows[2:])
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        cause = " ".join(str(error).split())
        raise UsageError(
            f"policy.network: {type(network).__name__} on [3, {inputs}], expected [3, F] ({cause})"
        ) from error
    if not isinstance(together, Tensor) or together.dim() != 2 or len(together) != 3:
        shape = list(together.shape) if isinstance(together, Tensor) else type(together).__name__
        raise UsageError(f"policy.network: {type(network).__name__} maps [3, {inputs}] to {shape}, expected [3, F]")
    if not torch.allclose(together[2:], last, rtol=1e-3, atol=1e-5 * math.sqrt(inputs)):
        raise UsageError(
            f"policy.network: {type(network).__name__} ties rows together or draws at random, expected row by row "
            "(no dropout, no batch normalisation)"
        )
    return together.shape[1]
