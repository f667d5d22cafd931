"""A convolutional policy on pictures: the same instruments, by the general path."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pgkit.assemble import Parts, assemble
from pgkit.config import check, compose
from pgkit.core import scores as scores_module
from pgkit.core.persample import factors_into_layers
from pgkit.core.scores import Scores
from pgkit.diagnostics.gradients import gradients_in_use
from pgkit.diagnostics.variance import GradientVariance
from pgkit.run.interrupts import Interrupts
from pgkit.run.seeds import draw_seeds
from pgkit.snapshot import Snapshot
from pgkit.train import learn
from pgkit.types import Metrics
from tests.end_to_end.runs import equal, journal_of

pytestmark = pytest.mark.equivalence

NODE = "_target_: tests.images.ConvolutionalPolicy\nchannels: 3\n"
TYPED = ("env=gym", "env.id=tests.images:Glimpse-v0", "policy=pictures", "trusted_packages=[tests]")
INSTRUMENTS = (
    "policy", "variance", "baseline", "panel", "halves", "layers", "noise_scale", "scores", "optimizer_step", "fisher"
)  # fmt: skip


class Keeping:
    """An instrument that keeps what the others said and the snapshot that they saw."""

    tags, every, needs_preview = (), 1, True

    def __init__(self, parts: Parts) -> None:
        self.others = list(parts.diagnostics.values())
        self.said: list[Metrics] = []

    def measure(self, snapshot: Snapshot) -> Metrics:
        self.snapshot = snapshot
        self.said.append({tag: value for each in self.others for tag, value in each.measure(snapshot).items()})
        return {}


def trained(folder: Path, *typed: str, kept: bool = True) -> tuple[Parts, Keeping]:
    """Returns the parts after a few updates, and what the instruments said."""
    (folder / "policy").mkdir(exist_ok=True)
    (folder / "policy" / "pictures.yaml").write_text(NODE)
    composed = compose("train", [*TYPED, *typed], config_dirs=(folder,))
    config = check(composed, trusted=("tests",))
    parts = assemble(config)
    keeping = Keeping(parts)
    parts.collector.start(draw_seeds(parts.streams.environments, parts.lanes.num_lanes))
    watched = replace(parts, diagnostics={"keeping": keeping} if kept else {})
    try:
        learn(watched, journal_of(config, parts), Interrupts(), total_steps=config.total_steps)
    finally:
        parts.lanes.close()
    return parts, keeping


def one_at_a_time(snapshot: Snapshot) -> Tensor:
    """Returns the gradient of every column, `[N, P]`, a backward pass each."""
    module = snapshot.scores.module  # type: ignore[attr-defined]  # of the concrete class
    batch, rows = snapshot.trajectories, []
    for column in range(batch.num_columns):
        log_prob = module(batch.obs[:-1, column], batch.actions[:, column])  # type: ignore[call-overload]  # no dict
        total = (log_prob * snapshot.coefficients[:, column])[snapshot.factors.mask[:, column]].sum()
        gradients = torch.autograd.grad(total, list(module.parameters()))
        rows.append(torch.cat([each.flatten() for each in gradients]))
    return torch.stack(rows)


def test_every_instrument_answers_for_a_convolutional_policy(tmp_path: Path) -> None:
    parts, keeping = trained(tmp_path, f"diagnostics=[{','.join(INSTRUMENTS)}]", "total_steps=120")
    assert not factors_into_layers(parts.policy)
    assert len(keeping.said) == 3
    missing = [tag for tag, value in keeping.said[-1].items() if value is None and not tag.startswith("panel/")]
    assert set(missing) <= {"noise_scale/trajectories", "noise_scale/trajectories_low", "noise_scale/trajectories_high",
                            "noise_scale/batch_fraction", "gradient/expected_cosine"}  # fmt: skip
    assert all(value is None or math.isfinite(value) for said in keeping.said for value in said.values())
    assert "layers/features.2/snr" in keeping.said[-1]


@pytest.mark.parametrize("chunk", [1, 3000, 2**21])
def test_its_gradients_are_those_of_single_backward_passes(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, keeping = trained(tmp_path, "total_steps=40", "diagnostics=[variance]", "baseline=zero")
    seen = keeping.snapshot
    monkeypatch.setattr(scores_module, "CHUNK", chunk)
    assert isinstance(seen.scores, Scores)
    scores = Scores(seen.scores.module, seen.scores.inputs, seen.factors.mask)
    fresh = replace(seen, scores=scores)
    expected = one_at_a_time(seen)
    torch.testing.assert_close(gradients_in_use(fresh), expected, rtol=1e-4, atol=1e-5)
    variance = GradientVariance().measure(fresh)["gradient/per_sample_variance"]
    assert variance == pytest.approx(float(expected.var(dim=0).sum()), rel=1e-4)


def test_pictures_do_not_pile_up_in_memory(tmp_path: Path) -> None:
    # Every layer's outputs count, those of convolutions too: 4·4·3 twice, what is made of them, flat ones and logits.
    _, keeping = trained(tmp_path, "total_steps=40", "diagnostics=[variance]")
    assert keeping.snapshot.scores._width == 5 * 48 + 2 + 1  # type: ignore[attr-defined]  # of the concrete class


def test_instruments_change_nothing_in_a_convolutional_run(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, f"diagnostics=[{','.join(INSTRUMENTS)}]", "total_steps=120", kept=kept)[0]
        for kept in (True, False)
    ]
    assert equal(*(dict(parts.policy.state_dict()) for parts in runs))


def test_a_convolutional_policy_learns_to_look(tmp_path: Path) -> None:
    _, keeping = trained(
        tmp_path, "total_steps=5000", "optimizer.lr=0.05", "policy.channels=6", "collect.episodes=16", "env.num_envs=8",
        "diagnostics=[variance]",
    )  # fmt: skip
    assert float(keeping.snapshot.trajectories.rewards.mean()) > 0.9
