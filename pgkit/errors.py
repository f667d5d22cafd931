"""Errors that a user can act on: one line each, `<key>: <what it was>, expected <what>`, shown without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the user typed or brought cannot be used; the message names it and says what is accepted."""


class RunFault(RuntimeError):
    """A run cannot go on, through no fault of its configuration; the message says what was found and expected."""


class EnvironmentFault(RunFault):
    """An environment broke its contract while running; the message names lane, seed, step and action."""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Returns ` (did you mean X?)` for the nearest candidate, or an empty string when none is near."""
    near = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
