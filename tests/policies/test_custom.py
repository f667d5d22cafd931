"""Networks of the user's own: what they get, what is asked of them, and that gradients are theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pgkit.config import build
from pgkit.core.scores import Scores
from pgkit.errors import UsageError
from pgkit.playback import load_policy
from pgkit.policies.custom import CustomPolicy
from pgkit.rl.factors import LogProbability
from tests.end_to_end.runs import configuration, train

SEEN = spaces.Box(-1, 1, (4,))
OURS = "tests.policies.user_networks"
TRUSTED = ("tests",)


def policy_of(network: str, *, actions: spaces.Space[Any] | None = None, **keys: Any) -> CustomPolicy:
    """Returns what the configuration would build, with the keywords of the network in `keys`."""
    node = {
        "_target_": "pgkit.policies.custom.CustomPolicy",
        "network": {"_target_": network, **keys},
        "init": "default",
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build(
            node,
            expects=CustomPolicy,
            trusted=TRUSTED,
            observation_space=SEEN,
            action_space=actions or spaces.Discrete(3),
        )
    assert isinstance(made, CustomPolicy)
    return made


@pytest.mark.equivalence
@pytest.mark.parametrize("network", [f"{OURS}.Gated", f"{OURS}.Pairs", "torch.nn.Identity"])
@pytest.mark.parametrize("actions", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_gradients_of_every_sample_are_autograds(network: str, actions: spaces.Space[Any]) -> None:
    policy = policy_of(network, actions=actions)
    obs = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    sampled = torch.as_tensor(policy.law.mode(policy(obs).detach().numpy()))
    coefficients = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    scores = Scores(LogProbability(policy), (obs, sampled), torch.ones(5, 3, dtype=torch.bool))
    found = scores.per_sample(coefficients)
    for column in range(3):
        terms = coefficients[:, column] * policy.log_prob(obs[:, column], sampled[:, column])
        exact = torch.autograd.grad(terms.sum(), list(policy.parameters()))
        torch.testing.assert_close(found[column], torch.cat([each.reshape(-1) for each in exact]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(policy.actor()(obs[0].numpy()), policy(obs[0]).detach().numpy(), atol=1e-6)


def test_a_network_gets_its_keywords_and_what_it_names() -> None:
    assert policy_of(f"{OURS}.Gated", width=5).network[1].in_features == 5
    assert policy_of(f"{OURS}.Pairs").network[1].in_features == 6
    assert policy_of("torch.nn.LazyLinear", out_features=7).network[1].in_features == 7


@pytest.mark.parametrize(
    ("network", "keys", "words"),
    [
        (f"{OURS}.Gated", {"wdth": 3}, "policy.network: tests.policies.user_networks.Gated refuses its keys: "),
        (f"{OURS}.Ties", {}, "policy.network: Ties ties rows together or draws at random, expected row by row"),
        ("torch.nn.Dropout", {}, "policy.network: Dropout ties rows together or draws at random, expected row by row"),
        (f"{OURS}.Column", {}, "policy.network: Column maps [3, 4] to [3], expected [3, F]"),
        (f"{OURS}.NoModule", {}, "policy.network: NoModule, expected a torch.nn.Module"),
        (
            "torch.nn.Linear",
            {"in_features": 5, "out_features": 2},
            "policy.network: Linear on [3, 4], expected [3, F] (",
        ),
        (
            "torch.nn.functional.relu",
            {},
            "policy.network: torch.nn.functional.relu is no class of torch's own, expected",
        ),
        (
            "os.system",
            {},
            "policy.network: os.system, expected a class of pgkit, torch.optim, torch.nn or a trusted pa",
        ),
        (
            "torch.nn.Identity",
            {"_partial_": True},
            "policy: _partial_ inside pgkit.policies.custom.CustomPolicy, expect",
        ),
        (
            "torch.nn.Identity",
            {"a": {"_target_": "os.system"}},
            "policy: _target_ inside pgkit.policies.custom.CustomPol",
        ),
    ],
)
def test_what_is_no_network_is_refused_by_name(network: str, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        policy_of(network, **keys)
    said = str(caught.value).replace("_target_.network: ", "policy.network: ").replace("_target_: ", "policy: ", 1)
    assert said.startswith(words) and "\n" not in said


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("policy.network._target_=os.system",),
            "policy.network._target_: os.system, expected a class of pgkit, torch.o",
        ),
        (("policy.network=3",), "policy.network: 3, expected a mapping with _target_"),
        (("policy.network={width: 3}",), ""),  # merged with the default
        (("policy.network._partial_=true",), "policy.network._partial_: true, expected no such key"),
        (
            ("policy.network.inner={_target_: os.system}",),
            "policy.network.inner._target_: os.system, expected plain val",
        ),
        (("policy.network.width=nan",), "policy.network.width: nan, expected "),
    ],
)
def test_the_command_line_is_checked_before_anything_is_imported(overrides: tuple[str, ...], words: str) -> None:
    if not words:
        assert configuration("policy=custom", *overrides).policy.network.width == 3
        return
    with pytest.raises(UsageError) as caught:
        configuration("policy=custom", *overrides)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_a_run_with_a_network_of_ones_own_can_be_played_by_who_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgkit import config

    composed = [*("env=CartPole", "policy=custom", f"policy.network._target_={OURS}.Gated", "policy.network.width=6")]
    checked = config.check
    monkeypatch.setattr("tests.end_to_end.runs.check", lambda c: checked(c, trusted=["tests"]))
    run = train(tmp_path, *composed, "trusted_packages=[tests]", "total_steps=600", "evaluation.episodes=0")
    assert run.summary["status"] == "finished" and run.parameters["network.0.network.gate.weight"].shape == (6, 4)
    policy = load_policy(tmp_path, trusted=["tests"])
    obs = torch.randn(3, 4)
    assert torch.equal(policy(obs), run.parts.policy(obs))
    with pytest.raises(
        UsageError, match=r"Gated, expected a class of pgkit, torch\.optim, torch\.nn or a trusted pack"
    ):
        load_policy(tmp_path)
