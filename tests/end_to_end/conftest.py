"""One run by the command that a user types, shared by all who look at what it left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.runs import TYPED
from tests.faults.command import run


@pytest.fixture(scope="session")
def typed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that run; whoever wants to change something in it makes a copy."""
    place: Path = tmp_path_factory.mktemp("typed") / "mine"
    ended = run("-m", "pgkit.train", *TYPED, f"hydra.run.dir={place}", cwd=place.parent)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "finished:" in ended.stdout and "-m pgkit.dashboard" in ended.stdout
    return place
