"""What a person sees of a check, and what a file keeps of it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import IO, Any, cast

from rich.console import Console
from rich.table import Table

from pgkit.checking.findings import Finding
from pgkit.checking.speed import Speed, best, ratios
from pgkit.run.output import Output

_WIDTH = 120
_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def console() -> Console:
    """Returns a console on standard output."""
    out = Output(sys.stdout)
    return Console(file=cast(IO[str], out), width=None if out.isatty() else _WIDTH)


def findings_table(findings: Sequence[Finding]) -> Table:
    """Returns one line a check."""
    shown = Table()
    shown.add_column("check", no_wrap=True)
    shown.add_column("result", no_wrap=True)
    shown.add_column("what was seen")
    for finding in findings:
        style = _STYLES[finding.result]
        shown.add_row(finding.check, f"[{style}]{finding.result}[/{style}]", _plain(finding.detail))
    return shown


def speed_table(speeds: Sequence[Speed]) -> Table:
    """Returns one line a form and number of lanes; ratios are taken round by round."""
    shown = Table(caption="median of the rounds, lowest and highest in brackets", caption_justify="left")
    shown.add_column("form", no_wrap=True)
    for name in ("lanes", "steps a second", "µs a step", "times sync"):
        shown.add_column(name, justify="right", no_wrap=True)
    before = None
    for speed in speeds:
        if before not in (None, speed.lanes):
            shown.add_section()
        before = speed.lanes
        if not speed.rates:
            shown.add_row(speed.form, str(speed.lanes), "–", "–", "–")
            continue
        low, high = min(speed.rates), max(speed.rates)
        times = ratios(speed, speeds)
        middle = sorted(times)[len(times) // 2] if times else None
        shown.add_row(
            speed.form,
            str(speed.lanes),
            f"{speed.rate:,.0f} [{low:,.0f}, {high:,.0f}]".replace("[", "\\["),
            f"{1e6 / speed.rate:.3g}",
            "–" if middle is None else f"{middle:.2f} [{min(times):.2f}, {max(times):.2f}]".replace("[", "\\["),
        )
    return shown


def counts(findings: Sequence[Finding]) -> str:
    """Returns how many checks came out how, in words."""
    found = Counter(finding.result for finding in findings)
    return ", ".join(f"{found[result]} {result}" for result in ("ok", "warning", "failed", "skipped") if found[result])


def advice(speeds: Sequence[Speed]) -> str:
    """Returns the settings that were fastest here, in one line."""
    chosen = best(speeds)
    if chosen is None:
        return "advice: none, nothing could be measured"
    times = ratios(chosen, speeds)
    against = f", {sorted(times)[len(times) // 2]:.2g} times sync" if times and chosen.form != "sync" else ""
    settings = f"env.vectorization={chosen.form} env.num_envs={chosen.lanes}"
    return f"advice: {settings}  ({chosen.rate:,.0f} steps/s here{against})"


def as_json(findings: Sequence[Finding], speeds: Sequence[Speed]) -> dict[str, Any]:
    """Returns findings and rates for a file."""
    chosen = best(speeds)
    return {
        "checks": [{"check": each.check, "result": each.result, "detail": each.detail} for each in findings],
        "speeds": [
            {
                "form": each.form,
                "lanes": each.lanes,
                "steps_per_second": list(each.rates),
                "reason": each.reason or None,
            }
            for each in speeds
        ],
        "advice": None if chosen is None else {"vectorization": chosen.form, "num_envs": chosen.lanes},
    }


def _plain(text: str) -> str:
    """Returns text in which rich sees no markup."""
    return text.replace("[", "\\[")
