"""Runs that nobody trained: plausible metrics of every tag, written by the real loggers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from pgkit.loggers.csv import CSVLogger
from pgkit.loggers.tensorboard import TensorBoardLogger

RATIOS = {
    "current": 1.0,
    "zero": 9.0,
    "leave_one_out": 1.0,
    "value": 1.05,
    "optimal": 0.97,
    "gls": 0.62,
    "gae_0.95": 0.41,
    "gae_0.95_gls": 0.36,
    "total": 2.6,
}
"""Variance of every estimator over that of the one in use, about which the fabricated panel scatters."""
LAMBDAS = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)
LAYERS = ("body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias", "head.weight", "head.bias")
EVERY = 5
"""Updates between two measurements of the expensive instruments."""
Metrics = dict[str, float | None]


def fabricate(
    folder: Path,
    *,
    updates: int = 60,
    seed: int = 0,
    keep: Callable[[str], bool] = lambda tag: True,
    status: str | None = "finished",
    tensorboard: bool = True,
) -> list[Metrics]:
    """Returns the metrics of a run that it wrote to `folder`, of the tags that `keep` keeps.

    Without a `status` there is no summary: the run is going on, or was killed.
    """
    folder.mkdir(parents=True)
    rows = [{tag: value for tag, value in row.items() if keep(tag)} for row in _rows(updates, random.Random(seed))]
    tags = list(rows[0])
    loggers: list[CSVLogger | TensorBoardLogger] = [CSVLogger(folder=folder, tags=tags, axis="env_steps")]
    if tensorboard:
        loggers.append(TensorBoardLogger(folder=folder, tags=tags, axis="env_steps"))
    for logger in loggers:
        for index, row in enumerate(rows):
            logger.write(row, step=(index + 1) * 1600)
        logger.close()
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(f"- env=CartPole\n- diagnostics=full\n- seed={seed}\n")
    if status is not None:
        summary = {
            "status": status, "env": "CartPole-v1", "agent": "reinforce", "seed": seed, "updates": updates,
            "env_steps": updates * 1600, "episodes": updates * 16, "wall_seconds": 31.4, "reward_threshold": 475.0,
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
    return rows


def _rows(updates: int, draw: random.Random) -> Iterator[Metrics]:
    recent: list[float] = []
    for update in range(updates):
        progress = update / max(1, updates - 1)
        due = update % EVERY == 0
        level = 20 + 470 / (1 + math.exp(-9 * (progress - 0.45)))
        mean = min(500.0, level * draw.uniform(0.85, 1.12))
        recent = [*recent[-5:], mean]
        snr = 1.6 * math.exp(-3.4 * progress)
        variance = 40 * math.exp(2.2 * progress) * draw.uniform(0.7, 1.4)
        measured = snr * draw.uniform(0.3, 1.9) - 0.12
        row: Metrics = {
            "return/mean": mean,
            "return/mean_100": sum(recent) / len(recent),
            "return/max": min(500.0, mean * 1.4),
            "return/min": mean * 0.4,
            "episode/length": mean,
            "steps/discarded": 0.0,
            "time/steps_per_second": draw.uniform(52e3, 56e3),
            "time/diagnostics_fraction": 0.21 + 0.05 * math.exp(-6 * progress),
            "gradient/norm": math.sqrt(variance / 16),
            "gradient/norm_clipped": min(10.0, math.sqrt(variance / 16)),
            "policy/entropy": 0.69 - 0.3 * progress,
            "policy/kl": 0.004 * draw.uniform(0.5, 2),
            "baseline/explained_variance": 0.3 + 0.4 * progress,
            "gradient/per_sample_variance": variance if due else None,
            "gradient/variance_of_mean": variance / 16 if due else None,
            "gradient/snr": measured if due else None,
            "gradient/expected_cosine": 1 / math.sqrt(1 + 1 / measured) if due and measured > 0 else None,
            **_noise_scale(progress, snr),
            **_decompositions(progress, variance),
            **_critic_lag(progress),
            **_dial(variance),
            **{f"layers/{name}/snr": snr * (1.8 - 0.33 * k) - 0.08 for k, name in enumerate(LAYERS)},
            "weights/ess_fraction": draw.uniform(0.6, 0.9),
            "halves/sign_agreement": 0.5 + 0.2 * snr / (1 + snr),
            "halves/cosine": snr / (1 + snr) + draw.uniform(-0.1, 0.1),
            "scores/z_max": draw.uniform(2.4, 3.4),
            "scores/z_rms": draw.uniform(0.9, 1.1),
            "optimizer_step/bias": draw.uniform(0.1, 0.3),
            "optimizer_step/cosine": draw.uniform(0.7, 0.95),
            "optimizer_step/noise": draw.uniform(0.4, 0.8),
        }
        for name, ratio in RATIOS.items():
            row |= _panel_row(name, ratio, snr, variance, due, wide=3 / math.sqrt(1 + update), draw=draw)
        yield row if due else {tag: None if _seldom(tag) else value for tag, value in row.items()}


def _seldom(tag: str) -> bool:
    always = ("return/", "episode/", "steps/", "time/", "policy/", "baseline/", "gradient/norm", "weights/")
    return not tag.startswith(always)


def _panel_row(
    name: str, ratio: float, snr: float, variance: float, due: bool, *, wide: float, draw: random.Random
) -> Metrics:
    point = ratio * math.exp(draw.gauss(0, 0.06)) if name != "current" else 1.0
    low, high = (point * math.exp(sign * 0.35 * wide) for sign in (-1, 1))
    if name == "current":
        low = high = 1.0
    pooled, known = snr / ratio, wide < 1.3
    values = {
        "variance_ratio": point,
        "variance_ratio_low": low if known else None,
        "variance_ratio_high": high if known else None,
        "variance_of_mean": variance / 16 * point,
        "per_sample_variance": variance * point,
        "snr": pooled,
        "snr_low": pooled - 0.15 * (1 + pooled) if known else None,
        "snr_high": pooled + 0.2 * (1 + pooled) if known else None,
        "cosine": 1.0 if name == "current" else draw.uniform(0.85, 0.99),
    }
    return {f"panel/{name}/{quantity}": value for quantity, value in values.items()}


def _noise_scale(progress: float, snr: float) -> Metrics:
    scale = 16 / snr
    return {
        "noise_scale/trajectories": scale,
        "noise_scale/trajectories_low": scale / (1.4 + 0.4 * (1 - progress)),
        "noise_scale/trajectories_high": scale * (1.6 + 0.6 * (1 - progress)),
        "noise_scale/batch_fraction": 16 / scale,
    }


def _decompositions(progress: float, variance: float) -> Metrics:
    parts = {"trajectory": 0.5 + 0.2 * progress, "action": 0.4 - 0.25 * progress, "state": 0.1 + 0.05 * progress}
    whole = {"transition": 0.02, "action": 0.9, "start": 0.08}
    return {
        **{f"step_decomposition/{name}": share * variance / 50 for name, share in parts.items()},
        "step_decomposition/total": variance / 50,
        "step_decomposition/removable_fraction": parts["action"] * 0.8,
        **{f"trajectory_decomposition/{name}": share * variance for name, share in whole.items()},
        "trajectory_decomposition/total": variance,
        "trajectory_decomposition/removable_fraction": 0.35,
    }


def _critic_lag(progress: float) -> Metrics:
    ratios = {"value_ratio": 1.4 - 0.45 * progress, "corrected_ratio": 0.6 + 0.2 * progress}
    return {
        f"critic_lag/{name}{end}": ratio * factor
        for name, ratio in ratios.items()
        for end, factor in (("", 1.0), ("_low", 0.85), ("_high", 1.2))
    }


def _dial(variance: float) -> Metrics:
    metrics: Metrics = {}
    for lam in LAMBDAS:
        bias, noise = variance / 16 * 1.2 * (1 - lam) ** 1.5, variance / 16 * (0.15 + 0.85 * lam**4)
        parts = {"mean_squared_error": bias + noise, "bias_squared": bias, "variance_of_mean": noise}
        metrics |= {f"dial/lambda_{lam:g}/{part}": value for part, value in parts.items()}
    errors = {lam: metrics[f"dial/lambda_{lam:g}/mean_squared_error"] or 0.0 for lam in LAMBDAS}
    clips, windows = (
        (("clip_current", 0.0, 1.0), ("clip_2", 0.1, 0.5)),
        (("window_1", 0.0, 2.0), ("window_2", 0.1, 1.2)),
    )
    for name, bias, noise in (*clips, *windows):
        parts = {"mean_squared_error": bias + noise, "bias_squared": bias, "variance_of_mean": noise}
        metrics |= {f"dial/{name}/{part}": value * variance / 16 for part, value in parts.items()}
    best = min(LAMBDAS, key=lambda lam: errors[lam])
    return metrics | {"dial/best_lambda": best, "dial/best_clip": 2.0, "dial/best_window": 2.0}
