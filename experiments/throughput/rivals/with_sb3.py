"""Stable-Baselines3, and sbx, which has its interface and learns in JAX."""

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
    ROWS,
    VALUE,
    WARM_UP,
    WIDTHS,
    Rates,
    Stopwatch,
    one_thread,
)


def sb3_ppo(steps: int) -> Rates:
    """Trains PPO on CartPole."""
    from stable_baselines3 import PPO

    return _learn(PPO(env=_environments(), **_common(), **_ppo()), steps)


def sb3_cheetah(steps: int) -> Rates:
    """Trains PPO on HalfCheetah-v5."""
    from stable_baselines3 import PPO

    return _learn(PPO(env=_environments("HalfCheetah-v5"), **_common(), **_ppo()), steps)


def sb3_a2c(steps: int) -> Rates:
    """Trains A2C: one update a batch."""
    from stable_baselines3 import A2C

    return _learn(A2C(env=_environments(), use_rms_prop=False, **_common()), steps)


def sbx_ppo(steps: int) -> Rates:
    """Trains PPO on CartPole, compiled while it warms up."""
    import jax
    from sbx import PPO

    activation = {"activation_fn": jax.nn.tanh}
    common = _common()
    common["policy_kwargs"] |= activation
    return _learn(PPO(env=_environments(), **common, **_ppo()), steps)


def _common() -> dict[str, Any]:
    return {
        "policy": "MlpPolicy",
        "n_steps": ROWS,
        "learning_rate": LEARNING_RATE,
        "gamma": GAMMA,
        "gae_lambda": LAMBDA,
        "ent_coef": ENTROPY,
        "vf_coef": VALUE,
        "max_grad_norm": GRADIENT_NORM,
        "policy_kwargs": {"net_arch": {"pi": WIDTHS, "vf": WIDTHS}},
        "seed": 0,
        "device": "cpu",
    }


def _ppo() -> dict[str, Any]:
    return {"batch_size": BATCH // MINIBATCHES, "n_epochs": EPOCHS, "clip_range": CLIP}


def _environments(name: str = "CartPole-v1") -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env(name, n_envs=LANES, seed=0)


def _learn(model: Any, steps: int) -> Rates:
    """Returns the rate of learning on one thread, after some batches to warm up."""
    one_thread()
    model.learn(WARM_UP * BATCH)
    warm, watch = model.num_timesteps, Stopwatch()
    model.learn(steps, reset_num_timesteps=False)
    return watch.rates(model.num_timesteps - warm)
