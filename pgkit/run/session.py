"""One run from its folder to its summary, whatever it is that runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, final

import torch
from threadpoolctl import threadpool_limits

from pgkit.loggers.group import LoggerGroup
from pgkit.protocols import Logger
from pgkit.ranks import num_processes
from pgkit.run.folder import RunFolder, write_json
from pgkit.run.interrupts import Interrupts
from pgkit.run.progress import Progress
from pgkit.run.record import Clock


@final
class Session:
    """What a job has at its hands while it runs: the folder, the loggers, the view, the clock, and who wants it to end.

    `status` is `failed` until the work was done.
    """

    def __init__(self, folder: RunFolder, interrupts: Interrupts, progress: Progress, loggers: LoggerGroup) -> None:
        self.folder, self.interrupts, self.progress, self.loggers = folder, interrupts, progress, loggers
        self.clock = Clock()
        self.status = "failed"


class Job(ABC):
    """What runs: it is asked in the order of its methods."""

    @abstractmethod
    def progress(self) -> Progress:
        """Returns the view that a person watches."""

    @abstractmethod
    def loggers(self, folder: Path) -> list[Logger]:
        """Returns the loggers, their files open in `folder`."""

    @abstractmethod
    def begin(self, session: Session) -> str:
        """Takes in the session before anything is logged; returns what is about to run, in one line."""

    @abstractmethod
    def work(self, session: Session) -> None:
        """Works until it is done or somebody interrupts; the clock runs meanwhile."""

    @abstractmethod
    def evaluate(self, session: Session) -> None:
        """Measures what came of it; only after work that was finished."""

    @abstractmethod
    def close(self, session: Session) -> None:
        """Ends what the work started and saves what it made, whatever happened."""

    @abstractmethod
    def summary(self, session: Session) -> dict[str, Any]:
        """Returns the content of `summary.json`."""

    @abstractmethod
    def results(self, summary: Mapping[str, Any]) -> dict[str, float | None]:
        """Returns the few numbers by which runs are compared."""

    @abstractmethod
    def closing(self, summary: Mapping[str, Any], folder: Path) -> str:
        """Returns the last words."""


def hold(make: Callable[[], Job], path: Path, *, settings: Mapping[str, Any], overridden: Collection[str]) -> None:
    """Runs the job that `make` returns, from start to summary, in the folder `path`; what there is gets written.

    `settings` are what was asked for, flat, and `overridden` the keys of them that this run set.

    Raises: what the job raises; KeyboardInterrupt after an interrupted run.
    """
    # One thread a run, in torch and in numpy alike: small matrices gain nothing from more, and a second core can run
    # a second seed.
    torch.set_num_threads(1)
    job = make()
    with threadpool_limits(limits=1), RunFolder(path) as folder, Interrupts(patient=num_processes() > 1) as interrupts:
        progress = job.progress()
        loggers = LoggerGroup(job.loggers(folder.path), warn=progress.print)
        session = Session(folder, interrupts, progress, loggers)
        header = job.begin(session)
        loggers.start(settings, overridden=overridden)
        try:
            with progress:
                progress.print(header)
                session.clock.start()
                try:
                    job.work(session)
                finally:
                    session.clock.stop()
                session.status = "interrupted" if interrupts.requested else "finished"
            if session.status == "finished":
                job.evaluate(session)
        except KeyboardInterrupt:
            session.status = "interrupted"
            raise
        finally:
            job.close(session)
            summary = job.summary(session)
            write_json(folder.summary, summary)
            loggers.finish(job.results(summary), status=session.status)
            loggers.close()
            progress.print(job.closing(summary, folder.path))
    if session.status == "interrupted":
        raise KeyboardInterrupt
