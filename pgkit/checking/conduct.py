"""Conducts one check of an environment: findings, rates, advice, files."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pgkit.checking.findings import Finding
from pgkit.checking.report import advice, as_json, console, counts, findings_table, speed_table
from pgkit.checking.single import examine
from pgkit.checking.speed import Speed, measured
from pgkit.checking.vector import examine_vector
from pgkit.config import build
from pgkit.errors import RunFault
from pgkit.rl.forms import Blueprint
from pgkit.rl.lanes import Lanes
from pgkit.run.closing import shorten
from pgkit.run.folder import RunFolder, write_json

_VECTOR_LANES = 4
_WORKERS_A_CORE = 4


def prepare(config: DictConfig) -> Blueprint:
    """Returns the environment that is to be checked; it can be made.

    Raises: UsageError for an id, keywords, wrappers or an extra that is not there.
    """
    node: Any = OmegaConf.to_container(config.env)
    plan = Blueprint.of(node["id"], node["kwargs"], node["wrappers"])
    if plan.has_single:
        plan.single().close()
    return plan


def conduct(config: DictConfig, path: Path) -> None:
    """Checks the environment, measures it, prints and saves both.

    Raises: RunFault where a check failed, with everything written.
    """
    plan, out, start = prepare(config), console(), time.perf_counter()
    with RunFolder(path) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries murmur about an environment is not what it is checked for
        out.print(f"{config.env.id} · {shorten(folder.path)}", highlight=False)
        findings: list[Finding] = []
        if plan.has_single:
            findings += examine(plan, steps=config.steps, seed=config.seed)
        findings += examine_vector(plan, num_envs=_VECTOR_LANES, steps=config.steps, seed=config.seed)
        out.print(findings_table(findings))
        failed = [finding for finding in findings if finding.result == "failed"]
        speeds = [] if failed else _speeds(config)
        if speeds:
            out.print(speed_table(speeds))
        status = "failed" if failed else "passed"
        results = {"status": status, "env": config.env.id, "seed": config.seed, **as_json(findings, speeds)}
        write_json(folder.summary, {**results, "wall_seconds": time.perf_counter() - start})
        out.print(f"{status}: {counts(findings)}; results in {shorten(folder.path)}", highlight=False)
        if not failed:
            out.print(advice(speeds), highlight=False, markup=False)
    if failed:
        names = "; ".join(f"{finding.check}: {finding.detail}" for finding in failed)
        raise RunFault(f"{len(failed)} of {len(findings)} checks failed ({names})")


def _speeds(config: DictConfig) -> list[Speed]:
    def open_lanes(form: str, lanes: int) -> Lanes:
        node = {**config.env, "num_envs": lanes, "vectorization": form}
        made: Lanes = build(node, expects=Lanes, trusted=list(config.trusted_packages))
        return made

    return measured(
        open_lanes,
        lanes=list(config.lanes),
        most_workers=_WORKERS_A_CORE * (os.cpu_count() or 1),
        rounds=config.rounds,
        seconds=config.seconds,
        seed=config.seed,
    )
