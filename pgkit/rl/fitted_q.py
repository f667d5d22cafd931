"""What a target policy earns from here on, fitted to logged episodes of another: Q for doubly robust and direct values.

Values are time-aware: an episode that the time limit ends has nothing left, however good its last state. Where
observations and actions are few they are counted, else a network is fitted to Retrace targets. Every episode is read by
a fit to other episodes, so that an estimate corrected by importance weights stays unbiased whatever the fit.
Source: Munos et al. 2016, arXiv:1606.02647; Le, Voloshin and Yue 2019, arXiv:1903.08738.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.encoder import Encoder
from pgkit.core.networks import multilayer_perceptron
from pgkit.core.off_policy_tabular import tabular_values
from pgkit.core.recursions import linear_scan
from pgkit.types import Observations, Trajectories, map_observations

SWEEPS = 15
"""Times that the targets are computed anew from the fit; each gets an equal share of the steps."""
SAMPLED_ACTIONS = 8
"""Actions of the target drawn at each observation where they cannot be summed over; their mean is an unbiased V."""


@dataclass(frozen=True, kw_only=True)
class FittedValues:
    """V(s_t) and Q(s_t, a_t) of every row `[T, N]`, each from a fit to other episodes; 0 outside the mask."""

    values: Tensor
    chosen: Tensor


Reader = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Takes numbers of columns `[M]`, returns V and Q `[T, M]` of them."""


@final
class FittedQ:
    """Fits Q of `policy` to some columns of a batch and reads it on others."""

    def __init__(
        self,
        trajectories: Trajectories,
        log_ratio: Tensor,
        policy: Any,
        *,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        gamma: float,
        steps: int = 600,
    ) -> None:
        self.batch, self.log_ratio, self.policy, self.gamma = trajectories, log_ratio, policy, gamma
        self.observation_space, self.steps = observation_space, steps
        self.finite = isinstance(action_space, spaces.Discrete)
        self.tabular = self.finite and isinstance(observation_space, spaces.Discrete)

    def cross_fitted(self, *, folds: int, generator: np.random.Generator) -> FittedValues:
        """Returns the values of every episode by a fit to the episodes of the other folds; `folds` of at least 2."""
        order = torch.from_numpy(generator.permutation(self.batch.num_columns))
        values, chosen = (torch.zeros(self.batch.rewards.shape, dtype=torch.float64) for _ in range(2))
        for fold in range(min(folds, len(order))):
            held_out = order[fold::folds]
            others = order[~torch.isin(order, held_out)]
            values[:, held_out], chosen[:, held_out] = self.fit(others, generator)(held_out)
        return FittedValues(values=values, chosen=chosen)

    def fit(self, columns: Tensor, generator: np.random.Generator) -> Reader:
        """Returns a reader of the fit to some columns."""
        if self.tabular:
            return self._counted(columns)
        return _Network(self, columns, generator).read

    def _counted(self, columns: Tensor) -> Reader:
        assert isinstance(self.observation_space, spaces.Discrete) and isinstance(self.batch.obs, Tensor)
        start, count = int(self.observation_space.start), int(self.observation_space.n)
        every = torch.arange(start, start + count)
        with torch.no_grad():
            table = self.policy.law.log_probabilities(self.policy(every)).exp().double()
        states, batch = self.batch.obs[:-1] - start, self.batch
        of = (states[:, columns], batch.actions[:, columns], batch.rewards[:, columns], batch.mask[:, columns])
        quality = tabular_values(*of, table, gamma=self.gamma)
        value = (table * quality).sum(dim=2)
        rows = torch.arange(len(states))[:, None]

        def read(index: Tensor) -> tuple[Tensor, Tensor]:
            seen, taken = states[:, index], batch.actions[:, index]
            return value[rows, seen], quality[rows, seen, taken]

        return read


@final
class _Network:
    """Q(s, t, a) by a multilayer perceptron, in the unit of the returns of the episodes that it is fitted to."""

    def __init__(self, owner: FittedQ, columns: Tensor, generator: np.random.Generator) -> None:
        self.owner = owner
        batch = owner.batch.columns(columns)
        self.encoder = Encoder(owner.observation_space, normalise=True, images="scale")
        self.encoder.update(batch.rows())
        encoded = sum(owner.policy.law.dimensions)
        inputs = self.encoder.features + 1 + (0 if owner.finite else encoded)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**31)))
            self.network = multilayer_perceptron(
                inputs, [64, 64], encoded if owner.finite else 1, activation="tanh", init="orthogonal", output_gain=0.01
            )
        mask, rewards = batch.mask, torch.where(batch.mask, batch.rewards.double(), 0.0)
        to_go = linear_scan(torch.full_like(rewards, owner.gamma), rewards)[mask]
        self.centre, self.unit = float(to_go.mean()), float(to_go.std(correction=0)) or 1.0
        self._train(batch, mask, rewards, columns, generator)

    def read(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Returns V and Q `[T, M]` of some columns, 0 outside their mask."""
        inputs, codes = self._prepared(self.owner.batch.columns(columns), self._drawn(columns, seed=1))
        mask = self.owner.batch.mask[:, columns]
        value, chosen = self._evaluate(inputs, codes)
        result = (torch.zeros(mask.shape, dtype=torch.float64) for _ in range(2))
        return tuple(each.masked_scatter(mask, found) for each, found in zip(result, (value, chosen), strict=True))  # type: ignore[return-value]  # of two

    def _train(
        self, batch: Trajectories, mask: Tensor, rewards: Tensor, columns: Tensor, generator: np.random.Generator
    ) -> None:
        owner, rows = self.owner, int(mask.sum())
        steps = max(1, owner.steps // SWEEPS)
        inputs, codes = self._prepared(batch, self._drawn(columns, seed=0))
        trace = torch.where(mask, owner.log_ratio[:, columns], -torch.inf).clamp(max=0.0).exp()
        decay = torch.cat((owner.gamma * trace[1:], torch.zeros_like(trace[:1])))
        value = chosen = torch.zeros(mask.shape, dtype=torch.float64)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-3, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, SWEEPS * steps, eta_min=1e-4)
        for sweep in range(SWEEPS):
            if sweep:
                found = self._evaluate(inputs, codes)
                value, chosen = (torch.zeros_like(value).masked_scatter(mask, each) for each in found)
            following = torch.cat((value[1:], torch.zeros_like(value[:1])))
            surprise = torch.where(mask, rewards + owner.gamma * following - chosen, 0.0)
            goals = ((chosen + linear_scan(decay, surprise))[mask] - self.centre) / self.unit
            goals = goals.to(inputs.dtype)
            for index in torch.from_numpy(generator.integers(rows, size=(steps, min(512, rows)))):
                errors = self._at(inputs[index], codes[0][index]) - goals[index]
                loss = errors.square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    def _prepared(self, batch: Trajectories, drawn: np.random.Generator) -> tuple[Tensor, list[Tensor]]:
        """Returns the inputs of valid rows `[M, D]`, and codes of actions: those taken, then what V is the mean of."""
        rows, law = batch.rows(), self.owner.policy.law
        dtype = torch.get_default_dtype()
        with torch.no_grad():
            features = self.encoder(rows.obs)
            taken = law.encode(rows.actions).to(dtype)
            parameters = _in_blocks(self.owner.policy, rows.obs)
            if self.owner.finite:
                others = [law.mean(parameters).to(dtype)]
            else:
                noise = law.noise(drawn, (SAMPLED_ACTIONS, len(rows.index)))
                sampled = (torch.from_numpy(law.sample(parameters.numpy(), each)) for each in noise)
                others = [law.encode(actions).to(dtype) for actions in sampled]
        time = (rows.index // batch.num_columns).to(features.dtype) / batch.num_steps
        return torch.cat((features, time[:, None]), dim=1), [taken, *others]

    def _evaluate(self, inputs: Tensor, codes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns V and Q `[M]` in the unit of rewards."""
        with torch.no_grad():
            chosen, *others = (self._at(inputs, code).double() * self.unit + self.centre for code in codes)
        return torch.stack(others).mean(dim=0), chosen

    def _at(self, inputs: Tensor, code: Tensor) -> Tensor:
        """Returns Q `[M]` in its own unit; of finitely many actions it is linear in their code."""
        network: nn.Sequential = self.network
        if self.owner.finite:
            result: Tensor = (network(inputs) * code).sum(dim=-1)
            return result
        result = network(torch.cat((inputs, code), dim=-1)).squeeze(-1)
        return result

    def _drawn(self, columns: Tensor, *, seed: int) -> np.random.Generator:
        """Returns the generator of the actions that V is the mean of: none that anything else draws from."""
        return np.random.default_rng([seed, len(columns), int(columns.sum())])


def _in_blocks(policy: Callable[[Observations], Tensor], obs: Observations, size: int = 65_536) -> Tensor:
    first = next(iter(obs.values())) if isinstance(obs, dict) else obs
    blocks = (slice(start, start + size) for start in range(0, len(first), size))
    return torch.cat([policy(map_observations(lambda x, block=block: x[block], obs)) for block in blocks])  # type: ignore[misc]  # binds the block
