"""While a run goes on, the collector looks at what the run makes, and at nothing else."""

from __future__ import annotations

import gc
import weakref

import pytest

from pgkit.run.garbage import collection_paused, start_set_aside

pytestmark = pytest.mark.exact


class Ring:
    """Holds itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_was_there_is_set_aside_and_what_is_new_is_collected() -> None:
    gc.collect()
    before = len(gc.get_objects())
    old = weakref.ref(Ring())
    with start_set_aside():
        assert len(gc.get_objects()) < before / 100
        new = weakref.ref(Ring())
        gc.collect()
        assert new() is None and old() is not None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert old() is None


def test_what_an_earlier_run_left_is_gone_when_the_next_one_starts() -> None:
    with start_set_aside():
        left = weakref.ref(Ring())
    gc.disable()
    try:
        with start_set_aside():
            assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_pause_ends_as_it_began(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ValueError, match="stop"), collection_paused():
            assert not gc.isenabled()
            raise ValueError("stop")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_it_is_looked_at_again_after_a_failure() -> None:
    with pytest.raises(ValueError, match="stop"), start_set_aside():
        raise ValueError("stop")
    assert gc.get_freeze_count() == 0
