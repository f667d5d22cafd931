"""Who is measured: runs of pgkit, and what they are compared with."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

CARTPOLE = ("env=CartPole", "evaluation.episodes=0")
CHEETAH = ("env=HalfCheetah", "evaluation.episodes=0")
SLABS = (*CARTPOLE, "collect=steps", "returns.cut=zero", "baseline=zero")
VECTORIZED = "env.vectorization=vector_entry_point"
WIDE = ("env.num_envs=1024", VECTORIZED, "collect.steps=64")
EIGHT = ("env.num_envs=8", "env.vectorization=sync")
RATES = ("optimizer.lr=2.5e-4", "critic.learning_rate=2.5e-4", "update.schedule=constant", "collect.steps=128")
PPO = ("agent=ppo", *RATES, "update.entropy_coefficient=0.01")
FOUR_BY_FOUR = ("critic.steps=16", "critic.minibatch_size=256")  # for the critic what PPO's defaults are for the policy
A2C = ("agent=a2c", *RATES, "critic.steps=1", "critic.minibatch_size=1024")
GENERAL = (
    f"--config-dir={HERE / 'conf'}",
    "trusted_packages=[general]",
    "policy=custom",
    "policy.network._target_=general.Hidden",
    "critic=general",
)
SCALES = {1: 0.15, 8: 0.5, 64: 2, 512: 4, 4096: 10}
"""Numbers of vectorized lanes, and the share of steps for each."""


class Rates(NamedTuple):
    """Environment steps per wall second and per processor second, and the share that diagnostics say they took.

    Where memory was looked at: the most bytes that were resident at once, and the bytes of one batch.
    """

    wall: float
    cpu: float
    diagnostics: float | None = None
    peak: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Something with a rate: `run(steps)` measures it once."""

    name: str
    what: str
    run: Callable[[int], Rates]
    share: float
    """Steps for each of those that `--steps` gives, so that all take a like time."""
    package: str = "pgkit"
    """What has to be installed for it."""
    lanes: int = 0
    """Its number of lanes where it is measured for the sake of that."""


def pgkit(*overrides: str) -> Callable[[int], Rates]:
    """Returns the measurement of a whole `python -m pgkit.train`, by its own summary."""

    def run(steps: int) -> Rates:
        with tempfile.TemporaryDirectory() as folder:
            place = (f"hydra.run.dir={folder}/run", f"total_steps={steps}")
            call(sys.executable, "-m", "pgkit.train", *overrides, *place)
            summary = json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
            cpu = summary["env_steps"] / summary["train_cpu_seconds"]
            return Rates(summary["steps_per_second"], cpu, diagnostics_fraction(Path(folder, "run", "metrics.csv")))

    return run


def rival(name: str) -> Callable[[int], Rates]:
    """Returns the measurement of a function in `rivals/`."""
    return lambda steps: measured(str(HERE / "rivals"), name, str(steps))


def scaled(*overrides: str) -> Callable[[int], Rates]:
    """Returns the measurement of a run's memory beside its rate."""
    return lambda steps: measured(str(HERE / "scaling.py"), *overrides, f"total_steps={steps}")


def contestants() -> dict[str, Contestant]:
    """Returns all that can be measured here, in the order of a round."""
    everyone = [
        Contestant(name="raw lanes", what="pgkit's Lanes alone, random actions", run=rival("raw_lanes"), share=1),
        Contestant(name="raw gymnasium", what="gymnasium.make_vec alone", run=rival("raw_gymnasium"), share=1),
        Contestant(
            name="bare",
            what="REINFORCE 8 x 128, no diagnostics, no loggers",
            run=pgkit(*SLABS, "diagnostics=none", "logger=none"),
            share=1,
        ),
        Contestant(name="diagnosed", what="the same, default diagnostics", run=pgkit(*SLABS, "logger=none"), share=1),
        Contestant(name="whole", what="the same, default diagnostics and loggers", run=pgkit(*SLABS), share=1),
        Contestant(name="preset", what="the default preset, whole", run=pgkit(*CARTPOLE), share=1),
        Contestant(name="wide", what="REINFORCE 1024 x 64, whole", run=pgkit(*SLABS, *WIDE), share=8),
        Contestant(name="a2c", what="A2C 8 x 128, whole", run=pgkit(*CARTPOLE, *EIGHT, *A2C), share=1),
        Contestant(
            name="ppo", what="PPO 8 x 128, 4 x 4, whole", run=pgkit(*CARTPOLE, *EIGHT, *PPO, *FOUR_BY_FOUR), share=1
        ),
        Contestant(
            name="ppo general",
            what="the same with a user's own modules, by autograd",
            run=pgkit(*CARTPOLE, *EIGHT, *PPO, *FOUR_BY_FOUR, *GENERAL),
            share=0.6,
        ),
        Contestant(
            name="ppo 64",
            what="PPO 64 vectorized lanes x 128, 4 x 4, whole",
            run=pgkit(*CARTPOLE, "env.num_envs=64", VECTORIZED, *PPO, "critic.steps=16", "critic.minibatch_size=2048"),
            share=3,
        ),
        Contestant(
            name="ppo wide",
            what="PPO 1024 vectorized lanes x 128, 1 epoch of 128, whole",
            run=pgkit(*CARTPOLE, *PPO, *one_epoch(1024)),
            share=8,
        ),
        Contestant(name="sb3 ppo", what="PPO 8 x 128, 4 x 4", run=rival("sb3_ppo"), share=0.5, package=SB3),
        Contestant(name="sb3 a2c", what="A2C 8 x 128", run=rival("sb3_a2c"), share=0.5, package=SB3),
        Contestant(name="sbx ppo", what="as sb3 ppo, in JAX", run=rival("sbx_ppo"), share=0.4, package="sbx"),
        Contestant(name="tianshou ppo", what="as sb3 ppo", run=rival("tianshou_ppo"), share=0.2, package="tianshou"),
        Contestant(
            name="tianshou reinforce",
            what="REINFORCE 8 x 128",
            run=rival("tianshou_reinforce"),
            share=0.25,
            package="tianshou",
        ),
        Contestant(name="torchrl ppo", what="as sb3 ppo", run=rival("torchrl_ppo"), share=0.2, package="torchrl"),
        Contestant(
            name="raw cheetah",
            what="gymnasium.make_vec alone, HalfCheetah-v5",
            run=rival("raw_cheetah"),
            share=0.5,
            package="mujoco",
        ),
        Contestant(
            name="cheetah",
            what="as ppo, HalfCheetah-v5",
            run=pgkit(*CHEETAH, *EIGHT, *PPO, *FOUR_BY_FOUR),
            share=0.5,
            package="mujoco",
        ),
        Contestant(
            name="sb3 cheetah",
            what="as sb3 ppo, HalfCheetah-v5",
            run=rival("sb3_cheetah"),
            share=0.25,
            package=SB3,
        ),
        *(
            Contestant(
                name=f"{lanes} lanes",
                what=f"PPO {lanes} vectorized lanes x 128, 1 epoch of minibatches of 1024",
                run=scaled(*CARTPOLE, *PPO, *one_epoch(lanes)),
                share=share,
                lanes=lanes,
            )
            for lanes, share in SCALES.items()
        ),
    ]
    return {each.name: each for each in everyone if each.package == "pgkit" or find_spec(each.package)}


SB3 = "stable_baselines3"


def one_epoch(lanes: int) -> tuple[str, ...]:
    """Returns the overrides for vectorized lanes whose batches are gone through once, 1024 rows at a time."""
    number = max(1, lanes // 8)
    sizes = (f"update.minibatches={number}", f"critic.steps={number}", "critic.minibatch_size=1024")
    return f"env.num_envs={lanes}", VECTORIZED, "update.epochs=1", *sizes


def diagnostics_fraction(metrics: Path) -> float | None:
    """Returns the share that a run's last line of metrics names, None where it kept none."""
    if not metrics.exists():
        return None
    with metrics.open(encoding="utf-8", newline="") as file:
        *_, last = csv.DictReader(file)
    return float(last["time/diagnostics_fraction"])


def measured(*arguments: str) -> Rates:
    """Returns the rates that a script prints in its last line."""
    return Rates(**json.loads(call(sys.executable, *arguments).splitlines()[-1]))


def call(*command: str) -> str:
    """Returns what a command printed.

    Raises: RuntimeError with its complaint, where it failed.
    """
    places = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE)))}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | places, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout
