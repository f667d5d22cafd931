"""All loggers of a run as one, so that what is written twice is decided once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

if TYPE_CHECKING:
    from pgkit.protocols import Logger


@runtime_checkable
class RunLogger(Protocol):
    """A logger that also keeps what a run was asked for and what came of it."""

    def start(self, config: Mapping[str, Any], *, overridden: Collection[str] = ()) -> None: ...

    def finish(self, results: Mapping[str, float | None], *, status: str) -> None: ...


@final
class LoggerGroup:
    """Writes to every logger; one whose disk fails is given up, with one warning for all, and the run goes on.

    `incomplete` says afterwards that metrics are missing. A logger is not tried again: what follows a torn record or
    half a line could not be read.
    """

    def __init__(self, loggers: Iterable[Logger], *, warn: Callable[[str], None]) -> None:
        self._loggers = list(loggers)
        self._warn = warn
        self.incomplete = False

    def start(self, config: Mapping[str, Any], *, overridden: Collection[str] = ()) -> None:
        """Records the resolved configuration, flat with dotted keys, and which of its keys this run set."""
        self._each(
            lambda logger: logger.start(config, overridden=overridden) if isinstance(logger, RunLogger) else None
        )

    def write(self, metrics: Mapping[str, float | None], *, step: int) -> None:
        """Records one update's metrics at `step` environment steps."""
        values = dict(metrics)
        self._each(lambda logger: logger.write(values, step=step))

    def finish(self, results: Mapping[str, float | None], *, status: str) -> None:
        """Records how the run ended."""
        self._each(lambda logger: logger.finish(results, status=status) if isinstance(logger, RunLogger) else None)

    def close(self) -> None:
        """Closes every logger."""
        self._each(lambda logger: logger.close())
        self._loggers.clear()

    def _each(self, action: Callable[[Logger], None]) -> None:
        for logger in tuple(self._loggers):
            try:
                action(logger)
            except OSError as error:
                self._give_up(logger, error)

    def _give_up(self, logger: Logger, error: OSError) -> None:
        self._loggers.remove(logger)
        if not self.incomplete:
            self._warn(f"{type(logger).__name__}: {error.strerror or error}; training goes on, metrics are incomplete")
        self.incomplete = True
        with contextlib.suppress(OSError):  # what was buffered is lost with the rest
            logger.close()
