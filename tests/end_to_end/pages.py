"""The pages of docs/agents, read: the commands of an agent, and its tables of what it logs."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "agents"
COLUMNS = "| tag | unit | when | read it as |"
PROGRAM = "    python -m pgkit.train "


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tag of a table; `when` are the circumstances under which a line has it, none for every line."""

    tag: str
    unit: str
    when: tuple[str, ...]
    reading: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """An agent's page; `own` are the rows of the page itself, `rows` those of its parts besides, page first."""

    commands: list[list[str]]
    own: dict[str, Row]
    rows: dict[str, Row]
    text: str


def page_of(agent: str) -> Page:
    """Returns the page of an agent, with the shared tables that it names."""
    text, shared = _read(agent), _sections(_read("README"))
    logged = text.partition("\n## What it logs\n")[2]
    parts = [shared[anchor] for anchor in re.findall(r"\(README\.md#([\w-]+)\)", logged)]
    names: dict[str, list[str]] = {}
    for part in parts:
        for placeholder, listed in re.findall(r"`(<\w+>)` is ((?:`[^`]+`(?:, )?)+)", part):
            names.setdefault(placeholder, []).extend(re.findall(r"`([^`]+)`", listed))
    own = {row.tag: row for row in _expanded(_table(logged), names)}
    everyones = {row.tag: row for part in parts for row in _expanded(_table(part), names)}
    commands = [line.removeprefix(PROGRAM) for line in text.splitlines() if line.startswith(PROGRAM)]
    return Page(commands=[shlex.split(line) for line in commands], own=own, rows=everyones | own, text=text)


def _read(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def _sections(text: str) -> dict[str, str]:
    """Returns what stands under every heading of the third level, by its anchor."""
    found = {}
    for section in text.split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        found[title.lower().replace(" ", "-")] = body.partition("\n## ")[0]
    return found


def _table(text: str) -> Iterator[Row]:
    """Yields the rows of the first table of tags, one for every tag."""
    lines = text.splitlines()
    if COLUMNS not in lines:
        return
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[lines.index(COLUMNS) + 2 :]):
        tags, unit, when, reading = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        for tag in re.findall(r"`([^`]+)`", tags):
            yield Row(tag=tag, unit=unit, when=tuple(re.findall(r"`([^`]+)`", when)), reading=reading)


def _expanded(rows: Iterator[Row], names: Mapping[str, list[str]]) -> Iterator[Row]:
    """Yields every row once for every name that its placeholder may stand for."""
    for row in rows:
        found = re.search(r"<\w+>", row.tag)
        if found is None:
            yield row
            continue
        for name in names.get(found[0], []):
            yield replace(row, tag=row.tag.replace(found[0], name))
