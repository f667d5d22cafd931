"""`python -m pgkit.evaluate_offline run=runs/… data=…`: what a policy is worth, from episodes that others played."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pgkit.app import run_app

# Heavy imports come inside functions: a typing mistake is answered before torch is loaded.
if TYPE_CHECKING:
    from omegaconf import DictConfig


def rehearse(config: DictConfig, trusted: tuple[str, ...]) -> None:
    """Loads the policy and the data once, before anything is written.

    Raises: UsageError for a policy, data or estimators that cannot be used.
    """
    from pgkit.offline.conduct import prepare

    prepare(config)


def run(config: DictConfig, folder: Path) -> None:
    """Values the policy, prints the table and saves it in `folder`."""
    from pgkit.offline.conduct import conduct

    conduct(config, folder)


def main() -> None:
    """The console script `pgkit-evaluate-offline`."""
    run_app("evaluate_offline", dry=rehearse, task=run)


if __name__ == "__main__":
    main()
