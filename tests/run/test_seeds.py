"""Streams are independent, reproducible and keyed by name."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest

from pgkit.run import seeds
from pgkit.run.seeds import Streams, draw_seed, draw_seeds

NAMES = [field.name for field in fields(Streams)]


def draws(streams: Streams) -> dict[str, list[float]]:
    return {name: getattr(streams, name).random(4).tolist() for name in NAMES}


def test_the_same_seed_gives_the_same_streams_and_another_seed_others() -> None:
    assert draws(Streams.from_seed(3)) == draws(Streams.from_seed(3))
    other = draws(Streams.from_seed(4))
    assert all(other[name] != values for name, values in draws(Streams.from_seed(3)).items())


def test_no_two_streams_are_alike() -> None:
    assert len({tuple(values) for values in draws(Streams.from_seed(0)).values()}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_drawing_from_one_stream_moves_no_other(name: str) -> None:
    streams = Streams.from_seed(5)
    getattr(streams, name).random(1000)
    moved = {key for key, values in draws(streams).items() if values != draws(Streams.from_seed(5))[key]}
    assert moved == {name}


def test_streams_depend_on_their_name_and_on_nothing_else() -> None:
    # The numbers are those of the first release: a stream added in front must not change them.
    expected = {"environments": 1686253684, "policy": 1180950042, "diagnostics": 988242224}
    streams = Streams.from_seed(0)
    assert {name: draw_seed(getattr(streams, name)) for name in expected} == expected


def test_state_is_plain_json_and_goes_on_where_it_was() -> None:
    streams = Streams.from_seed(9)
    streams.policy.random(7)
    state = json.loads(json.dumps(streams.state_dict()))
    expected = draws(streams)
    restored = Streams.from_seed(0)
    restored.load_state_dict(state)
    assert draws(restored) == expected


def test_a_saved_state_stands_still_while_the_stream_moves() -> None:
    streams = Streams.from_seed(9)
    state = streams.state_dict()
    expected = json.dumps(state)
    streams.policy.random(7)
    assert json.dumps(state) == expected


def test_drawn_seeds_differ_and_fit_every_library() -> None:
    drawn = draw_seeds(np.random.default_rng(0), 300_000)  # with replacement, about 20 of them would meet
    assert len(set(drawn)) == 300_000
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in drawn)


def test_the_module_keeps_no_state() -> None:
    draw_seeds(Streams.from_seed(0).policy, 3)
    assert not [name for name, value in vars(seeds).items() if isinstance(value, np.random.Generator)]
