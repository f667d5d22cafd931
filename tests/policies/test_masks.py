"""Choices that are not allowed: probability exactly 0, no gradient, and nothing is nan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.func import grad, vmap

from pgkit.core.scores import Scores
from pgkit.errors import UsageError
from pgkit.policies.categorical import Categorical, IndependentCategorical, masked, mixed_with_uniform
from pgkit.policies.mlp import MLPPolicy
from pgkit.rl.factors import LogProbability

pytestmark = [pytest.mark.usefixtures("float64")]

COUNTS = [2, 4, 3]
ONE, SEVERAL = Categorical(spaces.Discrete(5)), IndependentCategorical(spaces.MultiDiscrete(COUNTS))


def masks(size: int, dimensions: list[int]) -> Tensor:
    """Returns random masks that leave at least one choice in every dimension."""
    generator = torch.Generator().manual_seed(1)
    parts = []
    for count in dimensions:
        part = torch.rand(size, count, generator=generator) < 0.5
        part[torch.arange(size), torch.randint(count, (size,), generator=generator)] = True
        parts.append(part)
    return torch.cat(parts, dim=-1)


def logits_of(*shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_masked_choice_has_probability_0_and_the_others_are_torchs(dtype: torch.dtype) -> None:
    mask = masks(50, [5])
    logits = masked(logits_of(50, 5).to(dtype), mask)
    theirs = torch.distributions.Categorical(logits=logits_of(50, 5).to(dtype).masked_fill(~mask, -torch.inf))
    probabilities = ONE.log_probabilities(logits).exp()
    assert (probabilities[~mask] == 0).all() and (probabilities[mask] > 0).all()
    torch.testing.assert_close(probabilities, theirs.probs, rtol=0, atol=1e-6)
    exact = -(torch.special.xlogy(theirs.probs, theirs.probs)).sum(dim=-1)
    torch.testing.assert_close(ONE.entropy(logits), exact, rtol=0, atol=1e-5)
    assert (ONE.entropy(logits) <= mask.sum(dim=-1).log() + 1e-6).all()
    assert ONE.kl(logits, masked(logits_of(50, 5).flip(0).to(dtype), mask)).isfinite().all()
    torch.testing.assert_close(ONE.mean(logits), theirs.probs, rtol=0, atol=1e-6)


def test_masks_of_several_choices_are_as_many_masks() -> None:
    mask, raw = masks(50, COUNTS), logits_of(50, 9)
    logits = masked(raw, mask)
    alone = [Categorical(spaces.Discrete(count)) for count in COUNTS]
    parts = logits.split(COUNTS, dim=-1)
    sampled = SEVERAL.sample(logits.numpy(), SEVERAL.noise(np.random.default_rng(0), (50,)))
    actions = torch.as_tensor(sampled)
    chosen = torch.cat([mask.split(COUNTS, -1)[i].gather(1, actions[:, i : i + 1]) for i in range(3)], dim=1)
    assert chosen.all()
    one_by_one = sum(law.log_prob(part, actions[:, i]) for i, (law, part) in enumerate(zip(alone, parts, strict=True)))
    torch.testing.assert_close(SEVERAL.log_prob(logits, actions), one_by_one)
    entropy = sum(law.entropy(part) for law, part in zip(alone, parts, strict=True))
    torch.testing.assert_close(SEVERAL.entropy(logits), entropy)


@pytest.mark.parametrize(("law", "dimensions"), [(ONE, [5]), (SEVERAL, COUNTS)], ids=["one", "several"])
def test_no_gradient_reaches_a_masked_logit(law: Categorical | IndependentCategorical, dimensions: list[int]) -> None:
    mask, raw = masks(50, dimensions), logits_of(50, sum(dimensions))
    actions = torch.as_tensor(law.mode(masked(raw, mask).numpy()))
    other = logits_of(50, sum(dimensions)).flip(0)
    for function in (
        lambda logits, mask, action, other: law.log_prob(masked(logits, mask), action),
        lambda logits, mask, action, other: law.entropy(masked(logits, mask)),
        lambda logits, mask, action, other: law.kl(masked(other, mask), masked(logits, mask)),
    ):
        slopes = vmap(grad(function))(raw, mask, actions, other)
        assert slopes.isfinite().all() and (slopes[~mask] == 0).all() and (slopes[mask] != 0).any()


def test_changed_behaviours_keep_to_the_mask() -> None:
    mask = masks(50, [5])
    logits = masked(logits_of(50, 5), mask)
    for changed in (ONE.tempered(logits, 10.0), ONE.tempered(logits, 0.1), ONE.with_uniform(logits, 0.3)):
        probabilities = changed.softmax(dim=-1)
        assert (probabilities[~mask] == 0).all()
        torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(50))
    even = mixed_with_uniform(logits, 1.0).exp()
    torch.testing.assert_close(even, mask / mask.sum(dim=-1, keepdim=True))


def test_samples_are_allowed_however_unlikely_the_allowed_are() -> None:
    mask = torch.tensor([True, False, False, True, False]).expand(10_000, 5)
    logits = masked(torch.tensor([-80.0, 50.0, 50.0, -80.0, 50.0]).float().expand(10_000, 5), mask).numpy()
    sampled = ONE.sample(logits, ONE.noise(np.random.default_rng(0), (10_000,)))
    assert set(sampled.tolist()) == {0, 3} and abs((sampled == 0).mean() - 0.5) < 0.03
    assert set(ONE.mode(logits).tolist()) <= {0, 3}


def test_a_state_without_an_allowed_action_is_named() -> None:
    law, mask, everywhere = IndependentCategorical(spaces.MultiDiscrete(COUNTS)), masks(50, COUNTS), np.ones(50, bool)
    law.masks = True
    logits = masked(logits_of(50, 9), mask)
    assert law.fault(logits.numpy(), everywhere) is None
    np.testing.assert_array_equal(law.allowed(logits.numpy()), mask.numpy())
    assert law.allowed(logits_of(50, 9).numpy()).all()  # a batch in which all was allowed still says so
    mask[7, 2:6] = False  # nothing is left in the second dimension
    assert law.fault(masked(logits_of(50, 9), mask).numpy(), everywhere) == (
        "the action mask allows no action in some state, expected at least one"
    )
    # Where nobody acted, nothing need be allowed.
    assert law.fault(masked(logits_of(50, 9), mask).numpy(), np.arange(50) != 7) is None
    assert (
        ONE.fault(np.full((1, 5), np.nan), everywhere[:1])
        == "parameters of the action law are not finite, expected finite numbers"
    )
    assert ONE.fault(logits_of(3, 5).numpy(), everywhere[:3]) is None and ONE.allowed(logits_of(3, 5).numpy()) is None


def policy_of(actions: spaces.Space, size: int, **options: object) -> MLPPolicy:
    torch.manual_seed(0)
    seen = spaces.Dict({"place": spaces.Box(-1, 1, (3,)), "action_mask": spaces.MultiBinary(size)})
    return MLPPolicy(observation_space=seen, action_space=actions, hidden_sizes=[8], init="default", **options)


@pytest.mark.parametrize("actions", [spaces.Discrete(5), spaces.MultiDiscrete(COUNTS)], ids=["one", "several"])
def test_a_policy_finds_its_mask_in_the_observation_and_acts_in_numpy_by_it(actions: spaces.Space) -> None:
    dimensions = [5] if isinstance(actions, spaces.Discrete) else COUNTS
    size = sum(dimensions)
    policy, mask = policy_of(actions, size), masks(20, dimensions)
    obs = {"place": torch.randn(20, 3), "action_mask": mask.to(torch.int8)}
    assert policy.encoder.features == 3  # the mask is no feature
    act = policy.actor()
    assert act.__qualname__.startswith("masked_actor")
    with torch.no_grad():
        expected = policy(obs).numpy()
    np.testing.assert_allclose(act({key: value.numpy() for key, value in obs.items()}), expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(policy.law.allowed(expected), mask.numpy())
    assert policy.divergence(policy, obs).abs().max() < 1e-12


def test_scores_of_a_masked_policy_are_the_same_by_layers_and_by_vmap() -> None:
    policy, mask = policy_of(spaces.Discrete(5), 5), masks(12, [5]).reshape(4, 3, 5)
    obs = {"place": torch.randn(4, 3, 3), "action_mask": mask.to(torch.int8)}
    actions = torch.as_tensor(policy.law.mode(policy(obs).detach().numpy()))
    valid = torch.ones(4, 3, dtype=torch.bool)
    scores = Scores(LogProbability(policy), (obs, actions), valid)
    fast = scores.per_sample(torch.ones(4, 3))
    from pgkit.core import persample

    general = persample.per_sample_by_vmap(LogProbability(policy), (obs, actions), torch.ones(1, 4, 3))[0]
    torch.testing.assert_close(fast, general)
    assert fast.isfinite().all() and fast.abs().max() > 0


def test_masks_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(
        UsageError, match=r"^policy\.action_mask: the entry action_mask of space Multi.*, expected 5 num"
    ):
        policy_of(spaces.Discrete(5), 4)
    with pytest.raises(UsageError, match=r"^policy\.action_mask: action_mask for continuous actions, expected null$"):
        policy_of(spaces.Box(-1, 1, (2,)), 2)
    assert policy_of(spaces.Box(-1, 1, (2,)), 2, action_mask=None).encoder.features == 5
    assert policy_of(spaces.Discrete(5), 4, action_mask="other").encoder.features == 7
