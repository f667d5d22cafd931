"""The tree names no machine and no registry, and holds no large file: it is the same house everywhere."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 300_000


def whole(text: str) -> str:
    """Returns the text without its tildes: they keep this file from finding itself."""
    return text.replace("~", "")


FOLDERS = whole("wo~rk|ro~ot|ho~me/[a-z]|Us~ers/[A-Za-z]|mn~t|tm~p/[a-z]")
HOSTS = whole(r"py~pi\.org|python~hosted|np~mjs\.|download~\.pytorch|file:/~//")
FORBIDDEN = re.compile(rf"(?:^|[^\w./-])/(?:{FOLDERS})[\w/]|{HOSTS}", re.MULTILINE)


def ignored() -> tuple[str, ...]:
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    return (".git", *(line.rstrip("/") for line in lines))


def files(root: Path = ROOT) -> Iterator[Path]:
    """Yields every file that belongs to the project: whatever .gitignore does not name."""
    patterns = ignored()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not any(fnmatch.fnmatch(name, each) for each in patterns)]
        for name in names:
            if not any(fnmatch.fnmatch(name, each) for each in patterns):
                yield Path(folder) / name


def offences(path: Path) -> list[str]:
    """Returns what a file holds that belongs to one machine."""
    size = path.stat().st_size
    if size > LARGEST:
        return [f"{path}: {size} bytes, expected at most {LARGEST}"]
    text = path.read_bytes().decode("utf-8", errors="ignore")
    found = (match.group().strip() for match in FORBIDDEN.finditer(text))
    return [f"{path}: {word!r}, expected no machine's folder and no registry" for word in found]


def test_the_tree_names_no_machine_and_holds_no_large_file() -> None:
    found = [line for path in files() for line in offences(path)]
    assert not found, "\n".join(found)


def test_the_walk_sees_the_project_and_leaves_out_what_git_ignores() -> None:
    seen = {path.relative_to(ROOT).as_posix() for path in files()}
    assert {"pyproject.toml", "conf/train.yaml", "pgkit/types.py", "tests/test_names.py"} <= seen
    assert not {path for path in seen if path.startswith((".venv", ".git/", "runs"))}


@pytest.mark.parametrize(
    "text",
    [
        "see /~work/main/a.py",
        "'/~root/.cache'",
        "(/~home/ann/x)",
        "/~Users/Ann/x",
        "open('/~tmp/thing')",
        "https://py~pi.org/simple",
        "https://download~.pytorch.org/whl",
        "file:/~//srv/x",
    ],
)
def test_the_search_bites(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(whole(text))
    assert offences(tmp_path / "a.md")


@pytest.mark.parametrize("text", ["pgkit/run/a.py", "runs/work/x", "<https://example.org/ro~ot/x>", "a /root.py"])
def test_the_search_spares_relative_paths(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(whole(text))
    assert not offences(tmp_path / "a.md")


def test_a_large_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x" * (LARGEST + 1))
    assert offences(tmp_path / "a.bin")
