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
            ("signal-to-noise ratio, debiased", ("gradient/snr",)),
            ("variance: one sample, mean of the batch", ("gradient/per_sample_variance", "gradient/variance_of_mean")),
            ("norm: before clipping, after", ("gradient/norm", "gradient/clipped_norm")),
            ("explained variance of the baseline", ("baseline/explained_variance",)),
            ("KL from the policy before the update (nats)", ("policy/kl",)),
            ("entropy of the policy (nats)", ("policy/entropy",)),
        ),
    ),
    (
        "Return",
        (
            ("mean of the last 100 training episodes", ("return/mean_100",)),
            ("mean of the batch", ("return/mean",)),
        ),
    ),
)
LAST = "time"


def custom_scalars_layout(tags: Sequence[str]) -> layout_pb2.Layout:
    """Returns the layout of `tags`: Gradient, Return, one section for every further area, Time; no chart is empty.

    A tag that is not named above gets a chart of its own in the section of its area (the part before `/`).
    """
    sections: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    placed: set[str] = set()
    for name, charts in FIRST:
        for title, wanted in charts:
            if present := tuple(tag for tag in wanted if tag in tags):
                sections.setdefault(name, []).append((title, present))
                placed.update(present)
    for tag in sorted((tag for tag in tags if tag not in placed), key=lambda tag: tag.startswith(f"{LAST}/")):
        area, _, quantity = tag.rpartition("/")
        sections.setdefault(area.capitalize() or "Other", []).append((quantity.replace("_", " "), (tag,)))
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=name, chart=[_chart(title, wanted) for title, wanted in charts])
            for name, charts in sections.items()
        ]
    )


def _chart(title: str, tags: tuple[str, ...]) -> layout_pb2.Chart:
    """Returns a line chart; TensorBoard reads tags as regular expressions, so they are quoted and anchored."""
    patterns = [f"^{re.escape(tag)}$" for tag in tags]
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=patterns))
