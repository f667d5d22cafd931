"""Whatever can be chosen can be trained with: the folders of `conf/` are walked, so that a new file is tried too."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pgkit.assemble import assemble
from pgkit.config import config_dir
from pgkit.errors import UsageError
from pgkit.estimators.base import ExpectationEstimator
from tests.end_to_end.runs import configuration, gym, train, train_briefly

ROOT = OmegaConf.load(config_dir() / "train.yaml")
GROUPS = {str(group) for line in ROOT.defaults if line != "_self_" for group in line}
OPTIONS = sorted(
    "=".join(path.relative_to(config_dir()).with_suffix("").parts)
    for path in config_dir().glob("*/*.yaml")
    if path.parent.name in GROUPS - {"env"}
)
ENVIRONMENTS = sorted(path.stem for path in (config_dir() / "env").glob("*.yaml") if path.stem != "gym")
WITH_CRITIC = ("critic=value", "critic.steps=2")
COMPANIONS = {
    "agent=vpg": ("critic.steps=2", "collect.steps=4"),
    "baseline=value": WITH_CRITIC,
    "collect=steps": ("returns.cut=zero", "collect.steps=4"),
    "critic=value": ("critic.steps=2",),
    "returns=lambda_return": WITH_CRITIC,
    "returns=n_step": WITH_CRITIC,
}
"""What an option needs of others."""
SLAB = ("collect=steps", "collect.steps=6", "critic=value", "critic.steps=2")
VALUES = [
    ("policy.activation=relu",),
    ("policy.activation=silu", "policy.init=default"),
    ("policy.hidden_sizes=[]",),
    ("policy.hidden_sizes=[8,8,8]", "policy.normalise_observations=true"),
    ("policy.initial_log_std=-1",),
    ("returns.scale_rewards=true",),
    ("returns=total", "returns.scale_rewards=true"),
    ("returns=lambda_return", "returns.scale_rewards=true", "returns.lam=0", *SLAB),
    ("returns=lambda_return", "returns.lam=1", *WITH_CRITIC, "critic.normalise_observations=true"),
    ("returns=n_step", "returns.n=1", "critic.activation=relu", "critic.hidden_sizes=[8]", *SLAB),
    ("collect=steps", "collect.steps=2", "returns.cut=drop"),
    ("collect=steps", "collect.steps=1", "env.num_envs=1", "returns.cut=zero", "baseline=zero"),
    ("collect.episodes=8", "env.num_envs=2"),
    ("baseline.ended=exclude",),
    ("baseline=moving_average", "baseline.decay=0"),
    ("estimator.standardise=true",),
    ("estimator.standardise=true", "baseline=zero", "env.num_envs=1", "collect.episodes=1"),
    ("estimator.discount_states=true", "gamma=0"),
    ("update.average=steps", "update.max_grad_norm=1e-3"),
    ("update.entropy_coefficient=0.1", "update.schedule=linear"),
    ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true"),
    ("diagnostics=[variance,policy]",),
    ("diagnostics=[baseline]",),
    ("diagnostics=full", "baseline=zero", "env.num_envs=1", "collect.episodes=1"),
    ("diagnostics=full", "baseline=mean"),
    ("diagnostics=full", *SLAB, "baseline=zero"),
    ("gamma=1",),
    ("env.vectorization=sync", "evaluation.num_envs=1"),
]


def two_updates(folder: Path, *overrides: str) -> None:
    """Trains for two updates and looks whether everything is a number."""
    lanes = () if any(line.startswith("env.num_envs=") for line in overrides) else ("env.num_envs=4",)
    quota = (
        () if any(line.startswith("collect") or line == "agent=vpg" for line in overrides) else ("collect.episodes=4",)
    )
    run = train(folder, *gym("Shapes"), *lanes, *quota, "total_steps=25", "evaluation.episodes=0", *overrides)
    assert run.summary["status"] == "finished" and run.summary["updates"] >= 2
    for name, tensor in run.parameters.items():
        assert torch.isfinite(tensor).all(), name
    for line in run.metrics if (folder / "metrics.csv").exists() else []:
        assert not {"nan", "inf", "-inf"} & set(line.values()), line


def is_of_another_job(option: str) -> bool:
    """Returns whether an option says of itself that it does not belong to training: groups are shared by all jobs."""
    node = OmegaConf.load(config_dir() / f"{option.replace('=', '/')}.yaml")
    target = str(node.get("_target_", "."))
    if not target.startswith("pgkit."):
        return False
    module, _, name = target.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    return issubclass(kind, ExpectationEstimator) or (option.startswith("baseline") and hasattr(kind, "fit"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_trains(tmp_path: Path, option: str) -> None:
    group = option.partition("=")[0]
    if group == "experiment":
        run = train(tmp_path, option, "total_steps=1100", "evaluation.episodes=0")
        assert run.summary["status"] == "finished"
    elif is_of_another_job(option):
        with pytest.raises(UsageError, match=f"^{group}: "):
            train(tmp_path, option)
    else:
        two_updates(tmp_path, option, *COMPANIONS.get(option, ()))


@pytest.mark.parametrize("values", VALUES, ids=" ".join)
def test_values_at_the_edge_train(tmp_path: Path, values: tuple[str, ...]) -> None:
    two_updates(tmp_path, *values)


@pytest.mark.parametrize("action", ["half_infinite", "unequal", "scalar"])
@pytest.mark.parametrize("agent", ["reinforce", "vpg"])
def test_continuous_actions_train_under_every_agent(tmp_path: Path, agent: str, action: str) -> None:
    two_updates(tmp_path, f"agent={agent}", f"env.kwargs={{action:{action}}}", *COMPANIONS.get(f"agent={agent}", ()))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_file_gives_a_batch_or_names_its_extra(name: str) -> None:
    overrides = (f"env={name}", "env.num_envs=2", "collect=steps", "collect.steps=6", "returns.cut=zero")
    try:
        assemble(configuration(*overrides)).lanes.probe()
    except UsageError as error:
        needed = "mujoco" if "mujoco" in str(error) else "Box2D"
        assert f'pip install "pgkit[{needed.lower()}]"' in str(error)
        assert importlib.util.find_spec(needed) is None
        return
    parts, journal = train_briefly(*overrides, "total_steps=12")
    assert journal.env_steps >= 12
    assert all(torch.isfinite(parameter).all() for parameter in parts.policy.parameters())
