"""Prints how fast pgkit is, as ratios to what is measured beside it in the same run.

    python experiments/throughput/compare.py             # three rounds
    python experiments/throughput/compare.py --quick     # whether it works; no result
    python experiments/throughput/compare.py --only ppo "sb3 ppo"

Every measurement is a process of its own, one after another: A B C … A B C …, so that a machine whose speed drifts
slows all of them alike. What a process counts leaves out imports, construction and evaluation.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from time import perf_counter

from claims import Rounds, claims, ratios, spread
from contestants import ROOT, Contestant, Rates, contestants

LEAST_ROUNDS = 3
MEGABYTE = 2**20
MEMORY_BOUND = 1.5
PACKAGES = "torch numpy gymnasium mujoco stable-baselines3 sbx-rl jax tianshou torchrl"


def table(everyone: dict[str, Contestant], rounds: Rounds) -> str:
    """Returns one row a contestant, in Markdown: its rate, and its ratios to raw stepping and to PPO."""
    bases = [base for base in ("raw gymnasium", "sb3 ppo") if base in everyone]
    titles = ["what", "steps/s", *(f"/ {base}" for base in bases), *(f"/ {base}, processor time" for base in bases)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, contestant in everyone.items():
        if contestant.lanes:
            continue
        cells = [f"{name}: {contestant.what}", f"{median(rates[name].wall for rates in rounds):,.0f}"]
        beside = [ratios(rounds, name, base) for base in bases]
        cells += [spread(each[clock]) for clock in ("wall", "cpu") for each in beside]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(rounds: Rounds) -> str:
    """Returns one row a claim, in Markdown."""
    lines = ["| claim | median [least, most] | by processor time | target | holds |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(claim.row() for claim in claims(rounds))])


def scaling(everyone: dict[str, Contestant], rounds: Rounds) -> str:
    """Returns one row a number of lanes, in Markdown: rates, and memory beside the batch.

    What is beyond one lane is held to the bound; what came since the row above, beside what the batch gained, leaves
    out whatever is only loaded or allocated once.
    """
    beyond, growth = "beyond 1 lane / batch", "growth since the row above / the batch's"
    lines = [f"| lanes | steps/s | by processor time | batch, MB | peak, MB | {beyond} | target | holds | {growth} |"]
    lines.append("|---" * 9 + "|")
    names = [name for name, each in everyone.items() if each.lanes]
    for above, name in zip((None, *names), names, strict=False):
        measured = [rates[name] for rates in rounds]
        wall, cpu, peak, batch = (
            median(getattr(each, field) for each in measured) for field in ("wall", "cpu", "peak", "batch")
        )
        cells = [f"{everyone[name].lanes}", f"{wall:,.0f}", f"{cpu:,.0f}"]
        cells += [f"{batch / MEGABYTE:.2f}", f"{peak / MEGABYTE:,.0f}"]
        if above is None:
            cells += [""] * 4
        else:
            values = [(rates[name].peak - rates[names[0]].peak) / rates[name].batch for rates in rounds]
            holds = "yes" if median(values) <= MEMORY_BOUND else "**no**"
            cells += [spread(values), f"at most {MEMORY_BOUND}", holds]
            values = [gained(rates[above], rates[name]) for rates in rounds]
            cells.append(spread(values))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gained(fewer: Rates, more: Rates) -> float:
    """Returns the peak memory that more lanes take, in those of the bytes that their batch has more."""
    return (more.peak - fewer.peak) / (more.batch - fewer.batch)


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


def load() -> str:
    """Returns how busy the machine is: processes that wanted a processor in the last minute."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def versions() -> str:
    """Returns the versions of what is compared."""
    found = []
    for package in PACKAGES.split():
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return f"Python {platform.python_version()}, {platform.machine()}; {', '.join(found)}"


def choose(names: list[str] | None) -> dict[str, Contestant]:
    """Returns the contestants of these names, everyone where there are none.

    Raises: SystemExit for a name that nobody has.
    """
    everyone = contestants()
    if names is None:
        return everyone
    if unknown := set(names) - set(everyone):
        sys.exit(f"--only: {', '.join(sorted(unknown))}, expected some of {', '.join(everyone)}")
    return {name: each for name, each in everyone.items() if name in names}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="pgkit's speed as ratios to what is measured beside it.")
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS, help="times that everything is measured, in turn")
    parser.add_argument("--steps", type=int, default=80_000, help="steps of an 8-lane run; others in proportion")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these alone, e.g. ppo 'sb3 ppo'")
    parser.add_argument("--quick", action="store_true", help="one short round, to see whether it works")
    options = parser.parse_args()
    number, steps = (1, 20_000) if options.quick else (max(1, options.rounds), options.steps)

    everyone = choose(options.only)
    print(versions(), f"{load()} before", sep="\n", flush=True)
    rounds: Rounds = []
    begin = perf_counter()
    for turn in range(number):
        rounds.append({})
        for name, contestant in everyone.items():
            rates = rounds[-1][name] = contestant.run(int(steps * contestant.share))
            clocks = f"{rates.wall:,.0f} steps/s, {rates.cpu:,.0f} by processor time"
            print(f"round {turn + 1}, {name}: {clocks}, {load()}", file=sys.stderr, flush=True)
    print(f"{load()} after; {number} rounds in {perf_counter() - begin:.0f} s\n")
    if number < LEAST_ROUNDS:
        print(f"Not a result: {number} of at least {LEAST_ROUNDS} rounds. Measured:")
        print("\n".join(f"  {name}: {rates.wall:,.0f} steps/s" for name, rates in rounds[-1].items()))
        return
    print(table(everyone, rounds), verdicts(rounds), sep="\n\n")
    if "1 lanes" in everyone:
        print("", scaling(everyone, rounds), sep="\n")
    if options.only is None:
        print("", startup(number), sep="\n")


if __name__ == "__main__":
    main()
