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
from tests.end_to_end.runs import configuration, gym, train

ROOT = OmegaConf.load(config_dir() / "train.yaml")
GROUPS = {str(group) for line in ROOT.defaults if line != "_self_" for group in line}
OPTIONS = sorted(
    "=".join(path.relative_to(config_dir()).with_suffix("").parts)
    for path in config_dir().glob("*/*.yaml")
    if path.parent.name in GROUPS - {"env", "agent"}  # agents: test_every_agent.py
)
ENVIRONMENTS = sorted(path.stem for path in (config_dir() / "env").glob("*.yaml") if path.stem != "gym")
WITH_CRITIC = ("critic=value", "critic.steps=2")
COMPANIONS = {
    "baseline=gls": WITH_CRITIC,
    "baseline=value": WITH_CRITIC,
    "collect=torch_steps": ("env=CartPole", "returns.cut=zero", "collect.steps=4"),
    "collect=steps": ("returns.cut=zero", "collect.steps=4"),
    "critic=action_value": ("critic.steps=2",),
    "critic=value": ("critic.steps=2",),
    "critic=recurrent_value": ("critic.steps=2",),
    "diagnostics=decomposition": WITH_CRITIC,
    "diagnostics=truth": ("env=Gamble",),
    "diagnostics=control_variate": ("estimator.control_variate=optimal_layer", "baseline=zero", "collect.episodes=8"),
    "estimator=factorised": (
        "env.kwargs={action:several}",
        "critic=action_value",
        "critic.steps=2",
        "diagnostics=full",
    ),
    "estimator=q_prop": ("critic=action_value", "critic.steps=2", "diagnostics=full"),
    "estimator=all_action": ("critic=action_value", "critic.steps=2", "diagnostics=full"),
    "estimator=svg": ("env=LQR", "diagnostics=full", "collect.episodes=8", "total_steps=200"),
    "estimator=svg0": ("env.kwargs={action:infinite}", "critic=action_value", "critic.steps=2", "diagnostics=full"),
    "policy=cnn": ("env.kwargs={observation:image}", "policy.convolutions=impala", "policy.hidden_sizes=[8]"),
    "weights=one_step": ("returns=v_trace", *WITH_CRITIC),
    "returns=lambda_return": WITH_CRITIC,
    "returns=n_step": WITH_CRITIC,
    "returns=v_trace": WITH_CRITIC,
    **{f"returns={name}": ("critic=action_value", "critic.steps=2") for name in ("retrace", "tree_backup", "q_lambda")},
    "update=pois": ("baseline=zero",),
    "update=enac": ("baseline=zero",),
    "reuse=window": ("weights=balance",),
    **{f"behavior={name}": ("weights=trajectory",) for name in ("epsilon", "temperature")},
    "behavior=active": ("weights=balance", "behavior.lanes=1"),
}
"""What an option needs of others."""
SLABS = tuple(f"agent={name}" for name in ("a2c", "acktr", "trpo", "ppo", "ppo_kl", "awr", "reps"))
SLAB = ("collect=steps", "collect.steps=6", "critic=value", "critic.steps=2")
QUESTIONS = "diagnostics=[halves,layers,noise_scale,scores,optimizer_step,fisher]"
ACTIONS = ("critic=action_value", "critic.steps=2")
MEASURED = ("diagnostics=[variance,control_variate,halves,layers,noise_scale,optimizer_step]", "env.num_envs=8")
REUSED = ("reuse=window", "reuse.batches=3", "collect.episodes=8")
VALUES = [
    (
        "weights=balance",
        "weights.per_decision=true",
        "weights.defensive=0.5",
        "diagnostics=[weights,variance]",
        *REUSED,
    ),
    (
        "weights=trajectory",
        "weights.self_normalise=true",
        "weights.truncate=2",
        "weights.power_mean=0.2",
        "diagnostics=full",
        *REUSED,
    ),
    ("weights=power_heuristic", "weights.exponent=3", "weights.truncate=2", "baseline=optimal", *REUSED),
    ("weights=constant_mixture", "weights.decay=0.5", "reuse.keep=log_probabilities", *REUSED),
    ("weights=per_decision", "weights.self_normalise=true", "baseline.ended=exclude", "diagnostics=[weights]", *REUSED),
    ("policy.activation=relu", "policy.hidden_sizes=[]", "returns.scale_rewards=true"),
    ("policy.activation=silu", "policy.init=default", "policy.initial_log_std=-1", "gamma=1"),
    (
        "policy.hidden_sizes=[8,8,8]",
        "policy.normalise_observations=true",
        "returns=total",
        "returns.scale_rewards=true",
    ),
    ("returns=lambda_return", "returns.scale_rewards=true", "returns.lam=0", *SLAB),
    ("returns=lambda_return", "returns.lam=1", *WITH_CRITIC, "critic.normalise_observations=true"),
    ("returns=n_step", "returns.n=1", "critic.activation=relu", "critic.hidden_sizes=[8]", *SLAB),
    ("collect=steps", "collect.steps=2", "returns.cut=drop", "diagnostics=full"),
    ("collect=steps", "collect.steps=1", "env.num_envs=1", "returns.cut=zero", "baseline=zero"),
    ("collect.episodes=8", "env.num_envs=2", "baseline.ended=exclude", "estimator.standardise=true"),
    ("estimator.standardise=true", "baseline=zero", "env.num_envs=1", "collect.episodes=1", "diagnostics=full"),
    ("estimator.discount_states=true", "gamma=0", "baseline=moving_average", "baseline.decay=0"),
    ("update.average=steps", "update.max_grad_norm=1e-3", "update.entropy_coefficient=0.1", "update.schedule=linear"),
    ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true", "diagnostics=[variance,policy]"),
    ("diagnostics=full", "baseline=mean"),
    (QUESTIONS, "env.num_envs=1", "collect.episodes=1", "baseline=zero"),
    (QUESTIONS, "env.num_envs=2", "collect.episodes=2", "diagnostics.optimizer_step.resamples=2"),
    (QUESTIONS, "collect=steps", "collect.steps=2", "returns.cut=drop", "diagnostics.scores.window=1"),
    (QUESTIONS, "estimator.standardise=true", "optimizer=sgd", "optimizer.momentum=0.9", "update.average=steps"),
    (QUESTIONS, "estimator.control_variate=optimal_layer", "baseline=zero", "collect.episodes=8"),
    ("baseline=zero", "estimator.control_variate=optimal_parameter", "diagnostics=full", "collect.episodes=8"),
    ("baseline=value", "estimator.control_variate=optimal_layer", *WITH_CRITIC),
    (
        "agent=svg",
        "env=LQR",
        "estimator.horizon=3",
        "estimator.discount_states=true",
        "baseline=leave_one_out",
        "policy.hidden_sizes=[]",
        "collect.episodes=8",
        "total_steps=200",
        "diagnostics=[truth,control_variate,variance,halves]",
    ),
    ("agent=svg", "env=Pendulum", "env.kwargs={max_episode_steps:3}", "diagnostics=full"),
    ("agent=svg0", "env=LQR", "collect.steps=4", "critic.steps=2", "diagnostics=full"),
    (
        "agent=svg0",
        "env=Pendulum",
        "collect=torch_steps",
        "collect.steps=4",
        "critic.steps=2",
        "policy.law=squashed_gaussian",
    ),
    ("baseline=gls", "baseline.features=polynomial", "baseline.pool=200", "baseline.folds=2", "baseline.ridge=0.1"),
    ("baseline=gls", "baseline.features=critic_features", "critic.hidden_sizes=[2]", *WITH_CRITIC),
    ("baseline=gls", "baseline.pool=0", "collect.episodes=12", "total_steps=99", *WITH_CRITIC),
    ("baseline=gls_network", "baseline.hidden_sizes=[4]", "baseline.activation=relu", "baseline.steps=1"),
    (
        "policy=lstm",
        "policy.convolutions=impala",
        "env.kwargs={observation:image}",
        "agent=ppo",
        "collect.steps=4",
        "critic=recurrent_value",
        "critic.memory=lstm",
        "critic.convolutions=impala",
        "critic.clip=0.2",
        "critic.minibatch_size=2",
        "critic.steps=2",
    ),
    (
        "critic=recurrent_value",
        "critic.normalise_observations=true",
        "critic.hidden_sizes=[]",
        "critic.steps=2",
        "baseline=gls",
        "weights=balance",
        "reuse=window",
        "diagnostics=full",
    ),
    ("baseline=linear", "baseline.cross_fitted=true", "baseline.ridge=0"),
    ("baseline=optimal", "baseline.folds=2"),
    ("baseline=optimal_time", "baseline.folds=3", "diagnostics=panel", "diagnostics.panel.every=1"),
    ("diagnostics=panel", "diagnostics.panel.estimators=[total_optimal_layer,optimal_time,mean]", "collect.episodes=8"),
    ("diagnostics=panel", "diagnostics.panel.estimators=[all_action,value]", *ACTIONS, "collect.episodes=8"),
    ("estimator=q_prop", "estimator.eta=one", *ACTIONS, "env.num_envs=1", "collect.episodes=1", "baseline=zero"),
    (
        "estimator=q_prop",
        "estimator.eta=conservative",
        *ACTIONS,
        "env.kwargs={action:infinite}",
        "collect.episodes=8",
        *MEASURED,
    ),
    (
        "estimator=q_prop",
        *ACTIONS,
        "env.kwargs={action:bits}",
        "returns=lambda_return",
        "collect=steps",
        "collect.steps=2",
        *MEASURED,
    ),
    (
        "estimator=factorised",
        *ACTIONS,
        "env.kwargs={action:unequal}",
        "baseline=value",
        "collect.episodes=8",
        "update.average=steps",
        *MEASURED,
    ),
    (
        "estimator=all_action",
        *ACTIONS,
        "collect=steps",
        "collect.steps=2",
        "returns=n_step",
        "baseline=mean",
        "critic.normalise_observations=true",
        *MEASURED,
    ),
    ("returns=v_trace", "weights=one_step", "reuse=window", "reuse.batches=2", "returns.lam=0.5", *SLAB, QUESTIONS),
    (
        "returns=retrace",
        "weights=one_step",
        "reuse=window",
        *ACTIONS,
        "baseline=value",
        "collect=steps",
        "collect.steps=2",
    ),
    ("returns=q_lambda", *ACTIONS, "env.kwargs={action:infinite}", "baseline=value"),
    ("returns=tree_backup", *ACTIONS, "env.kwargs={action:bits}", "baseline=value", "returns.lam=0"),
    ("returns=n_step", "returns.n=3", "weights=balance", "reuse=window", *WITH_CRITIC),
    ("agent=ppo", "collect.steps=4", "update.minibatches=3", "update.minibatch_of=columns", "update.target_kl=0.01"),
    ("agent=ppo", "collect.steps=4", "update.minibatches=1", "reuse=window", "update.clip_schedule=linear"),
    ("agent=ppo", "collect.steps=4", "update.minibatches=8", "returns=v_trace", "weights=one_step", "reuse=window"),
    (
        "update=ppo_clip",
        "update.normalise_advantages=batch",
        "update.average=columns",
        "update.entropy_coefficient=0.1",
    ),
    ("agent=ppo_kl", "collect.steps=4", "update.minibatches=3", "update.minibatch_of=columns", "update.penalty=9"),
    ("agent=ppo_kl", "collect.steps=4", "update.minibatches=1", "reuse=window", "update.normalise_advantages=batch"),
    ("agent=awr", "collect.steps=4", "reuse=none", "update.normalise_advantages=none", "update.minibatches=2"),
    ("agent=awr", "collect.steps=4", "returns=v_trace", "weights=one_step", "update.entropy_coefficient=0.1"),
    ("agent=reps", "collect.steps=4", "reuse=window", "update.epsilon=9", "update.average=columns"),
    ("update=reps", "baseline=zero", "update.minibatches=2", "diagnostics=full", "env.kwargs={action:infinite}"),
    ("agent=enac", "collect.episodes=8", "update.damping=10", "diagnostics=full"),
    ("update=enac", "baseline=zero", "weights=balance", "reuse=window", "env.kwargs={action:infinite}"),
    ("collect.group=2", "collect.episodes=8", "baseline.ended=exclude", "diagnostics=full", "env.vectorization=async"),
    ("collect.group=4", "collect.episodes=8", "estimator.normalise=group", "reuse=window", "update=reps"),
    ("collect.group=2", "collect.episodes=4", "baseline.within=batch", "weights=balance", "reuse=window"),
    ("agent=npg", "collect.steps=4", "update.max_rows=50", "update.schedule=constant", "diagnostics=full"),
    ("agent=npg", "collect.steps=4", "update.solve=conjugate_gradient", "update.entropy_coefficient=0.1"),
    ("agent=acktr", "collect.steps=4", "update.damping_floor=1e-3"),
    ("update=natural", "update.solve=diagonal", "weights=balance", "reuse=window"),
    ("agent=trpo", "collect.steps=4", "update.max_rows=10", "update.schedule=linear"),
    ("agent=a2c", "collect.steps=4", "returns.lam=1", "optimizer=rmsprop"),
    ("behavior=epsilon", "behavior.lanes=1", "weights=balance", "diagnostics=[weights]"),
    ("behavior=temperature", "weights=per_decision", "reuse=window", "reuse.keep=log_probabilities"),
    ("behavior=active", "behavior.lanes=1", "weights=power_heuristic", "reuse=window", "reuse.min_ess=0.5"),
    ("update=pois", "baseline=zero", "update.form=per_decision", "update.self_normalise=false", "diagnostics=full"),
    ("update=storm", "weights=balance", "reuse=window", "update.forget=0"),
    ("update=page", "update.probability=1", "update.snapshot_batches=1", "diagnostics=full"),
    ("update=svrpg", "update.snapshot_batches=1", "update.period=1", "optimizer=sgd"),
    ("update.max_trajectory_kl=1e-4", "weights=trajectory", "reuse=window"),
    *(
        (
            f"policy.law={law}",
            "env.kwargs={action:unequal}",
            "collect.episodes=8",
            "update.entropy_coefficient=0.01",
            more,
        )
        for law, more in (
            ("gaussian", "policy.state_dependent_std=true"),
            ("clipped_gaussian", "diagnostics=full"),
            ("squashed_gaussian", "diagnostics=full"),
            ("beta", "diagnostics=full"),
            ("mixture", "diagnostics=full"),
            ("mixture", "policy.components=1"),
        )
    ),
    ("policy.law=beta", "env.kwargs={action:scalar}", "agent=ppo", "collect.steps=4", "update.minibatches=2"),
    ("policy.law=clipped_gaussian", "env.kwargs={action:half_infinite}", "estimator=q_prop", *ACTIONS),
    ("policy.law=mixture", "env.kwargs={action:infinite}", "estimator=factorised", *ACTIONS),
    ("diagnostics=dial", "diagnostics.dial.clips=[1.5]", "diagnostics.dial.windows=[1,3]", "weights=balance", *REUSED),
    ("diagnostics=dial", "weights=per_decision", *REUSED),
    ("diagnostics=dial", "diagnostics.dial.lambdas=[0.0,1.0]", "diagnostics.dial.every=1", *WITH_CRITIC),
]
"""Choices inside an option, several at once where they do not touch each other."""


def two_updates(folder: Path, *overrides: str) -> None:
    """Trains for two updates and looks whether everything is a number."""
    lanes = () if any(line.startswith("env.num_envs=") for line in overrides) else ("env.num_envs=4",)
    quota = () if any(line.startswith("collect") or line in SLABS for line in overrides) else ("collect.episodes=4",)
    env = () if any(line.startswith("env=") for line in overrides) else gym("Shapes")
    length = () if any(line.startswith("total_steps=") for line in overrides) else ("total_steps=25",)
    run = train(folder, *env, *lanes, *quota, *length, "evaluation.episodes=0", *overrides)
    assert run.summary["status"] == "finished" and run.summary["updates"] >= 2
    for name, tensor in run.parameters.items():
        assert torch.isfinite(tensor).all(), name
    for line in run.metrics if (folder / "metrics.csv").exists() else []:
        assert not {"nan", "inf", "-inf"} & set(line.values()), line


def is_of_another_job(option: str) -> bool:
    """Returns whether an option lacks what training asks of its group, which it shares with the other jobs."""
    group, _, name = option.partition("=")
    target = str(OmegaConf.load(config_dir() / group / f"{name}.yaml").get("_target_", "."))
    module, _, name = target.rpartition(".")
    kind = getattr(importlib.import_module(module), name) if module else None
    return {
        "estimator": not hasattr(kind, "coefficients"),
        "baseline": hasattr(kind, "one_a_parameter"),
        "optimizer": not target.startswith("torch.optim."),
    }.get(group, False)


def names_a_missing_extra(error: UsageError) -> bool:
    """Returns whether the error says how to install an extra that is indeed not there."""
    extra = str(error).partition("pgkit[")[2].partition("]")[0]
    modules = {"mujoco": "mujoco", "box2d": "Box2D", "atari": "ale_py", "minigrid": "minigrid"}
    return f'pip install "pgkit[{extra}]"' in str(error) and importlib.util.find_spec(modules[extra]) is None


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_trains(tmp_path: Path, option: str) -> None:
    group = option.partition("=")[0]
    if group == "experiment":
        try:
            run = train(tmp_path, option, "total_steps=1100", "evaluation.episodes=0")
        except UsageError as error:
            assert names_a_missing_extra(error)
        else:
            assert run.summary["status"] == "finished" and run.summary["env_steps"] >= 1100
    elif option == "behavior=checkpoint":
        left = train(tmp_path / "left", *gym("Shapes"), "total_steps=20", "evaluation.episodes=0").folder
        two_updates(tmp_path, option, f"behavior.run={left}", "behavior.lanes=1", "weights=balance")
    elif is_of_another_job(option):
        with pytest.raises(UsageError, match=f"^{group}: "):
            train(tmp_path, option)
    else:
        two_updates(tmp_path, option, *COMPANIONS.get(option, ()))


@pytest.mark.parametrize("values", VALUES, ids=" ".join)
def test_values_at_the_edge_train(tmp_path: Path, values: tuple[str, ...]) -> None:
    two_updates(tmp_path, *values)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_file_gives_a_batch_or_names_its_extra(name: str) -> None:
    config = configuration("collect=steps", "collect.steps=6", "returns.cut=zero", "env.num_envs=2")
    config.env = {**OmegaConf.load(config_dir() / "env" / f"{name}.yaml"), "num_envs": 2}
    try:
        parts = assemble(config)
        parts.lanes.probe()
    except UsageError as error:
        assert names_a_missing_extra(error)
        return
    parts.collector.start([1, 2])
    batch = parts.collector.collect(parts.policy.actor(), parts.policy.law, parts.streams.policy)
    parts.lanes.close()
    assert 0 < batch.env_steps <= 12
    assert torch.isfinite(batch.trajectories.behavior_log_prob).all()
