"""What pgkit is compared with: one measurement a process, printed as JSON. `compare.py` calls this."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np

LANES, ROWS = 8, 128
BATCH = LANES * ROWS


class Stopwatch:
    """Wall and processor seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def rates(self, steps: int) -> dict[str, float]:
        """Returns steps per second of both kinds."""
        return {
            "wall": steps / (time.perf_counter() - self._wall),
            "cpu": steps / (time.process_time() - self._cpu),
        }


def raw_lanes(steps: int) -> dict[str, float]:
    """Steps the very lanes that a pgkit run uses, inspection included."""
    from pgkit.rl.lanes import Lanes

    lanes = Lanes(id="CartPole-v1", num_envs=LANES, vectorization="sync")
    lanes.reset(list(range(LANES)))
    result = _step(lambda actions: lanes.step(actions)[2:], steps)
    lanes.close()
    return result


def raw_gymnasium(steps: int) -> dict[str, float]:
    """Steps gymnasium's own synchronous vector environment."""
    vector = gym.make_vec("CartPole-v1", num_envs=LANES, vectorization_mode="sync")
    vector.reset(seed=0)
    result = _step(lambda actions: vector.step(actions)[2:4], steps)
    vector.close()
    return result


def sb3_ppo(steps: int) -> dict[str, float]:
    """Trains PPO: 4 epochs of 4 minibatches, separate 2 x 64 tanh networks."""
    from stable_baselines3 import PPO

    return _learn(
        PPO(
            env=_sb3_environments(),
            n_steps=ROWS,
            batch_size=BATCH // 4,
            n_epochs=4,
            clip_range=0.2,
            **_common(),
        ),
        steps,
    )


def sb3_a2c(steps: int) -> dict[str, float]:
    """Trains A2C: one update a batch."""
    from stable_baselines3 import A2C

    return _learn(A2C(env=_sb3_environments(), n_steps=ROWS, use_rms_prop=False, **_common()), steps)


def _step(step: Callable[[np.ndarray], Any], steps: int) -> dict[str, float]:
    """Returns the rate at which transitions are made under random actions drawn beforehand; resets are none."""
    actions = np.random.default_rng(0).integers(2, size=(BATCH, LANES))

    def ended() -> Iterator[int]:
        while True:
            for row in actions:
                terminated, truncated = step(row)
                yield int((terminated | truncated).sum())

    lane_ends = ended()
    for _ in range(BATCH):
        next(lane_ends)
    watch, rows = Stopwatch(), steps // LANES
    resets = sum(next(lane_ends) for _ in range(rows))  # the row after an end only resets
    return watch.rates(rows * LANES - resets)


def _common() -> dict[str, Any]:
    networks = {"pi": [64, 64], "vf": [64, 64]}
    return {
        "policy": "MlpPolicy",
        "learning_rate": 2.5e-4,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "ent_coef": 0.01,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "policy_kwargs": {"net_arch": networks},
        "seed": 0,
        "device": "cpu",
    }


def _sb3_environments() -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env("CartPole-v1", n_envs=LANES, seed=0)


def _learn(model: Any, steps: int) -> dict[str, float]:
    """Returns the rate of learning on one thread, after two batches to warm up."""
    import torch

    torch.set_num_threads(1)
    model.learn(2 * BATCH)
    warm, watch = model.num_timesteps, Stopwatch()
    model.learn(steps, reset_num_timesteps=False)
    return watch.rates(model.num_timesteps - warm)


RIVALS = {each.__name__: each for each in (raw_lanes, raw_gymnasium, sb3_ppo, sb3_a2c)}

if __name__ == "__main__":
    name, steps = sys.argv[1:]
    print(json.dumps(RIVALS[name](int(steps))))
