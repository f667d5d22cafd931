"""The optimizer's step: previews against real updates, bias and noise against closed forms."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgkit.baselines.batch import LeaveOneOut
from pgkit.baselines.constant import Zero
from pgkit.core.processes import BANDIT, CHAIN
from pgkit.diagnostics.gradients import gradients_in_use
from pgkit.diagnostics.optimizer_step import OptimizerStep, balanced_weights
from pgkit.run.instruments import Instruments
from pgkit.snapshot import Snapshot
from pgkit.train import learn
from pgkit.types import Metrics
from pgkit.updates.preview import Preview
from tests.diagnostics.snapshots import drawn, snapshot
from tests.end_to_end.runs import Run, equal, train
from tests.problems import Enumeration

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("float64")]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, amsgrad=True),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "sgd with momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
}


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_preview_is_the_step_that_follows_and_leaves_no_trace(name: str, steps_before: int) -> None:
    policy = Enumeration(CHAIN).policy
    optimizer, generator = OPTIMIZERS[name](policy.parameters()), torch.Generator().manual_seed(1)

    def step(gradient: Tensor) -> None:
        for p, piece in zip(policy.parameters(), gradient.split([p.numel() for p in policy.parameters()]), strict=True):
            p.grad = -piece.view_as(p)
        optimizer.step()

    gradients = torch.randn(steps_before + 3, len(flat(policy)), generator=generator)
    for gradient in gradients[:steps_before]:
        step(gradient)
    start, state = flat(policy), copy.deepcopy(optimizer.state_dict())
    preview = Preview(optimizer, max_grad_norm=1.0)
    found = [preview(gradient) for gradient in gradients[-3:]]
    assert torch.equal(preview(gradients[-3]), found[0])
    assert torch.equal(start, flat(policy)) and str(optimizer.state_dict()) == str(state)
    step(gradients[-1] * min(1.0, 1.0 / float(gradients[-1].norm())))
    torch.testing.assert_close(found[-1], flat(policy) - start, rtol=0, atol=1e-14)


def of(seen: Snapshot, preview: Callable[[Tensor], Tensor], **options: Any) -> Metrics:
    return OptimizerStep(**options).measure(replace(seen, preview=preview))


@pytest.mark.parametrize("baseline", [Zero(), LeaveOneOut()])
def test_a_linear_optimizer_has_no_bias_and_the_noise_of_its_gradient(baseline: Zero | LeaveOneOut) -> None:
    problem = Enumeration(CHAIN)
    seen = snapshot(problem, drawn(problem, 7, seed=1), baseline)
    found = of(seen, lambda gradient: 0.3 * gradient, resamples=4000)
    assert found["optimizer_step/bias"] == pytest.approx(0.0, abs=1e-12)
    gradients = gradients_in_use(seen)
    of_mean = float(gradients.var(dim=0, correction=0).sum()) / 7
    relative = (of_mean / float(gradients.mean(dim=0).square().sum())) ** 0.5
    assert found["optimizer_step/noise"] == pytest.approx(relative, rel=0.03)


def test_columns_that_are_not_measured_still_make_the_mean_steadier() -> None:
    problem = Enumeration(CHAIN)
    few = drawn(problem, 8, seed=1)
    seen = [snapshot(problem, columns, Zero()) for columns in (few, few.repeat(4))]
    noise = [of(each, lambda g: g, max_columns=8)["optimizer_step/noise"] for each in seen]
    assert noise[0] is not None and noise[1] == pytest.approx(noise[0] / 2, rel=1e-12)


def test_the_bias_of_signs_is_that_of_the_resampled_signs() -> None:
    # The first step of Adam is lr times the sign of the gradient, but for its ε.
    problem = Enumeration(CHAIN, seed=1)
    seen = snapshot(problem, drawn(problem, 6, seed=2), Zero())
    optimizer = torch.optim.Adam(problem.policy.parameters(), lr=0.01, eps=1e-14)
    found = of(seen, Preview(optimizer, max_grad_norm=None), resamples=50)
    gradients = gradients_in_use(seen)
    signs, target = (balanced_weights(50, 6) @ gradients).sign(), gradients.mean(dim=0).sign()
    length = float(target.norm())
    assert found["optimizer_step/bias"] == pytest.approx(float((signs.mean(dim=0) - target).norm()) / length, abs=1e-6)
    spread = float(signs.var(dim=0, correction=0).sum()) ** 0.5 / length
    assert found["optimizer_step/noise"] == pytest.approx(spread, abs=1e-6) and spread > 0.1
    cosine = float(torch.cosine_similarity(signs, target[None]).mean())
    assert found["optimizer_step/cosine"] == pytest.approx(cosine, abs=1e-6)


def test_clipping_shortens_the_mean_step() -> None:
    problem = Enumeration(CHAIN, seed=1)
    seen = snapshot(problem, drawn(problem, 6, seed=2), Zero())
    gradients = gradients_in_use(seen)
    limit = 0.5 * float(gradients.mean(dim=0).norm())
    optimizer = torch.optim.SGD(problem.policy.parameters(), lr=1.0)
    found = of(seen, Preview(optimizer, max_grad_norm=limit))
    means = balanced_weights(32, 6) @ gradients
    steps = means * (limit / means.norm(dim=1)).clamp(max=1.0)[:, None]
    target = limit * gradients.mean(dim=0) / gradients.mean(dim=0).norm()
    expected = float((steps.mean(dim=0) - target).norm()) / limit
    assert found["optimizer_step/bias"] == pytest.approx(expected, abs=1e-10) and expected > 0.01


def test_resampling_is_balanced_and_the_same_at_every_measurement() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    weights = balanced_weights(32, 5)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(32), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(dim=0), torch.full((5,), 32 / 5), rtol=0, atol=1e-12)
    assert torch.equal(weights, balanced_weights(32, 5)) and torch.equal(state, torch.get_rng_state())
    assert len(torch.unique(weights, dim=0)) > 20


def test_what_a_batch_cannot_answer_is_null_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    problem, instrument = Enumeration(BANDIT), OptimizerStep()
    one, equal_ones, plain = (
        snapshot(problem, torch.tensor(columns), LeaveOneOut() if len(columns) > 1 else Zero())
        for columns in ([0], [1, 1, 1, 1], [0, 1, 2])
    )
    with caplog.at_level(logging.WARNING, logger="pgkit"):
        for seen in (replace(one, preview=torch.clone), replace(equal_ones, preview=torch.clone), plain):
            assert [instrument.measure(seen) for _ in range(2)] == 2 * [dict.fromkeys(instrument.tags)]
    assert [record.getMessage().removeprefix("optimizer_step/bias is null: ") for record in caplog.records] == [
        "1 columns, and at least 2 are needed",
        "the step of the mean gradient is 0",
        "the update cannot tell its step from another gradient",
    ]


class Watching:
    """An instrument that remembers the step foretold and the step made."""

    tags, every, needs_preview = (), 2, True

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, Tensor]] = []

    def measure(self, seen: Snapshot) -> Metrics:
        assert seen.preview is not None and isinstance(seen.before, nn.Module) and isinstance(seen.policy, nn.Module)
        foretold = seen.preview(gradients_in_use(seen).mean(dim=0))
        self.steps.append((foretold, flat(seen.policy) - flat(seen.before)))
        return {}


@pytest.mark.parametrize("average", ["columns", "steps"])
def test_a_run_takes_the_steps_that_were_foretold_and_ends_where_it_did(tmp_path: Path, average: str) -> None:
    torch.set_default_dtype(torch.float32)
    typed = (
        "env=CartPole", "total_steps=1500", "evaluation.episodes=0", f"update.average={average}",
        "update.max_grad_norm=2", "optimizer.lr=0.01",
    )  # fmt: skip
    watching = Watching()

    def watched(parts: Any, *rest: Any, **keywords: Any) -> None:
        learn(replace(parts, diagnostics={"watching": watching}), *rest, **keywords)

    run: Run = train(tmp_path / "watched", *typed, through=watched)
    assert len(watching.steps) > 2
    for foretold, made in watching.steps:
        assert float((foretold - made).norm()) < 1e-3 * float(made.norm())
    plain = train(tmp_path / "plain", *typed, "diagnostics=none")
    assert equal(plain.parameters, run.parameters)


def test_only_instruments_that_ask_cost_a_copy_of_the_optimizer() -> None:
    problem = Enumeration(CHAIN)

    class Update:
        average, copies = "columns", 0

        def preview(self) -> Callable[[Tensor], Tensor]:
            self.copies += 1
            return torch.clone

    update: Any = Update()
    seen = snapshot(problem, torch.arange(3), Zero())
    for diagnostics, copies in (({"a": OptimizerStep(every=3)}, 2), ({}, 0)):
        update.copies = 0
        made = Instruments(
            diagnostics, problem.policy, estimator=seen.estimator, coupling="independent", update=update
        )  # fmt: skip
        for number in range(6):
            made.before(number, problem.policy)
        assert update.copies == copies
