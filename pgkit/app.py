"""The one wrapper behind `python -m pgkit.train` and its like: check first, write later, answer in one line.

Hydra makes the run folder before it calls anyone, so everything that can be known beforehand is checked before Hydra
is started: names and values without torch, then, by `dry`, whatever takes the real classes and the real environment.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import pgkit
from pgkit.config import check, compose, expand
from pgkit.errors import RunFault, UsageError
from pgkit.garbage import loading
from pgkit.jobs import Task, run_one, run_sweep, say, start_hydra
from pgkit.ranks import num_processes, rank
from pgkit.run.interrupts import Ending, Interrupts
from pgkit.schema.overrides import forced_keys, quoted, trusted_packages, with_force, without_sweeps
from pgkit.schema.values import suggestion

Dry = Callable[[DictConfig, tuple[str, ...]], None]


def run_app(config_name: str, *, dry: Dry, task: Task) -> None:
    """Runs `task` on what the command line asks for, once or for every combination of a sweep.

    `dry` gets each checked configuration, and the packages that the command line trusts, before anything is written.
    Exits with 2 on what the user can put right, 1 on a failed run, 130 when interrupted; `PGKIT_TRACEBACK=1` shows
    where an error was raised.
    """
    try:
        # A launcher ends all processes once one failed: this one then has the time to find the same fault and name it.
        with Interrupts(patient=True) if num_processes() > 1 else nullcontext() as asked:
            code = _run(config_name, dry, task, asked)
    except (UsageError, RunFault) as error:
        if os.environ.get("PGKIT_TRACEBACK") == "1":
            traceback.print_exc()
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            say(str(error))
        code = 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        code = 130
    if code:
        sys.exit(code)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One run that was asked for: its configuration, checked; Hydra's node, which has its overrides; its folder."""

    config: DictConfig
    own: DictConfig
    folder: Path


def _run(config_name: str, dry: Dry, task: Task, asked: Ending | None) -> int:
    if "--version" in sys.argv[1:]:
        print(f"pgkit {pgkit.__version__}")
        return 0
    arguments = _arguments()
    overrides: list[str] = arguments.overrides
    trusted = trusted_packages(overrides)
    flags = [argument for argument in sys.argv[1:] if argument not in overrides]
    if arguments.hydra_help or arguments.shell_completion:
        start_hydra(config_name, [*flags, *overrides], _nothing)
        return 0
    folders = [] if arguments.config_dir is None else [arguments.config_dir]
    first = compose(config_name, without_sweeps(overrides), config_dirs=folders)
    sweep = arguments.multirun or first.hydra.mode == RunMode.MULTIRUN
    composed: Iterable[DictConfig] = [first]
    if sweep or len(without_sweeps(overrides)) < len(overrides):
        combinations = expand(first, overrides) if sweep else [overrides]
        composed = (compose(config_name, lines, config_dirs=folders) for lines in combinations)
    if num_processes() > 1 and (sweep or config_name != "train"):
        shown = "a sweep" if sweep else f"pgkit.{config_name}"
        raise UsageError(f"WORLD_SIZE: {num_processes()} processes for {shown}, expected one run of pgkit.train")
    root, jobs = _jobs(composed, trusted, sweep=sweep)
    handed = with_force(overrides, forced_keys(job.own.overrides.task for job in jobs))
    if arguments.help or arguments.cfg or arguments.info:
        start_hydra(config_name, [*flags, *handed], _nothing)
        return 0
    for job in jobs:
        _check_folder(job.folder, writes=job.own.output_subdir is not None)
    for config in {str({**job.config, "seed": 0}): job.config for job in reversed(jobs)}.values():
        with loading():
            dry(config, trusted)
    if asked is not None and asked.requested:
        raise KeyboardInterrupt
    if rank() > 0:  # the first process has the folder, and Hydra
        task(jobs[0].config, jobs[0].folder)
        return 0
    flags = [f"--config-dir={folder}" for folder in folders]
    # Errors come back as they are, in the workers of a sweep too.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if not sweep:
        return run_one(config_name, [*flags, *handed], task, trusted)
    handed = [line for line in handed if not line.startswith("hydra.sweep.dir=")]
    handed.append(f"hydra.sweep.dir={quoted(str(root))}")
    return run_sweep(config_name, ["--multirun", *flags, *handed], task, trusted, root, [job.folder for job in jobs])


def _jobs(compositions: Iterable[DictConfig], trusted: tuple[str, ...], *, sweep: bool) -> tuple[Path, list[_Job]]:
    """Returns every run that was asked for, checked, and the folder that they share.

    Raises: UsageError for the first that does not hold.
    """
    composed, checked = [], []
    for config in compositions:  # one after the other: what is wrong with the first is said at once
        composed.append(config)
        checked.append(check(config, trusted=trusted))
    try:
        root, places = _places(composed, sweep=sweep)
    except OmegaConfBaseException as error:
        raise UsageError(f"hydra.{'sweep' if sweep else 'run'}.dir: {' '.join(str(error).split())}") from None
    return root, [
        _Job(config=config, own=whole.hydra, folder=place)
        for config, whole, place in zip(checked, composed, places, strict=True)
    ]


def _places(composed: Sequence[DictConfig], *, sweep: bool) -> tuple[Path, list[Path]]:
    """Returns the folder that the runs share, and the folder of each."""
    for number, config in enumerate(composed):
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
    if not sweep:
        folder = Path(_resolved(composed[0], "hydra.run.dir"))
        return folder, [folder]
    shared = list(dict.fromkeys(_resolved(config, "hydra.sweep.dir") for config in composed))
    # Jobs that disagree, as where they sweep over the environment or the clock has moved on, meet in the deepest folder
    # above them all.
    root = Path(shared[0]) if len(shared) == 1 else Path(os.path.commonpath(shared)) / Path(shared[0]).name
    return root, [root / _resolved(config, "hydra.sweep.subdir") for config in composed]


def _resolved(config: DictConfig, key: str) -> str:
    """Returns a value of Hydra's node, which may refer to itself through Hydra's global state."""
    HydraConfig.instance().set_config(config)
    return str(OmegaConf.select(config, key, throw_on_missing=True))


def _check_folder(folder: Path, *, writes: bool) -> None:
    """Raises UsageError where the folder could not be made, or where Hydra would overwrite a finished run's record."""
    if any(len(part.encode()) > 255 for part in folder.parts):
        raise UsageError(f"hydra.sweep.subdir: {folder.name[:60]}... is too long a name, expected 255 bytes at most")
    if writes and (folder / "summary.json").exists():
        raise UsageError(f"hydra.run.dir: {folder} holds a finished run, expected another folder")
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"hydra.run.dir: {folder}, expected a folder that can be written; {parent} cannot")


def _arguments() -> argparse.Namespace:
    """Returns the command line as Hydra reads it.

    Raises: UsageError for a flag that it does not have, or that pgkit does not offer.
    """
    parser = get_args_parser()
    arguments, rest = parser.parse_known_intermixed_args()
    if rest:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UsageError(f"{rest[0]}: unknown flag{suggestion(rest[0].partition('=')[0], flags)}")
    if arguments.experimental_rerun is not None:
        raise UsageError("--experimental-rerun: reads a pickle, expected the settings themselves")
    if arguments.config_path is not None or arguments.config_name is not None:
        raise UsageError("--config-path and --config-name: the root file is pgkit's own, expected --config-dir")
    modes = [arguments.run, arguments.multirun, arguments.help, arguments.hydra_help, arguments.shell_completion]
    if sum(map(bool, [*modes, arguments.cfg, arguments.info])) > 1:
        raise UsageError("flags: more than one thing to do, expected --run, --multirun or one that shows something")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise UsageError("--resolve: nothing to show, expected --cfg or --help beside it")
    return arguments


def _nothing(config: DictConfig) -> None:
    """Returns at once: Hydra only shows something."""
