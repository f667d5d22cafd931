"""Saving a policy while it learns, and never one that could not act."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import final

from torch import nn

from pgkit.run.checkpoint import SavedPolicy, save_policy


@final
class Keeper:
    """Saves a policy to one folder, every so many seconds and when asked to; what was saved last stays until then.

    A policy with numbers that are not finite is not saved: the last good one is worth more.
    """

    def __init__(
        self, folder: Path, policy: nn.Module, saved: Callable[[], SavedPolicy], *, every: float | None
    ) -> None:
        self._folder, self._policy, self._saved, self._every = folder, policy, saved, every
        self._last = time.monotonic()

    def keep(self) -> None:
        """Saves the policy where it is time to."""
        if self._every is not None and time.monotonic() - self._last >= self._every:
            self.save()
            self._last = time.monotonic()

    def save(self) -> str | None:
        """Saves the policy; returns why it did not, None where it did."""
        bad = first_not_finite(self._policy)
        if bad is None:
            save_policy(self._folder, self._saved())
            return None
        kept = f"the one in {self._folder.name} is of before" if self._folder.exists() else "there was none before"
        return f"the policy was not saved: {bad} is not finite; {kept}"


def first_not_finite(module: nn.Module) -> str | None:
    """Returns the name of the first parameter or buffer with numbers that are not finite, None where all are."""
    return next((name for name, tensor in module.state_dict().items() if not tensor.isfinite().all()), None)
