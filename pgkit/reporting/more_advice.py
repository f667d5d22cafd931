"""Sentences on what a report shows beyond the closing words of a run: courses, parts, layers."""

from __future__ import annotations

from pgkit.reporting.advice import Advice, Known, names_in
from pgkit.reporting.words import listed, percent, short

STEP = ("trajectory", "action", "state")
WHOLE = ("transition", "action", "start")
KNOBS = {"lambda": "returns.lam", "clip": "weights.truncate", "window": "reuse.batches"}
"""What the dials judge, and the key that sets it."""
WORTH = 0.3
"""Effective share of a batch below which keeping it costs more noise than it has data."""
TRUSTED = 0.7
"""The Pareto k up to which means of weights converge at a useful rate."""


def outcome(metrics: Known, *, half_way: Known) -> Advice | None:
    """Returns where the return stands against where it stood half-way through the run."""
    tag = next((tag for tag in ("return/mean_100", "objective/value") if metrics.get(tag) is not None), None)
    if tag is None:
        return None
    now, before = metrics[tag], half_way.get(tag)
    assert now is not None
    said = f"{'The mean of the last 100 episodes' if tag.startswith('return') else 'The objective'} is {short(now)}"
    if before is not None:
        said += f", against {short(before)} half-way through"
    return Advice(f"{said}; one run is one draw, so compare settings over several seeds.")


def decomposition(metrics: Known) -> Advice | None:
    """Returns where the variance comes from, and what of it a baseline could still remove."""
    for area, parts, words in (
        ("step_decomposition", STEP, ("what follows the action", "the choice of the action", "the state")),
        ("trajectory_decomposition", WHOLE, ("transitions", "actions", "the first state")),
    ):
        values = [metrics.get(f"{area}/{part}") for part in parts]
        total, removable = metrics.get(f"{area}/total"), metrics.get(f"{area}/removable_fraction")
        known = [(word, value) for word, value in zip(words, values, strict=True) if value is not None]
        if not known or total is None or total <= 0:
            continue
        unit = "one step's term" if area.startswith("step") else "a trajectory's gradient"
        said = listed([f"{percent(value / total)} from {word}" for word, value in known])
        unresolved = " (a part below 0 is not resolved)" if any(value < -0.005 * total for _, value in known) else ""
        if removable is None:
            return Advice(
                f"The variance of {unit} comes to {said}{unresolved}; whether a baseline can remove it is open."
            )
        following = (
            "a better baseline is worth a try, such as baseline=gls or more critic.steps"
            if removable >= 0.2
            else "leave the baseline and look at λ or at the batch instead"
        )
        return Advice(
            f"The variance of {unit} comes to {said}{unresolved}; a perfect baseline would still remove "
            f"{percent(removable)} of it, so {following}."
        )
    return None


def dial(metrics: Known) -> Advice | None:
    """Returns the λ, clip and window of least error, and how much their rank is worth."""
    names = names_in(metrics, "dial", "mean_squared_error")
    knobs = [knob for knob in KNOBS if any(name.startswith(f"{knob}_") for name in names)]
    if not knobs:
        return None
    best = {knob: value for knob in knobs if (value := metrics.get(f"dial/best_{knob}")) is not None}
    if not best:
        word = "λ" if knobs[0] == "lambda" else knobs[0]
        return Advice(f"Unresolved: too few trajectories are pooled to call a {word} best; read the dial again later.")
    places, settings = [], []
    for knob, value in best.items():
        name = f"{knob}_{value:g}" if knob != "clip" or value else "clip_current"
        error, bias = (metrics.get(f"dial/{name}/{part}") for part in ("mean_squared_error", "bias_squared"))
        share = f", {percent(bias / error)} of it squared bias" if error and bias is not None else ""
        height = "" if error is None else f" ({short(error)}{share})"
        places.append(f"{_place(knob, value)}{height}")
        largest = max(
            float(each.removeprefix("window_")) for each in [*names, "window_0"] if each.startswith("window_")
        )
        # The weights as they are, and all batches: nothing to set.
        if knob == "lambda" or (knob == "clip" and value) or (knob == "window" and value < largest):
            settings.append("reuse=none" if knob == "window" and value == 1 else f"{KNOBS[knob]}={value:g}")
    stays = f" and set {listed(settings)} only where that stays best" if settings else ""
    shrunk = (
        ", bear in mind that a clip lowers the error of any noisy gradient by shrinking it," if best.get("clip") else ""
    )
    return Advice(
        f"The estimated squared error is least {listed(places)}, but no interval stands behind the order, so "
        f"take neighbours of like height for equal{shrunk}{stays}."
    )


def _place(knob: str, value: float) -> str:
    if knob == "lambda":
        return f"at λ = {value:g}"
    if knob == "clip":
        return f"with weights cut at {value:g}" if value else "with the weights as they are"
    return "with the newest batch alone" if value == 1 else f"with the newest {value:g} batches"


def layers(metrics: Known) -> Advice | None:
    """Returns which layers have signal and which are not resolved."""
    ratios = {name: metrics[f"layers/{name}/snr"] or 0.0 for name in names_in(metrics, "layers", "snr")}
    if not ratios:
        return None
    top, bottom = max(ratios, key=lambda name: ratios[name]), min(ratios, key=lambda name: ratios[name])
    lost = [name for name, ratio in ratios.items() if ratio <= 0]
    said = f"{top} has the most signal for its noise ({short(ratios[top])}) and {bottom} the least"
    if lost:
        count = f"{len(lost)} of {len(ratios)} {'is' if len(lost) == 1 else 'are'} at or below 0, hence unresolved"
        said += f" ({short(ratios[bottom])}); {count}"
        return Advice(f"{said}: read a layer's level over many measurements before changing anything for its sake.")
    return Advice(
        f"{said} ({short(ratios[bottom])}); single layers scatter more than their sum, so read levels, not points."
    )


def weights(metrics: Known) -> Advice | None:
    """Returns how much of a reweighted batch counts, and how long a batch is worth keeping."""
    share, lags = metrics.get("weights/ess_fraction"), _lags(metrics)
    if share is None and not lags:
        return None
    said = "" if share is None else f"Under the importance weights the batch counts for {percent(share)} of its size"
    if lags:
        worth = listed([f"{percent(value)} at lag {lag}" for lag, value in lags.items()])
        said += f"; by itself an old batch is worth {worth}" if said else f"By itself an old batch is worth {worth}"
    missing, tail = metrics.get("weights/missing_mass"), metrics.get("weights/pareto_k")
    if metrics.get("weights/alarm") and missing is not None and missing > 0.1:
        return Advice(
            f"{said}; the mean weight is {short(1 - missing)} where it should be 1, so the policy goes where the data "
            "do not: put data of its own into the mixture, and do not trust the estimate before.", 3
        )  # fmt: skip
    spent = [lag for lag, value in lags.items() if value < WORTH]
    if spent and (share is None or share < 0.5 or spent[0] > 1):
        following = "reuse=none, or smaller steps" if spent[0] == 1 else f"reuse.batches={spent[0]}"
        return Advice(f"{said}; try {following}: what is older hardly adds data.", 1)
    if tail is not None and tail > TRUSTED:
        return Advice(
            f"{said}; a few weights carry the estimate (Pareto k {short(tail)}, trusted to 0.7), so its error bars are "
            "too short: take smaller steps or fewer batches.", 2
        )  # fmt: skip
    if share is not None and share < WORTH:
        return Advice(f"{said}; most of it is wasted: take smaller steps, fewer batches or weights=balance.", 1)
    return Advice(f"{said}; nothing to do.")


def _lags(metrics: Known) -> dict[int, float]:
    """Returns the effective share of the batches of every lag that is known, the newest first."""
    found = {name: metrics[f"weights/{name}/ess_fraction"] for name in names_in(metrics, "weights", "ess_fraction")}
    lags = {int(name.removeprefix("lag_")): value for name, value in found.items() if name.startswith("lag_")}
    return {lag: value for lag, value in sorted(lags.items()) if value is not None}
