"""What pyproject.toml lists by hand is what the tree holds; the built wheel itself is tried in .ci/wheel_test.py."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_listed() -> None:
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "pgkit").rglob("*.py")}
    expected = {".".join(folder.parts) for folder in folders} | {"pgkit.conf"}
    assert PROJECT["tool"]["setuptools"]["packages"] == sorted(expected)


def test_every_dependency_is_pinned_once() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    pinned = [line.partition("==")[0] for line in lines]
    assert len(pinned) == len(set(pinned))
    extras = [each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra]
    wanted = {re.split(r"[\[<>=]", each)[0] for each in PROJECT["project"]["dependencies"] + extras}
    assert wanted <= set(pinned)


def test_nothing_but_configuration_lies_in_conf() -> None:
    files = [path for path in (ROOT / "conf").rglob("*") if path.is_file()]
    assert files and all(path.suffix == ".yaml" for path in files)


def test_every_console_script_has_its_module() -> None:
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert re.search(rf"^def {function}\(", source, re.MULTILINE)
