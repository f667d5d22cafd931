"""The first and the last words of a run: what it is, what came of it, where things are."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DASHBOARD = "http://127.0.0.1:6006/#custom_scalars"
INCOMPLETE = "  metrics     incomplete: the disk failed while they were written"


def header_line(*, env: str, agent: str, vectorization: str, num_lanes: int, num_parameters: int, folder: Path) -> str:
    """Returns what is about to run, in one line."""
    lanes = f"{num_lanes} {vectorization} {'lane' if num_lanes == 1 else 'lanes'}"
    return f"{env} · {agent} · {lanes} · {num_parameters:,} parameters · {shorten(folder)}"


def closing_block(summary: Mapping[str, Any], folder: Path, *, advice: Sequence[str] = ()) -> str:
    """Returns the result of a run, read from its summary, what to make of it, and the one command for the dashboard."""
    steps, updates, episodes = (f"{summary[key]:,}" for key in ("env_steps", "updates", "episodes"))
    lines = [
        f"{summary['status']}: {steps} steps, {episodes} episodes, {updates} updates"
        f" in {summary['wall_seconds']:.1f} s ({summary['train_cpu_seconds']:.1f} s of processor time)",
        f"  return      {_outcome(summary)}",
        *(f"  evaluation  {evaluation_line(name, result)}" for name, result in (summary["eval"] or {}).items()),
        *(f"  {'' if index else 'advice':10}  {sentence}" for index, sentence in enumerate(advice)),
        f"  results     {shorten(folder)}",
        f"  dashboard   {dashboard_command(folder)}",
        f"              serves {DASHBOARD}, or the next free port",
    ]
    if summary["metrics_incomplete"]:
        lines.insert(-3, INCOMPLETE)
    return "\n".join(lines)


def fit_header_line(*, choices: Mapping[str, str], num_parameters: int, folder: Path) -> str:
    """Returns what is about to be fitted, in one line."""
    return f"{' · '.join(choices.values())} · {num_parameters:,} parameters · {shorten(folder)}"


def fit_closing_block(summary: Mapping[str, Any], folder: Path) -> str:
    """Returns the result of a fit, read from its summary, and the one command that opens the dashboard."""
    lines = [
        f"{summary['status']}: {summary['samples']:,} samples, {summary['updates']:,} updates"
        f" in {summary['wall_seconds']:.1f} s ({summary['fit_cpu_seconds']:.1f} s of processor time)",
        f"  objective   {_number(summary['objective'])}",
        f"  distance    {_number(summary['distance'])} from the exact answer",
        f"  target      {_target(summary)}",
        f"  results     {shorten(folder)}",
        f"  dashboard   {dashboard_command(folder)}",
        f"              serves {DASHBOARD}, or the next free port",
    ]
    if summary["metrics_incomplete"]:
        lines.insert(-3, INCOMPLETE)
    return "\n".join(line for line in lines if "–" not in line)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _target(summary: Mapping[str, Any]) -> str:
    if summary["target"] is None:
        return "–"
    reached = summary["samples_to_target"]
    return f"{summary['target']:g} " + ("not reached" if reached is None else f"reached after {reached:,} samples")


def dashboard_command(folder: Path) -> str:
    """Returns the command that serves the run on this machine alone; it can be pasted wherever the run was started."""
    # Without an activated environment the bare name would be missing, or another one's. Links are not followed: in an
    # environment the interpreter is a link out of it.
    found = shutil.which("python")
    same = found is not None and Path(found).parent.resolve() == Path(sys.executable).parent.resolve()
    program = "python" if same else shlex.quote(shorten(Path(sys.executable)))
    return f"{program} -m pgkit.dashboard {shlex.quote(shorten(folder))}"


def shorten(path: Path) -> str:
    """Returns the path relative to the working folder where it lies inside, else as it is."""
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _outcome(summary: Mapping[str, Any]) -> str:
    mean, goal = summary["return_mean_100"], summary["reward_threshold"]
    if mean is None:
        return "no finished episode"
    text = f"{mean:.1f}, mean of the last {min(100, summary['episodes'])} training episodes"
    if goal is None:
        return text
    solved = summary["solved_at_steps"]
    return f"{text}; goal {goal:g} " + ("not reached" if solved is None else f"reached at {solved:,} steps")


def evaluation_line(name: str, result: Mapping[str, Any]) -> str:
    """Returns the mean return of one way of acting, with its bootstrap interval."""
    interval = "" if result["low"] is None else f" [{result['low']:.1f}, {result['high']:.1f}]"
    return f"{name} {result['mean']:.1f}{interval}, {result['episodes']} episode{'s' * (result['episodes'] != 1)}"
