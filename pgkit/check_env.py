"""`python -m pgkit.check_env env=gym env.id=mine:Robot-v0`: is an environment sound, and what does a step cost?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pgkit.app import run_app

# Heavy imports come inside functions: a typing mistake is answered before anything large is loaded.
if TYPE_CHECKING:
    from omegaconf import DictConfig


def rehearse(config: DictConfig, trusted: tuple[str, ...]) -> None:
    """Makes the environment once, before anything is written.

    Raises: UsageError where it cannot be made.
    """
    from pgkit.checking.conduct import prepare

    prepare(config)


def run(config: DictConfig, folder: Path) -> None:
    """Checks and measures the environment, prints the tables and saves them in `folder`.

    Raises: RunFault where a check failed, with everything written.
    """
    from pgkit.checking.conduct import conduct

    conduct(config, folder)


def main() -> None:
    """The console script `pgkit-check-env`."""
    run_app("check_env", dry=rehearse, task=run)


if __name__ == "__main__":
    main()
