"""Observations of every kind of space become features, in the order of the space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pgkit.core.encoder import Encoder, leaves
from pgkit.errors import UsageError
from pgkit.types import Observations, Rows

pytestmark = pytest.mark.exact

BOX = spaces.Box(-np.inf, np.inf, (2, 2))


def encoder(space: spaces.Space, *, normalise: bool = False) -> Encoder:
    return Encoder(space, normalise=normalise, images="scale")


def rows(obs: Observations) -> Rows:
    return Rows(obs=obs, actions=torch.zeros(0), index=torch.zeros(0))


def test_a_box_is_flattened_in_c_order_whatever_leads() -> None:
    features = encoder(BOX)(torch.arange(24.0).reshape(3, 2, 2, 2))
    assert features.shape == (3, 2, 4) and features[2, 1].tolist() == [20.0, 21.0, 22.0, 23.0]


def test_indices_become_one_hot_from_the_start_of_their_space() -> None:
    assert encoder(spaces.Discrete(3, start=-1))(torch.tensor([-1, 1])).tolist() == [[1, 0, 0], [0, 0, 1]]
    several = spaces.MultiDiscrete([2, 3], start=[0, 5])
    assert encoder(several)(torch.tensor([[1, 6]])).tolist() == [[0, 1, 0, 1, 0]]
    grid = spaces.MultiDiscrete([[2, 2], [2, 3]])
    assert encoder(grid)(torch.tensor([[[0, 1], [1, 2]]])).tolist() == [[1, 0, 0, 1, 0, 1, 0, 0, 1]]
    assert encoder(spaces.MultiBinary(3))(torch.tensor([[1, 0, 1]], dtype=torch.int8)).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("value", [-2, 2])
def test_an_index_outside_its_space_is_an_error(value: int) -> None:
    with pytest.raises(IndexError):
        encoder(spaces.Discrete(3, start=-1))(torch.tensor([value]))


def test_dictionaries_and_tuples_follow_the_order_of_their_space() -> None:
    space = spaces.Dict(
        {
            "b": spaces.Box(-1, 1, (2,)),
            "a": spaces.Tuple((spaces.Discrete(2), spaces.Dict({"x": spaces.Box(-1, 1, ())}))),
        }
    )
    # Gymnasium sorts the keys of a Dict that was made from a plain dictionary.
    assert list(leaves(space)) == ["a/0", "a/1/x", "b"]
    obs = {"b": torch.tensor([[7.0, 8.0]]), "a/1/x": torch.tensor([5.0]), "a/0": torch.tensor([1])}
    assert encoder(space)(obs).tolist() == [[0.0, 1.0, 5.0, 7.0, 8.0]]
    assert not encoder(space).is_flat_box and encoder(BOX).is_flat_box


def test_images_are_scaled_or_refused_and_never_fed_as_they_are() -> None:
    image = spaces.Box(0, 255, (1, 2), np.uint8)
    found = encoder(image)(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    assert found.tolist() == [[0.0, 1.0]] and found.dtype == torch.get_default_dtype()
    assert not encoder(image).is_flat_box
    with pytest.raises(UsageError, match=r"policy\.images: refuse, expected scale"):
        Encoder(spaces.Dict({"camera": image}), normalise=False, images="refuse")


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Sequence(spaces.Discrete(2))])
def test_other_spaces_are_refused_by_name(space: spaces.Space) -> None:
    with pytest.raises(UsageError, match=r"^env\.id: an observation space (Text|Sequence), expected Box, Discrete"):
        encoder(space)


def test_numbers_of_any_type_become_those_of_the_network() -> None:
    for dtype in (torch.float64, torch.int32, torch.bool):
        assert encoder(BOX)(torch.ones(1, 2, 2, dtype=dtype)).dtype == torch.get_default_dtype()


def test_moments_stand_still_until_the_batch_was_used() -> None:
    one = encoder(spaces.Box(-np.inf, np.inf, (1,)), normalise=True)
    obs = torch.tensor([[1.0], [5.0]])
    assert one(obs).tolist() == [[1.0], [5.0]]
    before = {name: value.clone() for name, value in one.state_dict().items()}
    one.eval()(obs)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    one.update(rows(obs))
    assert one(obs).tolist() == [[-1.0], [1.0]]
    restored = encoder(spaces.Box(-np.inf, np.inf, (1,)), normalise=True)
    restored.load_state_dict(one.state_dict())
    assert torch.equal(restored(obs), one(obs))


def test_features_that_do_not_vary_stay_finite_and_far_ones_are_clipped() -> None:
    one = encoder(spaces.Box(-np.inf, np.inf, (1,)), normalise=True)
    one.update(rows(torch.full((5, 1), 3.0)))
    assert one(torch.tensor([[3.0], [4.0], [-1e9]])).tolist() == [[0.0], [10.0], [-10.0]]


def test_without_normalisation_nothing_is_learnt() -> None:
    one = encoder(BOX)
    one.update(rows(torch.ones(3, 2, 2)))
    assert float(one.count) == 0 and one(torch.full((1, 2, 2), 30.0)).max() == 30.0


def test_large_observations_in_double_precision_keep_their_spread() -> None:
    # A mean of 1e6 and a deviation of 0.01: single precision would see a handful of different numbers.
    generator = np.random.default_rng(0)
    stream = generator.normal(1e6, 1e-2, size=(20_000, 1))
    one = encoder(spaces.Box(-np.inf, np.inf, (1,), np.float64), normalise=True)
    for batch in np.split(stream, 20):
        one.update(rows(torch.from_numpy(batch)))
    np.testing.assert_allclose(one.mean.numpy(), stream.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose((one.squares / one.count).sqrt().numpy(), stream.std(axis=0), rtol=1e-7)
    expected = (stream - stream.mean()) / stream.std()
    np.testing.assert_allclose(one(torch.from_numpy(stream)).numpy(), expected, atol=1e-3)
