"""While a run goes on, the collector looks at what the run makes, and at nothing else."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from pgkit.garbage import loading

pytestmark = pytest.mark.exact


class Ring:
    """Holds itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_set_aside() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


def test_what_was_loaded_is_set_aside_and_what_is_new_is_collected() -> None:
    gc.collect()
    before = len(gc.get_objects())
    with loading():
        loaded = weakref.ref(Ring())
    assert len(gc.get_objects()) < before / 100
    new = weakref.ref(Ring())
    gc.collect()
    assert new() is None and loaded() is not None


def test_what_an_earlier_run_left_is_collected() -> None:
    with loading():
        pass
    left = weakref.ref(Ring())
    with loading():  # of the next run in this process
        pass
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_goes_on_as_before_after_a_failure_too(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    with pytest.raises(ValueError, match="stop"), loading():
        assert not gc.isenabled()
        raise ValueError("stop")
    assert gc.isenabled() == enabled
