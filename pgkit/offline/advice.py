"""Whether to trust the estimates, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from pgkit.core.off_policy_value import MissingMass
from pgkit.offline.estimates import Estimate

_PREFERRED = (
    "weighted_doubly_robust",
    "self_normalised_per_decision",
    "doubly_robust",
    "marginal",
    "self_normalised",
    "per_decision",
    "trajectory",
)


def doubts(line: Estimate, missing: MissingMass) -> list[str]:
    """Returns what speaks against an estimate; nothing where it can be trusted."""
    if line.value is None:
        return [line.why_not]
    if line.name == "direct_method":
        return ["its bias is that of the fitted model, which no interval shows"]
    found = []
    if missing.is_evident:
        found.append(f"the behaviour never takes what the target does with probability {missing.mass:.2g} a step")
    if line.health is not None:
        found += line.health.doubts()
    if line.low is None:
        found.append("no interval: too few episodes have any weight")
    return found


def verdict(line: Estimate, missing: MissingMass) -> str:
    """Returns `trust` or `do not trust` with the reasons."""
    reasons = doubts(line, missing)
    return "trust" if not reasons else f"do not trust: {'; '.join(reasons)}"


def conclusion(lines: Sequence[Estimate], missing: MissingMass, *, fitted: bool) -> list[str]:
    """Returns what to make of it all: one sentence, then what it rests on."""
    by_name = {line.name: line for line in lines}
    good = [name for name in _PREFERRED if name in by_name and not doubts(by_name[name], missing)]
    said = []
    if good:
        line = by_name[good[0]]
        assert line.value is not None and line.low is not None and line.high is not None
        said.append(f"Use {line.name}: {line.value:.4g} [{line.low:.4g}, {line.high:.4g}].")
    else:
        first = next((by_name[name] for name in _PREFERRED if name in by_name), lines[0])
        said.append(
            f"Trust none of these: {doubts(first, missing)[0]}. Collect data with a policy nearer to the target,"
            " or shorten the horizon with a smaller gamma."
        )
    if missing.is_evident:
        said.append(
            f"Support mismatch: at the states logged the target puts {missing.mass:.3g} ± {missing.standard_error:.2g}"
            " of its probability on actions that the behaviour never takes; every weighted estimate leaves them out."
        )
    if fitted:
        said.append("The behaviour's probabilities are those of a fitted model, not logged: no estimate is unbiased.")
    return said
