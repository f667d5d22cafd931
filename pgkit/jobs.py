"""Runs what was asked for under Hydra: one run, or the jobs of a sweep side by side."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pgkit.config import VERSION_BASE, check, config_dir
from pgkit.errors import RunFault, UsageError

Task = Callable[[DictConfig, Path], None]

ERROR_FILE = "error.txt"
"""What a failed job of a sweep leaves in its folder: the cause in one line, then where it happened."""


def run_one(config_name: str, arguments: Sequence[str], task: Task, trusted: tuple[str, ...]) -> int:
    """Returns 0 once the task has run.

    Raises: what the task raises.
    """
    failures: list[Exception] = []

    def job(config: DictConfig) -> None:
        try:
            task(*_task_arguments(config, trusted))
        except Exception as error:  # kept from Hydra, which would wrap it in advice of its own
            failures.append(error)

    start_hydra(config_name, arguments, job)
    if failures:
        raise failures[0]
    return 0


def run_sweep(
    config_name: str,
    arguments: Sequence[str],
    task: Task,
    trusted: tuple[str, ...],
    root: Path,
    folders: Sequence[Path],
) -> int:
    """Returns the exit code of a sweep in `root` with its jobs in `folders`: 1 when one failed, 130 when interrupted.

    A failed job stops no other; at the end each is named with its cause.
    """
    stopped = root.absolute() / "interrupted"  # a file: the jobs are processes of their own
    stopped.unlink(missing_ok=True)

    def job(config: DictConfig) -> None:
        checked, folder = _task_arguments(config, trusted)
        (folder / ERROR_FILE).unlink(missing_ok=True)
        if stopped.exists():
            return
        try:
            task(checked, folder)
        except KeyboardInterrupt:
            stopped.touch()
        except Exception as error:  # the other jobs go on; the parent reads the file when all are done
            cause = " ".join(str(error).split()) if isinstance(error, UsageError | RunFault) else repr(error)
            (folder / ERROR_FILE).write_text(f"{cause}\n\n{traceback.format_exc()}", encoding="utf-8")

    def interrupt(signal_number: int, frame: object) -> None:
        # The first Ctrl-C, which the running jobs hear too, lets them write what they have; the second ends it all.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not root.is_dir():
            raise KeyboardInterrupt
        stopped.touch()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        start_hydra(config_name, arguments, job)
    except Exception:
        if not stopped.exists():  # an idle worker may die of the same Ctrl-C
            raise
    finally:
        signal.signal(signal.SIGINT, before)
        failed = [folder for folder in folders if (folder / ERROR_FILE).is_file()]
        for folder in failed:
            say(f"{folder}: {(folder / ERROR_FILE).read_text(encoding='utf-8').partition(chr(10))[0]}")
    if stopped.exists():
        stopped.unlink()
        return 130
    return 1 if failed else 0


def _task_arguments(config: DictConfig, trusted: tuple[str, ...]) -> tuple[DictConfig, Path]:
    """Returns the checked configuration and the folder of the job that Hydra is running."""
    own = HydraConfig.get()
    composed = OmegaConf.create({**config, "hydra": OmegaConf.to_container(OmegaConf.structured(own), resolve=False)})
    return check(composed, trusted=trusted), Path(own.runtime.output_dir)


def start_hydra(config_name: str, arguments: Sequence[str], job: Callable[[DictConfig], None]) -> None:
    """Hands the command line, as Hydra shall see it, to Hydra."""
    sys.argv = [sys.argv[0], *arguments]
    try:
        try:
            hydra.main(config_path=str(config_dir()), config_name=config_name, version_base=VERSION_BASE)(job)()
        finally:  # Hydra exits once it has shown something
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `--help | head -1`: the rest goes nowhere
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    except OSError as error:
        raise UsageError(f"hydra.run.dir: {error}, expected a folder that can be written") from error


def say(message: str) -> None:
    """Tells the user something in one line."""
    print(f"pgkit: {' '.join(message.split())}", file=sys.stderr)
