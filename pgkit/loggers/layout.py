"""What TensorBoard's Custom Scalars page shows, and in which order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tensorboard.plugins.custom_scalar import layout_pb2

Charts = tuple[tuple[str, tuple[str, ...]], ...]

# Colour goes by run and not by tag, so a chart holds one quantity, or two that belong on one scale.
FIRST: tuple[tuple[str, Charts], ...] = (
    (
        "Gradient",
        (
            ("Signal-to-noise ratio, debiased", ("gradient/snr",)),
            ("Variance: one sample, mean of batch", ("gradient/per_sample_variance", "gradient/variance_of_mean")),
            ("Expected cosine with the true gradient", ("gradient/expected_cosine",)),
            ("Norm: before and after clipping", ("gradient/norm", "gradient/norm_clipped")),
            ("Explained variance of the baseline", ("baseline/explained_variance",)),
            ("KL of the update (nats)", ("policy/kl",)),
            ("Entropy of the policy (nats)", ("policy/entropy",)),
        ),
    ),
    (
        "Return",
        (
            ("Mean of the last 100 training episodes", ("return/mean_100",)),
            ("Mean of the batch", ("return/mean",)),
            ("Smallest and largest of the batch", ("return/min", "return/max")),
            ("Length of an episode (steps)", ("episode/length",)),
        ),
    ),
)
LAST: tuple[tuple[str, Charts], ...] = (
    (
        "Time",
        (
            ("Environment steps per second", ("time/steps_per_second",)),
            ("Share of the instruments", ("time/diagnostics_fraction",)),
            ("Steps not used", ("steps/discarded",)),
        ),
    ),
)


def custom_scalars_layout(tags: Sequence[str]) -> layout_pb2.Layout:
    """Returns the layout of `tags`: Gradient, Return, one section for every further area, Time; no chart is empty.

    A tag that is not named above gets a chart of its own, in the section of its area (the part before the first `/`).
    """
    named = {tag for _, charts in (*FIRST, *LAST) for _, wanted in charts for tag in wanted}
    others: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for tag in tags:
        if tag not in named:
            area, _, quantity = tag.partition("/")
            others.setdefault(area.capitalize(), []).append((quantity.replace("_", " ").capitalize(), (tag,)))
    sections: dict[str, list[layout_pb2.Chart]] = {}
    for section, charts in (*FIRST, *others.items(), *LAST):
        for title, wanted in charts:
            if present := [tag for tag in wanted if tag in tags]:
                sections.setdefault(section, []).append(_chart(title, present))
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=section, chart=sections[section])
            for section in sorted(sections, key=lambda section: section == LAST[0][0])
        ]
    )


def _chart(title: str, tags: Sequence[str]) -> layout_pb2.Chart:
    """Returns a line chart; TensorBoard reads tags as regular expressions, so they are quoted and anchored."""
    patterns = [f"^{re.escape(tag)}$" for tag in tags]
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=patterns))
