"""A policy that a run left acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from pgkit.behaviors.base import LaneBehavior
from pgkit.errors import UsageError
from pgkit.options import Count


@final
class Checkpoint(LaneBehavior):
    """Acts by the policy of a finished run; it stands still while another one learns from its experience."""

    def __init__(
        self,
        *,
        policy: Any,
        num_lanes: int,
        load_policy: Callable[[str], Any],
        run: str | None = None,
        lanes: Count | None = None,
    ) -> None:
        super().__init__(policy=policy, num_lanes=num_lanes, lanes=lanes)
        if run is None:
            raise UsageError("behavior.run: null, expected the folder of a finished run")
        self._other = load_policy(run)

    @property
    def other(self) -> Any:
        """The policy of that run."""
        return self._other
