"""Which estimators meet which problems: found by walking the configuration, built, and asked whether they fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pgkit.config import build, config_dir
from pgkit.errors import UsageError, did_you_mean
from pgkit.problems.base import Problem
from pgkit.protocols import Baseline, GradientEstimator
from pgkit.schema.commands import serves

Node = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One file of a group: its name, its node, the comment that heads the file, and whether it is as shipped."""

    name: str
    node: Node
    comment: str
    changed: bool = False


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An estimator, with its baseline, to be tried on a problem."""

    problem: Option
    estimator: Option
    baseline: Option
    trusted: tuple[str, ...]

    def build(self) -> tuple[Problem, GradientEstimator]:
        """Returns both objects, new.

        Raises: UsageError where one of them refuses its keys.
        """
        baseline = build(self.baseline.node, expects=Baseline, trusted=self.trusted)
        estimator = build(self.estimator.node, expects=GradientEstimator, trusted=self.trusted, baseline=baseline)
        return build(self.problem.node, expects=Problem, trusted=self.trusted), estimator


def pairs(config: DictConfig) -> list[Pair]:
    """Returns the pairs that a configuration asks for, problem by problem.

    `problem=NAME` and `estimator=NAME` choose one, with whatever keys were typed; else the lists `problems` and
    `estimators` choose, `all` being everything but what is wrong on purpose or has no known gradient.

    Raises: UsageError for a name that does not exist, or an object that cannot be built.
    """
    trusted = tuple(config.trusted_packages)
    problems = list(_chosen(config, "problem", config.problems, lambda option: _is_known(option, trusted)))
    estimators = list(_chosen(config, "estimator", config.estimators, lambda option: _is_verified(option, trusted)))
    baselines = list(_chosen(config, "baseline", config.baselines, lambda option: _is_unbiased(option, trusted)))
    zero = options("baseline")["zero"]
    found = []
    for problem in problems:
        build(problem.node, expects=Problem, trusted=trusted)
        for estimator in estimators:
            takes = getattr(_estimator(estimator, zero, trusted), "takes_baseline", False)
            for baseline in baselines if takes else [zero]:
                found.append(Pair(problem=problem, estimator=estimator, baseline=baseline, trusted=trusted))
    return found


def options(group: str) -> dict[str, Option]:
    """Returns every option of a group, in pgkit's own folder and in those that the command line added."""
    found: dict[str, Option] = {}
    for folder in _folders():
        for file in sorted((folder / group).glob("*.yaml")):
            content = _node(OmegaConf.load(file))
            node = content.get(group, content)  # a file for the whole configuration names its group
            if isinstance(node.get("_target_"), str) and file.stem not in found:
                comment = " ".join(re.findall(r"^# ?(.*)", file.read_text(encoding="utf-8").split("_target_")[0], re.M))
                found[file.stem] = Option(name=file.stem, node=node, comment=comment)
    return dict(sorted(found.items()))


def _chosen(config: DictConfig, group: str, names: Any, in_all: Callable[[Option], bool]) -> Iterator[Option]:
    known = options(group)
    if group in config:
        name = str(HydraConfig.get().runtime.choices[group])
        node = _node(config[group])
        yield Option(name=name, node=node, comment=known[name].comment, changed=node != known[name].node)
        return
    if names == "all":
        yield from (option for option in known.values() if in_all(option))
        return
    for name in [names] if isinstance(names, str) else names:
        if name not in known:
            raise UsageError(f"{group}s: {name}, expected all or some of {', '.join(known)}{did_you_mean(name, known)}")
        yield known[name]


def _node(config: Any) -> Node:
    plain = OmegaConf.to_container(config)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def _estimator(option: Option, zero: Option, trusted: Sequence[str]) -> GradientEstimator:
    """Returns the estimator without a baseline.

    Raises: UsageError where it is of another kind, or asks for what a verification does not have.
    """
    try:
        if open_keys := [key for key, value in option.node.items() if "${" in str(value)]:
            raise UsageError(f"{open_keys[0]} comes from another group")
        baseline = build(zero.node, expects=Baseline)
        return build(option.node, expects=GradientEstimator, trusted=trusted, baseline=baseline)
    except UsageError as error:
        raise UsageError(f"estimators: {option.name} cannot stand alone ({error}), expected one that can") from None


def _is_verified(option: Option, trusted: Sequence[str]) -> bool:
    """Returns whether an option estimates the gradient of any expectation, and is not wrong on purpose."""
    try:
        estimator = _estimator(option, options("baseline")["zero"], trusted)
    except UsageError:
        return False  # such as the estimator of trajectories that pgkit.train uses
    return not getattr(estimator, "wrong_on_purpose", False)


def _is_known(option: Option, trusted: Sequence[str]) -> bool:
    try:
        return hasattr(build(option.node, expects=Problem, trusted=trusted), "exact_gradient")
    except UsageError:
        return False  # such as one whose environment is left open


def _is_unbiased(option: Option, trusted: Sequence[str]) -> bool:
    if not serves("verify", "baseline", option.node):
        return False
    baseline: Baseline = build(option.node, expects=Baseline, trusted=trusted)
    return baseline.unbiased


def _folders() -> Iterator[Path]:
    yield config_dir()
    if HydraConfig.initialized():
        for source in HydraConfig.get().runtime.config_sources:
            path = Path(urlparse(source.path).path)
            if source.schema == "file" and path.resolve() != config_dir():
                yield path
