"""pgkit: policy gradients whose noise you can see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgkit.estimate import estimate_gradient as estimate_gradient
    from pgkit.run.trajectory_files import SavedTrajectories as SavedTrajectories
    from pgkit.run.trajectory_files import load_trajectories as load_trajectories
    from pgkit.run.trajectory_files import save_trajectories as save_trajectories

__version__ = "0.1.0"


def load_policy(run_folder: Path | str) -> Any:
    """Returns the trained policy of a run as a `torch.nn.Module`; see `pgkit.playback.load_policy`."""
    from pgkit.playback import load_policy  # torch is loaded only when it is needed

    return load_policy(run_folder)


def __getattr__(name: str) -> Any:
    """Returns what `from pgkit import …` asks for; torch is loaded only then."""
    if name == "estimate_gradient":
        from pgkit.estimate import estimate_gradient

        return estimate_gradient
    if name in ("SavedTrajectories", "load_trajectories", "save_trajectories"):
        from pgkit.run import trajectory_files

        return getattr(trajectory_files, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
