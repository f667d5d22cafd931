"""The panels of a report: which tags each has, what it draws, what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final
from xml.etree.ElementTree import Element

from pgkit.reporting import advice, drawings, formulas, more_advice
from pgkit.reporting.advice import Advice
from pgkit.reporting.formulas import Formula
from pgkit.reporting.runs import Run

Draw = Callable[[Run, Sequence[Run]], list[Element]]


@final
@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. A run has it where it measured one of `needs`; `areas` are the tags that its table holds.

    `draw` gets a run and all that have the panel, whose axes it shares; a panel drawn `together` gets it once.
    `switch` says how a run measures it; a `wide` one may have more than one figure.
    """

    key: str
    title: str
    needs: tuple[str, ...]
    areas: tuple[str, ...]
    say: Callable[[Run], Advice | None]
    draw: Draw
    formula: Formula
    switch: str = "diagnostics=full"
    together: bool = False
    wide: bool = False

    def measured(self, run: Run) -> bool:
        """Returns whether the run has anything to show here."""
        return any(tag.startswith(self.needs) for tag in run.series)

    def tags(self, run: Run) -> list[str]:
        """Returns the tags of this panel that the run measured."""
        return [tag for tag in run.series if tag.startswith(self.areas)]


def _signal(run: Run) -> Advice | None:
    # One batch is several times off either way, so what is not pooled is read at its median.
    return advice.signal({**run.latest, "gradient/snr": run.typical.get("gradient/snr")})


def _outcome(run: Run) -> Advice | None:
    half = {tag: value for tag, series in run.series.items()
            if (value := next((v for s, v in zip(series.steps, series.values, strict=True)
                               if s >= run.last_step / 2), None)) is not None}  # fmt: skip
    return more_advice.outcome(run.latest, half_way=half)


def _checks(run: Run) -> Advice | None:
    medians = {tag: value for tag, value in run.typical.items() if not tag.startswith("scores/")}
    return advice.checks({**run.latest, **medians})


CRITIC = "diagnostics=full and critic=value"
PANELS = (
    Panel(
        key="return", title="Return or objective", needs=("return/mean", "objective/value"),
        areas=("return/", "episode/", "objective/", "solution/"), say=_outcome, draw=drawings.outcome,
        formula=formulas.OUTCOME, switch="any training run", together=True,
    ),
    Panel(
        key="signal", title="Signal-to-noise ratio of the gradient", needs=("panel/current/snr", "gradient/snr"),
        areas=("gradient/", "panel/current/snr"), say=_signal, draw=drawings.signal, formula=formulas.SIGNAL,
        switch="diagnostics=economy",
    ),
    Panel(
        key="estimators", title="Variance by estimator", needs=("panel/",), areas=("panel/",),
        say=lambda run: advice.estimators(run.latest), draw=drawings.estimators, formula=formulas.ESTIMATORS,
        wide=True,
    ),
    Panel(
        key="noise-scale", title="Noise scale and batch", needs=("noise_scale/",), areas=("noise_scale/",),
        say=lambda run: advice.noise_scale({"noise_scale/": None, **run.latest}), draw=drawings.noise_scale,
        formula=formulas.NOISE_SCALE,
    ),
    Panel(
        key="critic-lag", title="Critic lag", needs=("critic_lag/",), areas=("critic_lag/",),
        say=lambda run: advice.critic_lag(run.latest), draw=drawings.critic_lag, formula=formulas.CRITIC_LAG,
        switch=CRITIC,
    ),
    Panel(
        key="decomposition", title="Where the variance comes from",
        needs=("step_decomposition/", "trajectory_decomposition/"),
        areas=("step_decomposition/", "trajectory_decomposition/"),
        say=lambda run: more_advice.decomposition(run.typical), draw=drawings.decomposition,
        formula=formulas.DECOMPOSITION, switch=CRITIC, wide=True,
    ),
    Panel(
        key="dial", title="Bias and variance by λ, clip and window", needs=("dial/",), areas=("dial/",),
        say=lambda run: more_advice.dial(run.latest), draw=drawings.dial, formula=formulas.DIAL,
        switch="diagnostics=[dial] with critic=value or on reweighted data", wide=True,
    ),
    Panel(
        key="layers", title="Signal by layer", needs=("layers/",), areas=("layers/",),
        say=lambda run: more_advice.layers(run.latest), draw=drawings.layers, formula=formulas.LAYERS,
    ),
    Panel(
        key="weights", title="Importance weights", needs=("weights/",), areas=("weights/",),
        say=lambda run: more_advice.weights(run.typical), draw=drawings.weights, formula=formulas.WEIGHTS,
        switch="diagnostics=[weights] on reweighted data", wide=True,
    ),
    Panel(
        key="checks", title="Checks", needs=("halves/", "scores/", "optimizer_step/", "truth/", "fisher/"),
        areas=("halves/", "scores/", "optimizer_step/", "truth/", "fisher/"), say=_checks, draw=drawings.checks,
        formula=formulas.CHECKS,
    ),
    Panel(
        key="time", title="Time share of the instruments", needs=("time/diagnostics_fraction",), areas=("time/",),
        say=lambda run: advice.time_share(run.latest), draw=drawings.time_share, formula=formulas.TIME,
        switch="any training run",
    ),
)  # fmt: skip
"""In the order in which they are read."""
