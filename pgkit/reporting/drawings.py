"""The figures of every panel, for one run among others."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from pgkit.core.coverage import RATIO, SNR
from pgkit.reporting.advice import names_in
from pgkit.reporting.figures import Course, Row, courses_figure, rows_figure, stack_figure
from pgkit.reporting.more_advice import STEP, WHOLE, WORTH
from pgkit.reporting.runs import Run
from pgkit.reporting.scales import tick_label

LESS, ALIKE, MORE = 2, 8, 1
"""Colours of what a ratio amounts to."""
DIALS = {
    "lambda": ("by λ", "λ"),
    "clip": ("by the bound of the weights", "weights cut at"),
    "window": ("by the batches used", "newest batches"),
}
VERDICTS = {"less noisy": LESS, "cannot be told apart, or no interval yet (hollow)": ALIKE, "noisier": MORE}


def outcome(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns the return, or the objective of a fit, of all runs in one figure each."""
    shown = (("return/mean_100", "Mean return of the last 100 training episodes."), ("objective/value", "Objective."))
    found = []
    for tag, caption in shown:
        having = [each for each in runs if tag in each.series]
        courses = [
            Course(name=each.name, tag=tag, run=each, colour=index) for index, each in enumerate(runs) if each in having
        ]
        if courses:
            found.append(courses_figure(courses, label=f"{tag} over steps", caption=caption))
    return found


def signal(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns the pooled ratio in its interval where there is one, else the ratios of single batches."""
    tag = next(tag for tag in ("panel/current/snr", "gradient/snr") if tag in run.series)
    pooled = tag.startswith("panel/")
    bounded = f"{tag}_low" in run.series
    caption = (
        f"Pooled over the last measurements, in its interval, which covers {SNR.short} as measured; shaded: "
        "unresolved, as the interval reaches 0 or below."
        if bounded
        else "Pooled over the last measurements; no interval yet, as too few trajectories are pooled."
        if pooled
        else "One mark a measured batch, without an interval: read its level, never one point."
    )
    beside = [Course(name=each.name, tag=tag, run=each, colour=0) for each in runs]
    own = [Course(name="snr", tag=tag, run=run, colour=0)]
    label = "signal-to-noise ratio over steps"
    return [
        courses_figure(
            own, label=label, caption=caption, beside=beside, kind="symlog", levels=(0.0,), shaded=pooled
        )
    ]  # fmt: skip


def estimators(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns the last pooled ratio of every estimator in its interval, and their courses."""
    rows = _ratios(run)
    # An estimator has one colour in all runs, whatever else they measured.
    names = list(dict.fromkeys(name for each in runs for name in names_in(each.latest, "panel", "variance_ratio")))
    label = "variance over that of the estimator in use"
    return [
        rows_figure(
            rows, label=label, level=1.0, kind="log", names=VERDICTS,
            beside=[row for each in runs for row in _ratios(each)],
            caption=f"The last pooled window: a dot in its {RATIO.short} interval. At 1: the estimator in use.",
        ),
        courses_figure(
            _panel_courses(run, names), label=f"{label}, over steps", kind="log", levels=(1.0,),
            beside=[course for each in runs for course in _panel_courses(each, names)],
            caption="The same ratios over time, without their intervals.",
        ),
    ]  # fmt: skip


def noise_scale(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns the noise scale in its interval, beside the batch."""

    def courses(of: Run) -> list[Course]:
        scale, share = "noise_scale/trajectories", "noise_scale/batch_fraction"
        return [
            Course(name="noise scale", tag=scale, run=of, colour=0),
            Course(name="batch", tag=share, run=of, colour=1, factor=scale),
        ]

    everything = [course for each in runs for course in courses(each)]
    caption = (
        f"Trajectories; the band is an interval, which covers {SNR.short} as measured. Where the batch lies above it, "
        "samples are likely wasted."
        if "noise_scale/trajectories_low" in run.series
        else "Trajectories; no interval yet, as too few are pooled."
    )
    label = "noise scale and batch over steps"
    return [courses_figure(courses(run), label=label, caption=caption, beside=everything, kind="log")]


def decomposition(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns the shares of the parts at every measurement, of one step's term and of whole trajectories."""
    found = []
    for area, parts, words in (
        ("step_decomposition", STEP, ("after the action", "action", "state")),
        ("trajectory_decomposition", WHOLE, ("transitions", "actions", "start")),
    ):
        columns = [run.series.get(f"{area}/{part}") for part in parts]
        known = [dict(zip(each.steps, each.values, strict=True)) if each else {} for each in columns]
        steps = sorted(set.intersection(*(set(each) for each in known)))
        if not steps:
            continue
        stacks = []
        for step in steps[:: -(-len(steps) // 40)]:
            values = [max(0.0, each[step]) for each in known]
            total = sum(values) or 1.0
            shares = [(f"{area}/{part}", value / total) for part, value in zip(parts, values, strict=True)]
            stacks.append((tick_label(float(f"{step:.3g}")), shares))
        unit = "one step's term" if area.startswith("step") else "a trajectory's gradient"
        caption = f"Shares of the variance of {unit}; parts estimated below 0 are drawn as nothing."
        axis = "samples" if run.axis == "samples" else "environment steps"
        found.append(stack_figure(stacks, names=words, label=caption, caption=caption, x_label=axis, top=1.0))
    return found


def critic_lag(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns both ratios in their intervals."""

    def courses(of: Run) -> list[Course]:
        pairs = (("critic over leave-one-out", "value_ratio"), ("corrected critic over critic", "corrected_ratio"))
        return [
            Course(name=name, tag=f"critic_lag/{tag}", run=of, colour=colour)
            for colour, (name, tag) in enumerate(pairs)
        ]

    everything = [course for each in runs for course in courses(each)]
    caption = f"Ratios of the variance of the mean, pooled, in their {RATIO.short} intervals. Below 1: less noisy."
    label = "critic lag over steps"
    own = courses(run)
    return [courses_figure(own, label=label, caption=caption, beside=everything, kind="log", levels=(1.0,))]


def dial(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns squared bias and variance, stacked: by λ, by clip of the weights, by window of batches."""
    latest, figures = run.latest, []
    for knob, (way, axis) in DIALS.items():
        prefix, stacks = f"{knob}_", []
        for name in names_in(latest, "dial", "mean_squared_error"):
            if name.startswith(prefix):
                tags = [f"dial/{name}/{part}" for part in ("bias_squared", "variance_of_mean")]
                setting = "in use" if name == "clip_current" else name.removeprefix(prefix)
                stacks.append((setting, [(tag, latest.get(tag) or 0.0) for tag in tags]))
        best, label = latest.get(f"dial/best_{knob}"), f"squared error of the gradient {way}"
        if stacks:
            chosen = None if best is None else "in use" if knob == "clip" and not best else f"{best:g}"
            figures.append(
                stack_figure(
                    stacks, names=("squared bias", "variance of the mean"), label=label, x_label=axis, chosen=chosen,
                    caption=f"The height is the {label}{'.' if chosen is None else '; its least is bold.'}",
                )
            )  # fmt: skip
    return figures


def layers(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns the last pooled ratio of every layer."""

    def rows(of: Run) -> list[Row]:
        latest = of.latest
        tags = {name: f"layers/{name}/snr" for name in names_in(latest, "layers", "snr")}
        return [Row(name=name, tag=tag, point=latest[tag] or 0.0) for name, tag in tags.items()]

    caption = "Every layer, pooled over the last measurements, without an interval; at 0 or below: unresolved."
    beside = [row for each in runs for row in rows(each)]
    own = rows(run)
    return [rows_figure(own, label="signal-to-noise ratio", caption=caption, level=0.0, beside=beside, kind="symlog")]


def weights(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns the effective share of the batch and of old ones by themselves, and the course of prefixes."""
    names = names_in(run.latest, "weights", "ess_fraction")
    ages = {"": "all, by the weights in use"} | {
        name: f"collected {name.removeprefix('lag_')} update{'s' * (name != 'lag_1')} ago"
        for name in names
        if name.startswith("lag_")
    }
    prefixes = {name: f"first {name.removeprefix('time_')} %" for name in names if name.startswith("time_")}
    figures = []
    for label, members in (("of batches, by age", ages), ("of prefixes, by share of the longest episode", prefixes)):
        tags = {word: f"weights/{name}/ess_fraction".replace("//", "/") for name, word in members.items()}
        own = [
            Course(name=word, tag=tag, run=run, colour=index)
            for index, (word, tag) in enumerate(tags.items())
            if tag in run.series
        ]
        if own:
            title = f"effective share {label}"
            caption = f"The {title}; 1: every trajectory counts, below {WORTH}: hardly worth keeping."
            figures.append(courses_figure(own, label=title, caption=caption, low=0, high=1, levels=(WORTH,)))
    return figures


def checks(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns the cosines that were measured."""
    tags = {
        "halves of a batch": "halves/cosine",
        "exact gradient": "truth/cosine",
        "optimizer": "optimizer_step/cosine",
    }
    own = [
        Course(name=name, tag=tag, run=run, colour=index)
        for index, (name, tag) in enumerate(tags.items())
        if tag in run.series
    ]
    caption = "Cosines over time; 1: the same direction, 0: none in common."
    return [courses_figure(own, label="cosines", caption=caption, levels=(0.0,), high=1.0)] if own else []


def time_share(run: Run, runs: Sequence[Run]) -> list[Element]:
    """Returns what the instruments took since the start."""
    tag = "time/diagnostics_fraction"
    own = [Course(name="instruments", tag=tag, run=run, colour=0)]
    beside = [Course(name=each.name, tag=tag, run=each, colour=0) for each in runs]
    caption = "Share of training time since the start; the lines are the budgets of economy, 0.1, and full, 0.25."
    return [courses_figure(own, label="share", caption=caption, beside=beside, levels=(0.1, 0.25), low=0.0)]


def _ratios(run: Run) -> list[Row]:
    """Returns one row an estimator but the one in use, the least noisy first."""
    latest, rows = run.latest, []
    for name in names_in(latest, "panel", "variance_ratio"):
        tag = f"panel/{name}/variance_ratio"
        point, low, high = (latest.get(f"{tag}{end}") for end in ("", "_low", "_high"))
        if name == "current" or point is None or point <= 0:
            continue
        colour = LESS if high is not None and high < 1 else MORE if low is not None and low > 1 else ALIKE
        rows.append(Row(name=name, tag=tag, point=point, low=low, high=high, colour=colour))
    return sorted(rows, key=lambda row: row.point)


def _panel_courses(run: Run, names: Sequence[str]) -> list[Course]:
    others = [name for name in names if name != "current"]
    return [
        Course(name=name, tag=f"panel/{name}/variance_ratio", run=run, colour=index, banded=False)
        for index, name in enumerate(others)
        if f"panel/{name}/variance_ratio" in run.series
    ]
