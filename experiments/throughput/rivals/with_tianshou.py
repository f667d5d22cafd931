"""Tianshou, by its collector and its algorithms; its trainer, which logs and evaluates as well, is left out."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from common import (
    BATCH,
    CLIP,
    ENTROPY,
    EPOCHS,
    GAMMA,
    GRADIENT_NORM,
    LAMBDA,
    LANES,
    LEARNING_RATE,
    MINIBATCHES,
    VALUE,
    WIDTHS,
    Rates,
    one_thread,
    repeated,
)


def tianshou_ppo(steps: int) -> Rates:
    """Trains PPO on CartPole."""
    from tianshou.algorithm import PPO
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.utils.net.discrete import DiscreteCritic

    algorithm = PPO(
        policy=_policy(),
        critic=DiscreteCritic(preprocess_net=_network()),
        optim=AdamOptimizerFactory(lr=LEARNING_RATE),
        eps_clip=CLIP,
        vf_coef=VALUE,
        ent_coef=ENTROPY,
        max_grad_norm=GRADIENT_NORM,
        gae_lambda=LAMBDA,
        gamma=GAMMA,
    )
    return _train(algorithm, steps, batch_size=BATCH // MINIBATCHES, repeat=EPOCHS)


def tianshou_reinforce(steps: int) -> Rates:
    """Trains REINFORCE on CartPole: one step a batch."""
    from tianshou.algorithm import Reinforce
    from tianshou.algorithm.optim import AdamOptimizerFactory

    algorithm = Reinforce(policy=_policy(), gamma=GAMMA, optim=AdamOptimizerFactory(lr=LEARNING_RATE))
    return _train(algorithm, steps, batch_size=None, repeat=1)


def _network() -> Any:
    from tianshou.utils.net.common import Net
    from torch import nn

    return Net(state_shape=4, hidden_sizes=WIDTHS, activation=nn.Tanh)


def _policy() -> Any:
    from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
    from tianshou.utils.net.discrete import DiscreteActor

    actor = DiscreteActor(preprocess_net=_network(), action_shape=2, softmax_output=False)
    return DiscreteActorPolicy(actor=actor, action_space=gym.spaces.Discrete(2))


def _train(algorithm: Any, steps: int, *, batch_size: int | None, repeat: int) -> Rates:
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.torch_utils import policy_within_training_step

    one_thread()
    lanes = DummyVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(LANES)])
    lanes.seed(0)
    collector = Collector(algorithm, lanes, VectorReplayBuffer(BATCH, LANES))
    collector.reset()

    def update() -> int:
        with policy_within_training_step(algorithm.policy):
            made = collector.collect(n_step=BATCH).n_collected_steps
            algorithm.update(collector.buffer, batch_size=batch_size, repeat=repeat)
        collector.reset_buffer(keep_statistics=True)
        return int(made)

    return repeated(update, steps)
