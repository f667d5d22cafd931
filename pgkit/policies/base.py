"""Policies whose network puts out the parameters of a law of actions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.encoder import Encoder
from pgkit.core.layers import Constant
from pgkit.core.spaces import leaves
from pgkit.errors import UsageError
from pgkit.options import Count
from pgkit.policies.categorical import Categorical, IndependentCategorical, masked
from pgkit.policies.conditional import ConditionalCategorical
from pgkit.policies.laws import LawName, law_of
from pgkit.types import Observations, Rows, map_observations

Actor = Callable[[Any], np.ndarray[Any, Any]]
Layers = Callable[[Encoder, int], nn.Sequential]
"""(encoder, number of outputs) -> layers from the features of the encoder to the outputs, the last one Linear."""


class NetworkPolicy(nn.Module, ABC):
    """π(a|s) by `law`, whose parameters are the outputs of `network`, scales that do not depend on s apart.

    `action_mask` names the entry of a Dict observation that says, by 0, which choices are not allowed; such an entry is
    no feature, and where there is none everything is allowed. A `recurrent` policy reads columns, not rows.
    """

    recurrent: ClassVar[bool] = False

    def __init__(
        self,
        *,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        layers: Layers,
        law: LawName,
        components: Count,
        state_dependent_std: bool,
        initial_log_std: float,
        action_mask: str | None,
        normalise_observations: bool,
        images: Literal["scale", "refuse"],
    ) -> None:
        super().__init__()
        self.law = law_of(action_space, law, components=components)
        if state_dependent_std and not self.law.num_scales:
            raise UsageError(f"policy.state_dependent_std: true for {type(self.law).__name__}, expected false")
        if conditional := _conditional(observation_space, action_space, action_mask):
            self.law = conditional
        self.mask = self._mask(observation_space, action_mask)
        self.law.masks = self.mask is not None
        self.encoder = Encoder(_without(observation_space, self.mask), normalise=normalise_observations, images=images)
        initial = self.law.initial(float(initial_log_std))
        outputs = self.law.num_outputs - (0 if state_dependent_std else self.law.num_scales)
        self.network = layers(self.encoder, outputs)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.add_(initial[:outputs])
        self.log_std = Constant(initial[outputs:].clone()) if outputs < self.law.num_outputs else None

    def forward(self, obs: Observations) -> Tensor:
        """Returns the parameters `[..., K]` of the action law at each observation."""
        return self._completed(self.network(self.encoder(obs)), obs)

    def _completed(self, features: Tensor, obs: Observations) -> Tensor:
        """Returns the outputs of the network with what does not come from it: constant scales, and the mask."""
        parameters = features if self.log_std is None else torch.cat((features, self.log_std(features)), dim=-1)
        if self.mask is None:
            return parameters
        assert isinstance(obs, dict)
        if isinstance(self.law, ConditionalCategorical):
            return self.law.joined(parameters, obs[self.mask])
        return masked(parameters, obs[self.mask])

    def log_prob(self, obs: Observations, actions: Tensor) -> Tensor:
        """Returns log π(a|s) `[...]` of actions as sampled; over a trajectory its sum is log p(τ) without dynamics."""
        return self.law.log_prob(self(obs), actions)

    def divergence(self, other: NetworkPolicy, obs: Observations) -> Tensor:
        """Returns KL(self || other) `[M]` at observations `[M, *obs]`, in nats, without gradients."""
        arrays: Any = map_observations(lambda x: x.cpu().numpy(), obs)  # type: ignore[arg-type, return-value]  # to numpy
        mine, theirs = (torch.from_numpy(policy.actor()(arrays)) for policy in (self, other))
        return self.law.kl(mine, theirs).to(next(self.parameters()).device)

    @abstractmethod
    def actor(self) -> Actor:
        """Returns a function from numpy observations to law parameters `[N, K]` that follows every later update."""

    def update(self, rows: Rows) -> None:
        """Advances the observation moments, once the batch has been used."""
        self.encoder.update(rows)

    def _mask(self, space: spaces.Space[Any], key: str | None) -> str | None:
        """Returns the entry that holds the mask, None where there is none."""
        if key is None or not isinstance(space, spaces.Dict) or key not in (entries := leaves(space)):
            return None
        if not isinstance(self.law, Categorical | IndependentCategorical | ConditionalCategorical):
            raise UsageError(f"policy.action_mask: {key} for continuous actions, expected null")
        size = math.prod(entries[key].shape or ())
        if size != self.law.num_parameters or isinstance(entries[key], spaces.Discrete | spaces.MultiDiscrete):
            raise UsageError(
                f"policy.action_mask: the entry {key} of space {entries[key]}, expected {self.law.num_parameters} "
                "numbers of a Box or MultiBinary, one a choice, or a table of the shape of all actions"
            )
        return key


def _conditional(
    space: spaces.Space[Any], actions: spaces.Space[Any], key: str | None
) -> ConditionalCategorical | None:
    """Returns the law for a mask that is a table over several dimensions of an action, None for any other mask."""
    if not isinstance(actions, spaces.MultiDiscrete) or not isinstance(space, spaces.Dict) or key is None:
        return None
    entry, counts = leaves(space).get(key), tuple(actions.nvec.reshape(-1).tolist())
    table = entry is not None and len(counts) > 1 and entry.shape == counts
    return ConditionalCategorical(actions) if table and actions.nvec.ndim == 1 else None


def _without(space: spaces.Space[Any], key: str | None) -> spaces.Space[Any]:
    """Returns the entries of a Dict but one, flat, in their order; any other space as it is."""
    if key is None:
        return space
    return spaces.Dict([(name, leaf) for name, leaf in leaves(space).items() if name != key])
