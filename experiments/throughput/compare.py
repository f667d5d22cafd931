"""Prints how fast pgkit is, as ratios to what is measured beside it in the same run.

    python experiments/throughput/compare.py             # three rounds
    python experiments/throughput/compare.py --quick     # whether it works; no result

Every measurement is a process of its own, one after another: A B C … A B C …, so that a machine whose speed drifts
slows all of them alike. What a process counts leaves out imports, construction and evaluation.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

LEAST_ROUNDS = 3
ROOT = Path(__file__).resolve().parents[2]
RIVALS = Path(__file__).with_name("rivals.py")
CARTPOLE = ("env=CartPole", "evaluation.episodes=0")
SLABS = (*CARTPOLE, "collect=steps", "returns.cut=zero", "baseline=zero")
WIDE = ("env.num_envs=1024", "env.vectorization=vector_entry_point", "collect.steps=64")


class Rates(NamedTuple):
    """Environment steps per wall second and per processor second, and the share that diagnostics say they took."""

    wall: float
    cpu: float
    diagnostics: float | None = None


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Something with a rate: `run(steps)` measures it once."""

    name: str
    what: str
    run: Callable[[int], Rates]
    share: float
    """Steps for each of those that `--steps` gives, so that all take a like time."""


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
    """Returns the measurement of a function in `rivals.py`."""

    def run(steps: int) -> Rates:
        return Rates(**json.loads(call(sys.executable, str(RIVALS), name, str(steps)).splitlines()[-1]))

    return run


def contestants() -> dict[str, Contestant]:
    """Returns all that is measured, in the order of a round."""
    everyone = [
        Contestant(name="raw lanes", what="pgkit's Lanes alone, random actions", run=rival("raw_lanes"), share=2),
        Contestant(name="raw gymnasium", what="gymnasium.make_vec alone", run=rival("raw_gymnasium"), share=2),
        Contestant(
            name="bare",
            what="REINFORCE 8 x 128, no diagnostics, no loggers",
            run=pgkit(*SLABS, "diagnostics=none", "logger=none"),
            share=1,
        ),
        Contestant(name="diagnosed", what="the same, default diagnostics", run=pgkit(*SLABS, "logger=none"), share=1),
        Contestant(name="whole", what="the same, default diagnostics and loggers", run=pgkit(*SLABS), share=1),
        Contestant(name="preset", what="the default preset, whole", run=pgkit(*CARTPOLE), share=1),
        Contestant(name="wide", what="REINFORCE 1024 x 64, whole", run=pgkit(*SLABS, *WIDE), share=10),
    ]
    if find_spec("stable_baselines3"):
        everyone += [
            Contestant(name="sb3 ppo", what="Stable-Baselines3 PPO, 8 x 128, 4 x 4", run=rival("sb3_ppo"), share=0.15),
            Contestant(name="sb3 a2c", what="Stable-Baselines3 A2C, 8 x 128", run=rival("sb3_a2c"), share=0.3),
        ]
    return {each.name: each for each in everyone}


def ratios(rounds: list[dict[str, Rates]], name: str, base: str, clock: str = "wall") -> list[float]:
    """Returns the ratio of two rates in each round."""
    return [getattr(rates[name], clock) / getattr(rates[base], clock) for rates in rounds]


def spread(values: list[float], digits: int = 2) -> str:
    """Returns the median with the smallest and the largest value."""
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def table(everyone: dict[str, Contestant], rounds: list[dict[str, Rates]]) -> str:
    """Returns one row a contestant, in Markdown: its rate, and its ratios to raw stepping and to PPO."""
    bases = [base for base in ("raw gymnasium", "sb3 ppo") if base in everyone]
    titles = ["what", "steps/s", *(f"/ {base}" for base in bases), *(f"/ {base}, processor time" for base in bases)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, contestant in everyone.items():
        cells = [f"{name}: {contestant.what}", f"{median(rates[name].wall for rates in rounds):,.0f}"]
        cells += [spread(ratios(rounds, name, base, clock)) for clock in ("wall", "cpu") for base in bases]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A value in each round, by the wall clock and by the processor's, and the bound that it is held to."""

    name: str
    wall: list[float]
    cpu: list[float]
    bound: float
    at_least: bool

    def row(self) -> str:
        """Returns it as a row of a Markdown table; the wall clock decides."""
        holds = median(self.wall) >= self.bound if self.at_least else median(self.wall) <= self.bound
        words = "at least" if self.at_least else "at most"
        cpu = spread(self.cpu) if self.cpu else ""
        return (
            f"| {self.name} | {spread(self.wall)} | {cpu} | {words} {self.bound:g} | {'yes' if holds else '**no**'} |"
        )


def claims(everyone: dict[str, Contestant], rounds: list[dict[str, Rates]]) -> list[Claim]:
    """Returns what pgkit asks of itself."""

    def ratio(name: str, base: str, bound: float) -> Claim:
        wall, cpu = (ratios(rounds, name, base, clock) for clock in ("wall", "cpu"))
        return Claim(name=f"{name} / {base}", wall=wall, cpu=cpu, bound=bound, at_least=True)

    found = [ratio(name, base, 0.5) for name in ("bare", "whole") for base in ("raw lanes", "raw gymnasium")]
    if "sb3 ppo" in everyone:
        found.append(ratio("wide", "sb3 ppo", 40))
    for name in ("whole", "preset", "wide"):
        own = [share for rates in rounds if (share := rates[name].diagnostics) is not None]
        found.append(Claim(name=f"diagnostics' share of {name}, its own", wall=own, cpu=[], bound=0.1, at_least=False))
    wall, cpu = ([1 - ratio for ratio in ratios(rounds, "diagnosed", "bare", clock)] for clock in ("wall", "cpu"))
    return [*found, Claim(name="1 - diagnosed / bare", wall=wall, cpu=cpu, bound=0.1, at_least=False)]


def verdicts(everyone: dict[str, Contestant], rounds: list[dict[str, Rates]]) -> str:
    """Returns one row a claim, in Markdown."""
    lines = ["| claim | median [least, most] | by processor time | target | holds |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(claim.row() for claim in claims(everyone, rounds))])


def startup(repetitions: int) -> str:
    """Returns how long the entry point takes to answer, in seconds and beside a bare `import torch`."""
    asked = {
        "--help": [sys.executable, "-m", "pgkit.train", "--help"],
        "a mistyped key": [sys.executable, "-m", "pgkit.train", "evn=CartPole"],
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
    }
    times: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(repetitions):
        for name, command in asked.items():
            start = perf_counter()
            subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=120)
            times[name].append(perf_counter() - start)
    lines = ["| start-up | seconds | target |", "|---|---|---|"]
    lines += [
        f"| {name} | {spread(values)} | {'' if 'torch' in name else 'under 2'} |" for name, values in times.items()
    ]
    return "\n".join(lines)


def diagnostics_fraction(metrics: Path) -> float | None:
    """Returns the share that a run's last line of metrics names, None where it kept none."""
    if not metrics.exists():
        return None
    with metrics.open(encoding="utf-8", newline="") as file:
        *_, last = csv.DictReader(file)
    return float(last["time/diagnostics_fraction"])


def call(*command: str) -> str:
    """Returns what a command printed.

    Raises: RuntimeError with its complaint, where it failed.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def load() -> str:
    """Returns how busy the machine is: processes that wanted a processor in the last minute."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="pgkit's speed as ratios to what is measured beside it.")
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS, help="times that everything is measured, in turn")
    parser.add_argument("--steps", type=int, default=300_000, help="steps of an 8-lane run; others in proportion")
    parser.add_argument("--quick", action="store_true", help="one short round, to see whether it works")
    options = parser.parse_args()
    number, steps = (1, 20_000) if options.quick else (max(1, options.rounds), options.steps)

    everyone = contestants()
    print(f"Python {platform.python_version()}, {platform.machine()}, {load()} before", flush=True)
    rounds: list[dict[str, Rates]] = []
    for turn in range(number):
        rounds.append({})
        for name, contestant in everyone.items():
            rates = rounds[-1][name] = contestant.run(int(steps * contestant.share))
            print(f"round {turn + 1}, {name}: {rates.wall:,.0f} steps/s, {load()}", file=sys.stderr, flush=True)
    print(f"{load()} after; {number} rounds\n")
    if number < LEAST_ROUNDS:
        print(f"Not a result: {number} of at least {LEAST_ROUNDS} rounds. Measured once:")
        print("\n".join(f"  {name}: {rates.wall:,.0f} steps/s" for name, rates in rounds[-1].items()))
        return
    print(table(everyone, rounds), verdicts(everyone, rounds), startup(number), sep="\n\n")
    if "sb3 ppo" not in everyone:
        print("\nStable-Baselines3 is not installed (extra `peers`), so nothing is compared with it.")


if __name__ == "__main__":
    main()
