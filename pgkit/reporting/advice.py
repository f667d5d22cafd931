"""One sentence on what some metrics mean and what to do next, and none that the numbers do not carry.

Every function takes metrics by tag and returns None where its tags are missing. What an interval does not resolve is
called unresolved; nothing here says that a run will learn faster, because less variance alone does not show that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from pgkit.reporting.words import interval, listed, percent, short

Known = Mapping[str, float | None]
ANOTHER_VECTOR = re.compile(r"(gae_(?!1(\.0*)?(_|$))|n_step_|total|all_action$|mean$|.*_mean$)")
"""Names of estimators whose expectation is not that of reward-to-go less a baseline: a variance ratio hides it."""
ALARMING_SCORE = 6.5
"""Standard errors of the mean score that the largest of a million parameters reaches less than once in 10,000 looks."""
WASTED = 3.0
"""Batches of that many noise scales have a gradient that hardly gets better with more samples."""


@final
@dataclass(frozen=True)
class Advice:
    """A sentence; `urgent` tells how much there is to do about it, 0: nothing."""

    sentence: str
    urgent: int = 0


def advise(metrics: Known, also: Sequence[Callable[[Known], Advice | None]] = ()) -> list[str]:
    """Returns the one to three sentences that matter most, from the last known value of every tag.

    Of what the functions in `also` say, alarms count alone.
    """
    alarms = [
        advice for function in (checks, *also, *PANELS) if (advice := function(metrics)) is not None and advice.urgent
    ]
    calm = [advice for function in (*PANELS, checks) if (advice := function(metrics)) is not None]
    ranked = sorted(alarms, key=lambda each: -each.urgent)
    return [each.sentence for each in (ranked[:3] or calm[:1])]


def signal(metrics: Known) -> Advice | None:
    """Returns whether a batch shows which way is up."""
    name = next((tag for tag in ("panel/current/snr", "gradient/snr") if metrics.get(tag) is not None), None)
    if name is None:
        return None
    ratio, low, high = _interval(metrics, name)
    said = interval(ratio, low, high)
    if low is None:
        if ratio <= 0:
            return Advice(
                f"Unresolved: the signal-to-noise ratio is {said}, which means that the batch does not show which "
                "way is up; look at its level over more measurements, or collect more a batch.", 2
            )  # fmt: skip
        pooled = any(tag.startswith("panel/") for tag in metrics)
        wanted = "pool more trajectories" if pooled else "add the panel to diagnostics"
        return Advice(
            f"The signal-to-noise ratio is about {said}, an expected cosine of {_cosine(ratio)} with the true "
            f"gradient, but it has no interval; {wanted} before choosing by it."
        )
    if low <= 0:
        return Advice(
            f"Unresolved: the interval of the signal-to-noise ratio, {said}, reaches 0 or below, so a batch does not "
            "show which way is up; pool more measurements or collect more a batch before reading anything into it.", 3
        )  # fmt: skip
    following = (
        "most of it is still noise, so a larger batch or a less noisy estimator is worth a try"
        if ratio < 0.3
        else "a larger batch raises it in proportion, at that price in samples"
        if ratio < 3
        else "a larger batch has little direction left to win"
    )
    return Advice(
        f"Resolved: the signal-to-noise ratio of a batch is {said}, an expected cosine of about {_cosine(ratio)} "
        f"with the true gradient; {following}.", 1 if ratio < 0.3 else 0
    )  # fmt: skip


def estimators(metrics: Known) -> Advice | None:
    """Returns which estimators would have been less noisy on the same batches."""
    names = [name for name in names_in(metrics, "panel", "variance_ratio") if name != "current"]
    ratios = {name: _interval(metrics, f"panel/{name}/variance_ratio") for name in names}
    # One whose interval is the number 1 is the estimator in use by its own name.
    ratios = {name: (ratio, low, high) for name, (ratio, low, high) in ratios.items()
              if low is None or high is None or high - low > 1e-6}  # fmt: skip
    if not ratios:
        return None
    known = {name: (ratio, low, high) for name, (ratio, low, high) in ratios.items() if low is not None and high}
    if not known:
        return Advice(
            "Unresolved: too few trajectories are pooled for an interval, so none of the estimators can be told apart "
            "from the one in use; read the ratios again later."
        )
    better = sorted((name for name, (_, _, high) in known.items() if high < 1), key=lambda name: known[name][0])
    same = [name for name, (_, low, high) in known.items() if low <= 1 <= high]
    worse = [name for name, (_, low, _) in known.items() if low > 1]
    if not better:
        open_ones = f"{listed(same)} cannot be told apart from it" if same else "all of them are noisier"
        noisier = f", and {listed(worse)} {'is' if len(worse) == 1 else 'are'} noisier" if same and worse else ""
        return Advice(f"None is resolved as less noisy than the estimator in use: {open_ones}{noisier}; keep it.")
    alike = [name for name in better if not ANOTHER_VECTOR.match(name)]
    others = [name for name in better if name not in alike]
    best = (alike or others)[0]
    said = f"{best} would have had {interval(*known[best])} of the variance of the estimator in use"
    if len(alike) > 1:
        said += f", and {listed(alike[1:])} less of it too"
    if not alike:
        also = f" and so would {listed(others[1:])}, all" if others[1:] else " though it is"
        said += f",{also} biased or of another vector, which this ratio does not show"
    elif others:
        said += f"; so would {listed(others)}, but biased or of another vector, which this ratio does not show"
    return Advice(f"On the same batches {said}; try {best} on several seeds, as less noise is not yet more return.", 2)


def noise_scale(metrics: Known) -> Advice | None:
    """Returns how the batch stands to the noise scale, without naming a best batch."""
    tag = "noise_scale/trajectories"
    fraction = metrics.get("noise_scale/batch_fraction")
    if metrics.get(tag) is None:
        return Advice("Unresolved: no noise scale stands out of these batches; pool more of them.") if any(
            name.startswith("noise_scale/") for name in metrics
        ) else None  # fmt: skip
    scale, low, high = _interval(metrics, tag)
    ends = f"{short(scale)}, at least {short(low)}," if low is not None and high is None else interval(scale, low, high)
    said = f"the noise scale, {ends} trajectories"
    if fraction is None or low is None:
        return Advice(f"No interval yet around {said}; do not choose a batch by it.")
    batch = f"The batch, about {fraction * scale:,.0f} trajectories,"
    if fraction * scale < low:
        return Advice(
            f"{batch} is below the interval of {said}: noise dominates each gradient and a larger batch would waste "
            "few samples, though which batch is best it does not say."
        )
    if high is None:
        return Advice(f"Unresolved: {said}, has no upper end, as the signal is not told from 0; pool more batches.")
    if fraction * scale > high and fraction >= WASTED:
        return Advice(
            f"{batch} is far above the interval of {said}: samples are likely wasted, and a smaller batch may do as "
            "well with fewer.", 1
        )  # fmt: skip
    where = "is above" if fraction * scale > high else "lies within"
    return Advice(f"{batch} {where} the interval of {said}: leave it, as which batch is best it does not say.")


def critic_lag(metrics: Known) -> Advice | None:
    """Returns whether the critic earns its place against leave-one-out, and against its own correction."""
    if metrics.get("critic_lag/value_ratio") is None:
        return None
    ratio, low, high = _interval(metrics, "critic_lag/value_ratio")
    said = f"with the critic the variance is {interval(ratio, low, high)} of that with leave-one-out"
    if low is None or high is None:
        return Advice(f"No interval yet: {said}, so the two cannot be told apart; pool more trajectories.")
    if high < 1:
        first, urgent = f"The critic earns its place: {said}", 0
    elif low > 1:
        first, urgent = f"The critic lags: {said}, which is noisier", 2
    else:
        first, urgent = f"The critic and leave-one-out cannot be told apart: {said}", 1
    corrected, _, upper = (
        _interval(metrics, "critic_lag/corrected_ratio")
        if metrics.get("critic_lag/corrected_ratio") is not None
        else (1.0, None, None)
    )
    if upper is not None and upper < 1:
        gain = f"its affine correction alone would take it to {short(corrected)} of its own, so scale or offset are off"
        return Advice(f"{first}, and {gain}; try more critic.steps a batch, or baseline=gls.", max(1, urgent))
    next_ = "keep it" if not urgent else "try more critic.steps a batch, or baseline=leave_one_out"
    return Advice(f"{first}; {next_}.", urgent)


def time_share(metrics: Known) -> Advice | None:
    """Returns what the instruments cost."""
    share = metrics.get("time/diagnostics_fraction")
    if share is None:
        return None
    said = f"The instruments took {percent(share)} of training time"
    if share <= 0.1:
        return Advice(f"{said}, within the 10 % that economy allows itself; leave them on.")
    if share <= 0.25:
        return Advice(f"{said}, within the 25 % that full allows itself; diagnostics=economy takes less.")
    return Advice(f"{said}; raise their `every`, lower max_columns, or take diagnostics=economy.", 1)


def checks(metrics: Known) -> Advice | None:
    """Returns whether what must hold by theory holds."""
    said, urgent = [], 0
    if (z := metrics.get("scores/z_max")) is not None:
        urgent = 3 if z > ALARMING_SCORE else 0
        said.append(
            f"the mean score lies {short(z)} standard errors from 0 at most"
            + (", more than chance gives, so the actions and log π do not belong together" if urgent else "")
        )
    if (cosine := metrics.get("truth/cosine")) is not None:
        said.append(f"the estimate has a cosine of {short(cosine)} with the exact gradient")
    if (cosine := metrics.get("halves/cosine")) is not None:
        said.append(f"two halves of a batch agree with a cosine of {short(cosine)}")
    if (cosine := metrics.get("optimizer_step/cosine")) is not None:
        said.append(f"the optimizer's steps have one of {short(cosine)} with the step of the mean gradient")
    if not said:
        return None
    text = listed(said)
    end = "look for the fault before reading any other panel" if urgent else "nothing to do but to watch their level"
    return Advice(f"{text[0].upper()}{text[1:]}; {end}.", urgent)


def names_in(metrics: Known, area: str, quantity: str) -> list[str]:
    """Returns every name for which `area/name/quantity` has a value, in order."""
    inside = re.compile(rf"{re.escape(area)}/(.+)/{re.escape(quantity)}")
    return [match[1] for tag, value in metrics.items() if value is not None and (match := inside.fullmatch(tag))]


def _interval(metrics: Known, tag: str) -> tuple[float, float | None, float | None]:
    point, low, high = (metrics.get(f"{tag}{end}") for end in ("", "_low", "_high"))
    assert point is not None
    return point, low, high


def _cosine(ratio: float) -> str:
    return f"{math.sqrt(max(0.0, ratio) / (1 + max(0.0, ratio))):.2f}"


PANELS = (signal, estimators, critic_lag, noise_scale, time_share)
"""What a run is spoken of in, in the order in which a reader asks."""
