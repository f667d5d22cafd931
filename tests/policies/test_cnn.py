"""Policies and critics that see: the layout of images, what stands beside them, and gradients sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from pgkit.core.convolutions import Convolutions
from pgkit.core.scores import Scores
from pgkit.critics.value import ValueCritic
from pgkit.errors import UsageError
from pgkit.policies.cnn import CNNPolicy
from pgkit.rl.factors import LogProbability
from pgkit.types import Trajectories
from tests.end_to_end.runs import train_briefly

ACTIONS = spaces.Discrete(3)


def image(*shape: int, dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(0, 255, shape, dtype)


def policy_of(space: spaces.Space[Any], **options: Any) -> CNNPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = {"convolutions": "impala", "hidden_sizes": [8], **options}
        return CNNPolicy(observation_space=space, action_space=ACTIONS, init="default", **chosen)


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.equivalence
@pytest.mark.parametrize(
    ("first", "other"),
    [
        ((3, 12, 10), (12, 10, 3)),  # channels first and last
        ((1, 12, 10), (12, 10)),  # a grey image
        ((4, 12, 10), (4, 1, 12, 10)),  # a stack of grey images
        ((6, 12, 10), (2, 12, 10, 3)),  # a stack of two in colour
    ],
)
def test_images_are_the_same_however_their_channels_lie(first: tuple[int, ...], other: tuple[int, ...]) -> None:
    seen = pixels(5, *first)
    again = seen.reshape(5, *other)
    if other[-1] == 3:
        frames = seen.reshape(5, -1, 3, 12, 10).movedim(2, -1)
        again = frames.reshape(5, *other)
    one, two = policy_of(image(*first)), policy_of(image(*other))
    assert torch.equal(one(seen), two(again)) and one(seen).std(dim=0).min() > 0
    # Any leading dimensions, and uint8 scaled to 0..1.
    assert torch.allclose(one(seen[None, :, None]), one(seen)[None, :, None], atol=1e-6)
    floats = policy_of(image(*first, dtype=np.float32))
    assert torch.allclose(floats(seen.float() / 255), one(seen), atol=1e-6)


@pytest.mark.equivalence
def test_nature_is_the_published_network() -> None:
    policy = policy_of(image(4, 84, 84), convolutions="nature", hidden_sizes=[512])
    theirs = nn.Sequential(
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 3),
    )  # fmt: skip
    theirs.load_state_dict(dict(zip(theirs.state_dict(), policy.network.state_dict().values(), strict=True)))
    seen = pixels(2, 4, 84, 84)
    assert torch.allclose(policy(seen), theirs(seen / 255), atol=1e-6)


def test_what_stands_beside_an_image_reaches_the_layers_behind_it() -> None:
    entries = {
        "b": image(9, 9, 3),
        "a": spaces.Discrete(4),
        "c": spaces.Box(-1, 1, (2,)),
        "action_mask": spaces.MultiBinary(3),
    }
    policy = policy_of(spaces.Dict(entries))
    obs = {"a": torch.arange(4), "b": pixels(1, 9, 9, 3).expand(4, -1, -1, -1), "c": torch.ones(4, 2)}
    mask = torch.tensor([[1, 1, 0]] * 4)
    found = policy({**obs, "action_mask": mask})
    assert (found[:, 2] == -1e9).all() and found[:, :2].std(dim=0).min() > 1e-4
    moved = policy({**obs, "c": -torch.ones(4, 2), "action_mask": mask})
    assert (moved - found)[:, :2].abs().min() > 1e-4
    arrays = {key: value.numpy() for key, value in {**obs, "action_mask": mask}.items()}
    np.testing.assert_allclose(policy.actor()(arrays), found.detach().numpy(), atol=1e-6)


@pytest.mark.equivalence
@pytest.mark.parametrize("convolutions", ["nature", "impala"])
def test_gradients_of_every_sample_are_autograds(convolutions: str) -> None:
    side = 36 if convolutions == "nature" else 8
    policy = policy_of(image(2, side, side), convolutions=convolutions)
    obs, actions = pixels(3, 4, 2, side, side), torch.arange(12).reshape(3, 4) % 3
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[2, 1] = False
    coefficients = torch.where(mask, torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), 0.0)
    found = Scores(LogProbability(policy), (obs, actions), mask).per_sample(coefficients)
    parameters = list(policy.parameters())
    for column in range(4):
        terms = coefficients[:, column] * policy.log_prob(obs[:, column], actions[:, column])
        gradients = torch.autograd.grad(terms.sum(), parameters)
        exact = torch.cat([each.reshape(-1) for each in gradients])
        torch.testing.assert_close(found[column], exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("space", "options", "words"),
    [
        (spaces.Box(-1, 1, (4,)), {}, "policy: a network for images and no image in the observation, expected one"),
        (spaces.Tuple([image(8, 8), image(8, 8)]), {}, "policy: a network for images and 2 images in the observation"),
        (
            image(30, 84, 3),
            {"convolutions": "nature"},
            "policy: nature for images of 30 x 84, expected at least 36 x 36",
        ),
        (image(4, 9, 4), {}, "policy.channels: auto for images of shape (4, 9, 4), expected first or last"),
    ],
)
def test_what_is_no_image_is_refused_by_name(space: spaces.Space[Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        policy_of(space, **options)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_channels_can_be_said_where_they_cannot_be_told() -> None:
    for channels, depth in (("first", 4), ("last", 6)):
        first = policy_of(image(4, 9, 6), channels=channels).network[0]
        assert isinstance(first, Convolutions) and first.layers[0].weight.shape[1] == depth


def test_a_critic_learns_what_an_image_says_with_parameters_of_its_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = ValueCritic(
            observation_space=image(8, 8, 1), generator=torch.Generator().manual_seed(0), convolutions="impala",
            hidden_sizes=[32], activation="relu", steps=150, minibatch_size=64,
        )  # fmt: skip
    obs = pixels(21, 4, 8, 8, 1)
    bright = obs[:-1].float().mean(dim=(2, 3, 4)) - 127
    zeros, mask = torch.zeros(20, 4), torch.ones(20, 4, dtype=torch.bool)
    batch = Trajectories(
        obs=obs, actions=torch.zeros(20, 4, dtype=torch.long), rewards=zeros, behavior_log_prob=zeros,
        behavior_id=torch.zeros(4), terminated=~mask, truncated=~mask, starts=~mask, mask=mask, lane=torch.arange(4),
        whole_episodes=False,
    )  # fmt: skip
    critic.update(batch, bright, mask)
    values = critic.values(obs)
    assert values.shape == (21, 4)
    assert (values[:-1] - bright).square().mean() < 0.3 * bright.var()
    assert critic.features(obs).shape == (21, 4, critic.num_features) == (21, 4, 32)


@pytest.mark.parametrize("agent", ["reinforce", "vpg"])
def test_agents_learn_from_images(agent: str) -> None:
    # One step an episode: the action that names the bright quarter pays 1; blind play earns 1/4.
    slab = ("collect.episodes=32",) if agent == "reinforce" else (
        "collect.steps=32", "critic.convolutions=impala", "critic.steps=2", "critic.minibatch_size=32",
    )  # fmt: skip
    _, journal = train_briefly(
        "env=gym", "env.id=tests.policies.image_envs:Quarters-v0", f"agent={agent}", *slab, "policy=cnn",
        "policy.convolutions=impala", "policy.hidden_sizes=[32]", "total_steps=2500", "optimizer.lr=0.003",
        "diagnostics=none",
    )  # fmt: skip
    assert journal.record.return_mean_100 > 0.8


def test_no_images_are_answered_with_no_laws() -> None:
    beside = spaces.Dict({"image": image(3, 12, 10), "speed": spaces.Box(-1, 1, (2,), np.float32)})
    seen = {"image": pixels(0, 3, 12, 10), "speed": torch.zeros(0, 2)}
    assert policy_of(beside)(seen).shape == (0, 3)
