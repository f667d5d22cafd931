"""What TensorBoard's Custom Scalars page shows, in which order, and under which names."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

from tensorboard.plugins.custom_scalar import layout_pb2

from pgkit.core.coverage import RATIO, SNR

SAFE = re.compile(r"\w[\w.=+-]*")
"""A name that may be a folder: nothing in it leads elsewhere."""


@final
@dataclass(frozen=True)
class Chart:
    """One chart: a title and what is drawn; with `interval` each tag's `_point` between its `_low` and its `_high`."""

    title: str
    tags: tuple[str, ...]
    interval: bool = False


Page = tuple[str, tuple[Chart, ...]]

# Colour goes by run and not by tag, so a chart holds one quantity of several sub-runs, or two that share a scale.
FIRST: tuple[Page, ...] = (
    (
        "Gradient",
        (
            Chart("Signal-to-noise ratio of the batch, debiased", ("gradient/snr",)),
            Chart("Variance: one sample, mean of batch", ("gradient/per_sample_variance", "gradient/variance_of_mean")),
            Chart("Expected cosine with the true gradient", ("gradient/expected_cosine",)),
            Chart("Norm: before and after clipping", ("gradient/norm", "gradient/norm_clipped")),
            Chart("Explained variance of the baseline", ("baseline/explained_variance",)),
            Chart("KL of the update (nats)", ("policy/kl",)),
            Chart("Entropy of the policy (nats)", ("policy/entropy",)),
        ),
    ),
    (
        "Estimators",
        (
            Chart("Variance over that of the estimator in use", ("panel/variance_ratio",)),
            Chart(f"Variance over that of the estimator in use: intervals, {RATIO.short}", ("panel/variance_ratio",),
                  interval=True),
            Chart("Signal-to-noise ratio, pooled", ("panel/snr",)),
            Chart(f"Signal-to-noise ratio, pooled: intervals, {SNR.short}", ("panel/snr",), interval=True),
            Chart("Cosine with the estimator in use", ("panel/cosine",)),
            Chart("Variance of the mean, this batch", ("panel/variance_of_mean",)),
            Chart("Variance of one trajectory, this batch", ("panel/per_sample_variance",)),
        ),
    ),
    (
        "Noise scale and batch",
        (
            Chart("Noise scale (trajectories)", ("noise_scale/trajectories",)),
            Chart(f"Noise scale (trajectories): interval, {SNR.short}", ("noise_scale/trajectories",), interval=True),
            Chart("Batch over noise scale", ("noise_scale/batch_fraction",)),
        ),
    ),
    (
        "Decomposition",
        (
            Chart("One step: after the action, action, state", tuple(f"step_decomposition/{part}" for part in
                  ("trajectory", "action", "state", "total"))),
            Chart("One step: share that a baseline could remove", ("step_decomposition/removable_fraction",)),
            Chart("A trajectory: transitions, actions, start", tuple(f"trajectory_decomposition/{part}" for part in
                  ("transition", "action", "start", "total"))),
            Chart("A trajectory: share that a baseline could remove", ("trajectory_decomposition/removable_fraction",)),
        ),
    ),
    (
        "Critic lag",
        (
            Chart("Variance: critic over leave-one-out, corrected critic over critic", (
                  "critic_lag/value_ratio", "critic_lag/corrected_ratio")),
            Chart(f"Variance: critic over leave-one-out, interval, {RATIO.short}", ("critic_lag/value_ratio",),
                  interval=True),
            Chart(f"Variance: corrected critic over critic, interval, {RATIO.short}", ("critic_lag/corrected_ratio",),
                  interval=True),
        ),
    ),
    (
        "Dial",
        (
            Chart("Mean squared error by λ, clip, window", ("dial/mean_squared_error",)),
            Chart("Squared bias by λ, clip, window", ("dial/bias_squared",)),
            Chart("Variance of the mean by λ, clip, window", ("dial/variance_of_mean",)),
            Chart("λ of least error", ("dial/best_lambda",)),
            Chart("Clip of least error (0: the weights in use)", ("dial/best_clip",)),
            Chart("Batches of least error", ("dial/best_window",)),
        ),
    ),
    (
        "Weights",
        (
            Chart("Effective share of the batch; by lag and by time", ("weights/ess_fraction",)),
            Chart("Quantiles of the log weights (nats): median, 5 and 95 %", ("weights/log_weight",), interval=True),
            Chart("Pareto k of the largest weights, trusted to 0.7", ("weights/pareto_k",)),
            Chart("Largest share of one weight", ("weights/largest_share",)),
            Chart("Perplexity over size", ("weights/perplexity_fraction",)),
            Chart("Mass that the data miss", ("weights/missing_mass",)),
            Chart("Rényi divergence of order 2 (nats)", ("weights/renyi_divergence",)),
            Chart("Weights at the bounds (steps)", ("weights/clamped",)),
            Chart("Alarm", ("weights/alarm",)),
        ),
    ),
    (
        "Return",
        (
            Chart("Mean of the last 100 training episodes", ("return/mean_100",)),
            Chart("Mean of the batch", ("return/mean",)),
            Chart("Smallest and largest of the batch", ("return/min", "return/max")),
            Chart("Length of an episode (steps)", ("episode/length",)),
        ),
    ),
)  # fmt: skip
LAST: tuple[Page, ...] = (
    (
        "Time",
        (
            Chart("Environment steps per second", ("time/steps_per_second",)),
            Chart("Share of the instruments", ("time/diagnostics_fraction",)),
            Chart("Steps not used", ("steps/discarded",)),
        ),
    ),
)


def place(tag: str) -> tuple[str, str]:
    """Returns the sub-run that a tag is written to, empty for the run's own, and its name there.

    `panel/zero/snr` is `panel/snr` of the sub-run `panel/zero`: one chart then has a colour for every estimator.
    """
    area, _, rest = tag.partition("/")
    name, _, quantity = rest.rpartition("/")
    return (f"{area}/{name}", f"{area}/{quantity}") if SAFE.fullmatch(area) and SAFE.fullmatch(name) else ("", tag)


def with_intervals(tags: Collection[str]) -> list[str]:
    """Returns those tags that have a lower and an upper end among the others."""
    known = frozenset(tags)
    return [tag for tag in tags if f"{tag}_low" in known and f"{tag}_high" in known]


def custom_scalars_layout(tags: Sequence[str]) -> layout_pb2.Layout:
    """Returns the layout of `tags`: FIRST, one page for every further area, LAST; no chart is empty.

    A tag that is not named there gets a chart of its own, on the page of its area (the part before the first `/`).
    """
    written = list(dict.fromkeys(place(tag)[1] for tag in tags))
    written += [f"{tag}_point" for tag in with_intervals(written)]
    known = frozenset(written)
    named = {tag for _, charts in (*FIRST, *LAST) for chart in charts for tag in _drawn(chart)}
    others: dict[str, list[Chart]] = {}
    for tag in written:
        if tag not in named:
            area, _, quantity = tag.partition("/")
            others.setdefault(_words(area), []).append(Chart(_words(quantity), (tag,)))
    pages: dict[str, list[layout_pb2.Chart]] = {}
    for title, charts in (*FIRST, *others.items(), *LAST):
        for chart in charts:
            present = [tag for tag in _drawn(chart) if tag in known]
            if chart.interval and len(present) == len(_drawn(chart)):
                pages.setdefault(title, []).append(_margin(chart))
            elif present:  # one end of an interval alone is a line
                pages.setdefault(title, []).append(_lines(chart.title, present))
    last = {title for title, _ in LAST}
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=pages[title]) for title in sorted(pages, key=last.__contains__)
        ]
    )


def _drawn(chart: Chart) -> list[str]:
    """Returns every tag of a chart."""
    ends = ("_point", "_low", "_high") if chart.interval else ("",)
    return [f"{tag}{end}" for tag in chart.tags for end in ends]


def _margin(chart: Chart) -> layout_pb2.Chart:
    """Returns a chart of points in their intervals; TensorBoard takes its tags as they are."""
    ends = [{"value": f"{tag}_point", "lower": f"{tag}_low", "upper": f"{tag}_high"} for tag in chart.tags]
    series = [layout_pb2.MarginChartContent.Series(**each) for each in ends]
    return layout_pb2.Chart(title=chart.title, margin=layout_pb2.MarginChartContent(series=series))


def _lines(title: str, tags: Sequence[str]) -> layout_pb2.Chart:
    """Returns a line chart; TensorBoard reads its tags as regular expressions, so they are quoted and anchored."""
    patterns = [f"^{re.escape(tag)}$" for tag in tags]
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=patterns))


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
