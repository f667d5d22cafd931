"""The device that was asked for, what is moved there, and that a walk stays there, by a device that is none."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pgkit.assemble import Parts
from pgkit.core.placed import Placed
from pgkit.errors import UsageError
from pgkit.run.device import device_of, place
from tests.end_to_end.runs import configuration, train_briefly
from tests.pretend import DEVICE, pretence

WALKS = {
    "reinforce": ("agent=reinforce", "diagnostics=full"),
    "a2c": ("agent=a2c", "collect.steps=8", "diagnostics=none"),
    "trpo": ("agent=trpo", "collect.steps=64", "diagnostics=[policy]"),
    "natural": ("agent=npg", "update.solve=conjugate_gradient"),
    "several actions": ("estimator=all_action", "critic=action_value", "critic.steps=2"),
    "old batches": ("agent=rt_pg", "diagnostics=[weights,variance]"),
    "a critic's memory": (
        *("agent=ppo", "collect.steps=32", "critic=recurrent_value", "critic.steps=2", "critic.clip=0.2"),
        *("critic.normalise_observations=true", "diagnostics=none"),
    ),
    "memory": ("policy=gru", "agent=ppo", "collect.steps=32", "diagnostics=[variance,policy]"),
    "scaled": (
        "returns.scale_rewards=true",
        "policy.normalise_observations=true",
        "baseline=linear",
    ),
}


@contextlib.contextmanager
def elsewhere() -> Iterator[Counter[str]]:
    """Runs what is inside on the device that is none; yields the waits for it."""
    with pytest.MonkeyPatch.context() as patch, pretence() as waits:
        patch.setattr("pgkit.assemble.device_of", lambda name, **_: DEVICE)
        yield waits


def trained(*overrides: str) -> tuple[Parts, dict[str, torch.Tensor]]:
    """Returns the parts of a short run and the parameters that it left, on the host."""
    parts, _ = train_briefly("env=CartPole", "env.num_envs=4", "total_steps=500", *overrides)
    return parts, {name: each.cpu() for name, each in parts.policy.state_dict().items()}


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_elsewhere_gives_the_parameters_of_the_host(name: str) -> None:
    _, host = trained(*WALKS[name])
    with elsewhere():
        parts, found = trained(*WALKS[name])
        assert all(each.device == DEVICE for each in parts.policy.parameters())
    for key, each in found.items():
        torch.testing.assert_close(each, host[key], rtol=0, atol=2e-3, msg=key)  # tanh rounds otherwise there


def test_a_tensor_left_on_the_host_is_found_out() -> None:
    with pretence():
        there = torch.zeros(3).to(DEVICE)
        with pytest.raises(AssertionError, match="of the host among those of the device"):
            there + torch.zeros(3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        with pytest.raises(AssertionError, match="generator"):
            torch.rand(3, generator=torch.Generator(), device=DEVICE)


def test_waits_are_counted_where_they_happen() -> None:
    with elsewhere() as waits:
        trained("agent=reinforce", "diagnostics=none")
    assert waits and all(count > 0 for count in waits.values())
    assert any(place.startswith("policies/actor.py") for place in waits)


def test_a_gpu_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(
            UsageError, match=f"^device: {name}, but torch sees no CUDA device here, expected cpu or auto$"
        ):
            device_of(name)


def test_each_local_rank_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of("auto", local_rank=rank).index for rank in range(3)] == [0, 1, 0]
    assert device_of("cuda:1", local_rank=0) == torch.device("cuda", 1)
    with pytest.raises(
        UsageError, match=r"^device: cuda:2, but torch sees 2 CUDA devices here, expected cuda:0 to cuda:1$"
    ):
        device_of("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CUDA", "cuda:1000"])
def test_a_device_of_another_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"^device: .*, expected a string out of auto, cpu, cuda and cuda:K"):
        configuration(f"device='{name}'")


def test_nothing_is_written_where_there_is_no_gpu(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "pgkit.train", "env=CartPole", "device=cuda", f"hydra.run.dir={folder}"]
    ended = subprocess.run(command, capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""})
    assert ended.returncode == 2 and not folder.exists()
    assert ended.stderr == "pgkit: device: cuda, but torch sees no CUDA device here, expected cpu or auto\n"


def test_an_optimizer_still_holds_what_was_moved() -> None:
    with pretence():
        network = torch.nn.Linear(2, 1)
        optimizer = torch.optim.Adam(network.parameters(), fused=True)
        place({"network": network}, device=DEVICE)
        assert all(a is b for a, b in zip(network.parameters(), optimizer.param_groups[0]["params"], strict=True))
        network(torch.ones(1, 2).to(DEVICE)).sum().backward()
        before = network.weight.detach().cpu()
        optimizer.step()
        assert not torch.equal(network.weight.detach().cpu(), before)


def test_constants_are_copied_once_and_can_be_learnt_with() -> None:
    constant = Placed(torch.ones(3, dtype=torch.float64))
    like = torch.zeros(3, requires_grad=True)
    with torch.inference_mode():
        found = constant.as_of(like)
    assert found is constant.as_of(like) and found.dtype == like.dtype and constant.beside(like) is constant.value
    (found * like).sum().backward()
