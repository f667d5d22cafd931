"""TorchRL: its collector, its advantages and its loss, in the plain loop of its documentation."""

from __future__ import annotations

from typing import Any

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


def torchrl_ppo(steps: int) -> Rates:
    """Trains PPO on CartPole."""
    import torch
    from tensordict.nn import TensorDictModule
    from torch import nn
    from torch.distributions import Categorical
    from torchrl.collectors import Collector
    from torchrl.envs import GymWrapper
    from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE

    one_thread()

    def network(outputs: int) -> Any:
        return MLP(in_features=4, out_features=outputs, num_cells=WIDTHS, activation_class=nn.Tanh)

    actor = ProbabilisticActor(
        TensorDictModule(network(2), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(1), in_keys=["observation"])
    collector = Collector(_environments(GymWrapper), actor, frames_per_batch=BATCH, total_frames=-1)
    advantages = GAE(gamma=GAMMA, lmbda=LAMBDA, value_network=critic)
    loss = ClipPPOLoss(
        actor, critic, clip_epsilon=CLIP, entropy_coeff=ENTROPY, critic_coeff=VALUE, loss_critic_type="l2",
        normalize_advantage=True,
    )  # fmt: skip
    optimizer = torch.optim.Adam(loss.parameters(), lr=LEARNING_RATE, fused=True)
    batches = iter(collector)

    def update() -> int:
        batch = next(batches)
        with torch.no_grad():
            advantages(batch)
        rows = batch.reshape(-1)
        for _ in range(EPOCHS):
            for index in torch.randperm(len(rows)).split(len(rows) // MINIBATCHES):
                found = loss(rows[index])
                (found["loss_objective"] + found["loss_critic"] + found["loss_entropy"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), GRADIENT_NORM)
                optimizer.step()
                optimizer.zero_grad()
        return len(rows)

    return repeated(update, steps)


def _environments(wrapper: Any) -> Any:
    import gymnasium as gym

    vector = gym.vector.SyncVectorEnv(
        [lambda: gym.make("CartPole-v1") for _ in range(LANES)], autoreset_mode=gym.vector.AutoresetMode.DISABLED
    )
    return wrapper(vector, categorical_action_encoding=True)
