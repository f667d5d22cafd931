"""`python -m pgkit.verify`: is the mean of each estimator the exact gradient, and what is its variance?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pgkit.app import run_app

# Heavy imports come inside functions: a typing mistake is answered before torch is loaded.
if TYPE_CHECKING:
    from omegaconf import DictConfig


def rehearse(config: DictConfig, trusted: tuple[str, ...]) -> None:
    """Builds every pair once, before anything is written.

    Raises: UsageError for a name that does not exist, and for what cannot be built.
    """
    from pgkit.verifying.conduct import chosen

    chosen(config)


def run(config: DictConfig, folder: Path) -> None:
    """Measures every pair, prints the table and saves it in `folder`.

    Raises: RunFault where an estimator that says it is unbiased is not, with everything written.
    """
    from pgkit.verifying.conduct import conduct

    conduct(config, folder)


def main() -> None:
    """The console script `pgkit-verify`."""
    run_app("verify", dry=rehearse, task=run)


if __name__ == "__main__":
    main()
