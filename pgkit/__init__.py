"""pgkit: policy gradients whose noise you can see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def load_policy(run_folder: Path | str) -> Any:
    """Returns the trained policy of a run as a `torch.nn.Module`; see `pgkit.playback.load_policy`."""
    from pgkit.playback import load_policy  # torch is loaded only when it is needed

    return load_policy(run_folder)
