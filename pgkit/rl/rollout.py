"""Collection without leaving torch: policy, sampling and environment on one device, nothing waited for in between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pgkit.errors import RunFault, UsageError
from pgkit.options import Count
from pgkit.rl.collect import Batch
from pgkit.rl.lanes import Lanes
from pgkit.rl.recording import ActionLaw, Actor
from pgkit.rl.simulated import simulator_of
from pgkit.types import Trajectories

TYPES = {"float32": torch.float32, "float64": torch.float64}


@runtime_checkable
class DrawnLaw(Protocol):
    """A law whose actions can be drawn where the parameters are."""

    def draw(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Returns actions as sampled."""

    def applied(self, actions: Tensor) -> Tensor:
        """Returns the actions as the environment takes them."""


@final
class TorchStepsCollector:
    """A slab of `steps` rows on every lane of a simulator, on the device of the policy; otherwise as StepsCollector.

    Lanes are reset the step after an end, as Gymnasium's are in NEXT_STEP mode. States are of type `precision`,
    observations float32. The lanes of the run are not stepped: they evaluate the policy, on the real environment.

    Raises: UsageError for an environment without a simulator, and laws and policies that act in numpy alone.
    """

    vectorization = "torch"

    def __init__(
        self,
        *,
        lanes: Lanes,
        policy: Any,
        steps: Count = 128,
        precision: Literal["float32", "float64"] = "float32",
    ) -> None:
        simulator = simulator_of(lanes)
        if simulator is None:
            raise UsageError(
                f"collect: torch_steps on {lanes.id}, expected an environment with a simulator, without wrappers and "
                "clipped rewards: env=CartPole, env=Pendulum, env=LQR, or one of yours with an attribute `simulator`"
            )
        if not isinstance(policy.law, DrawnLaw):
            raise UsageError(
                f"policy.law: {type(policy.law).__name__} with collect=torch_steps, expected auto, gaussian, "
                "clipped_gaussian or squashed_gaussian"
            )
        if getattr(policy, "recurrent", False):
            raise UsageError("policy: one with a memory with collect=torch_steps, expected mlp, cnn or custom")
        self.simulator, self.policy, self.steps = simulator, policy, steps
        self.num_lanes, self.limit, self.precision = lanes.num_lanes, lanes.max_episode_steps, TYPES[precision]

    def start(self, seeds: Sequence[int]) -> None:
        """Seeds and resets every lane; all share the generator that the first seed makes."""
        self._device = next(self.policy.parameters()).device
        self._seed = int(seeds[0])
        self._generator = torch.Generator(self._device).manual_seed(self._seed)
        size, device = self.num_lanes, self._device
        self._state = self._begin()
        self._ended = torch.zeros(size, dtype=torch.bool, device=device)  # the next row is a reset row
        self._was_reset = torch.ones(size, dtype=torch.bool, device=device)  # the next row begins an episode
        self._length = torch.zeros(size, dtype=torch.long, device=device)  # of the episodes under way
        self._return = torch.zeros(size, dtype=torch.float64, device=device)

    def collect(self, act: Actor, law: ActionLaw, generator: np.random.Generator) -> Batch:
        """Returns one batch of a column a lane, on the device; `generator` seeds the noise of its actions.

        Raises: RunFault where the parameters of the action law are not finite.
        """
        # Processes that share a run hold the same generator and other seeds: no two of them draw alike.
        drawing = torch.Generator(self._device).manual_seed(int(generator.integers(2**63)) ^ self._seed)
        ended, was_reset = self._ended, self._was_reset
        with torch.inference_mode():
            rows = _stored((self._step(drawing) for _ in range(self.steps)), self.steps)
            seen = self._seen()
        obs, parameters, actions, rewards, terminated, truncated, returns, lengths = rows
        done = terminated | truncated
        resets = torch.cat([ended[None], done[:-1]])
        self._was_reset = resets[-1]
        with torch.no_grad():
            log_prob = self.policy.law.log_prob(parameters, actions)
        trajectories = Trajectories(
            obs=torch.cat([obs, seen[None]]),
            actions=actions,
            rewards=rewards.to(log_prob.dtype),
            behavior_log_prob=log_prob,
            behavior_id=torch.zeros(self.num_lanes, dtype=torch.long, device=self._device),
            terminated=terminated,
            truncated=truncated,
            starts=torch.cat([was_reset[None], resets[:-1]]),
            mask=~resets,
            lane=torch.arange(self.num_lanes, device=self._device),
            whole_episodes=False,
        )
        # Sizes and numbers that the host has to know, one after the other: the first wait is the one that counts.
        ends = done.reshape(-1).nonzero().squeeze(-1)
        finished = torch.stack([each.reshape(-1)[ends].double() for each in (returns, lengths)], dim=1)
        finite = torch.isfinite(parameters).all().expand(1, 2)
        (all_finite, _), *episodes = torch.cat([finite.double(), finished]).tolist()
        if not all_finite:
            raise RunFault("policy: parameters of the action law are not finite, expected finite numbers")
        return Batch(
            trajectories=trajectories,
            returns=[gained for gained, _ in episodes],
            lengths=[int(length) for _, length in episodes],
            env_steps=len(trajectories.valid),
            discarded_steps=0,
        )

    def _step(self, drawing: torch.Generator) -> tuple[Tensor, ...]:
        """Moves every lane by a row and returns what is remembered of it."""
        obs, state, resetting = self._seen(), self._state, self._ended
        parameters = self.policy(obs)
        actions = self.policy.law.draw(parameters, drawing)
        noise = torch.randn(
            self.num_lanes, self.simulator.num_noises, generator=self._generator, dtype=state.dtype, device=state.device
        )
        following, rewards, terminated = self.simulator.step(state, self.policy.law.applied(actions), noise)
        rewards = rewards.masked_fill(resetting, 0.0)
        self._length = (self._length + 1).masked_fill(resetting, 0)
        self._return = (self._return + rewards).masked_fill(resetting, 0.0)
        if self.simulator.horizon is not None:
            terminated = terminated | (self._length >= self.simulator.horizon)
        terminated = terminated & ~resetting
        late = torch.zeros_like(terminated) if self.limit is None else self._length >= self.limit
        truncated = late & ~terminated
        self._ended = terminated | truncated
        # Every lane draws a first state, so that nobody has to know how many need one.
        self._state = torch.where(resetting[:, None], self._begin(), following)
        return obs, parameters, actions, rewards, terminated, truncated, self._return, self._length

    def _begin(self) -> Tensor:
        return self.simulator.start(
            self.num_lanes, generator=self._generator, dtype=self.precision, device=self._device
        )

    def _seen(self) -> Tensor:
        return self.simulator.observe(self._state).float()


def _stored(rows: Iterable[tuple[Tensor, ...]], count: int) -> list[Tensor]:
    """Returns rows of tensors as tensors `[count, …]`, made outside of inference mode: learning differentiates them."""
    stores: list[Tensor] = []
    for index, row in enumerate(rows):
        if not stores:
            with torch.inference_mode(False):
                stores = [torch.empty((count, *each.shape), dtype=each.dtype, device=each.device) for each in row]
        for store, value in zip(stores, row, strict=True):
            store[index] = value
    return stores
