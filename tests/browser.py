"""Pages as headless Chromium sees them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import final

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VOID = {"meta", "link", "img", "br", "hr", "input", "source"}
MEASURE = """
<script>
for (const mark of document.querySelectorAll('.mark')) {
  const box = mark.getBoundingClientRect();
  mark.dataset.box = [box.left, box.top, box.width, box.height].join(' ');
}
const widest = [...document.querySelectorAll('body *')].filter(each => !each.closest('.scroll, .skip'))
  .map(each => each.getBoundingClientRect().right);
document.body.dataset.widest = Math.max(...widest);
document.body.dataset.width = innerWidth;
</script>
"""
"""What a copy of a page says about itself: the place and size of every mark, and how far to the right it reaches."""


@final
@dataclass
class Node:
    """One element of a page, with the text right inside it."""

    name: str
    attributes: dict[str, str]
    text: str = ""
    inside: list[Node] = field(default_factory=list)

    def all(self, name: str) -> list[Node]:
        """Returns every element of that name in here."""
        own = [self] if self.name == name else []
        return own + [found for each in self.inside for found in each.all(name)]

    def whole(self) -> str:
        """Returns the text in here, that of elements after it."""
        return self.text + "".join(each.whole() for each in self.inside)

    def classed(self, word: str) -> list[Node]:
        """Returns every element in here that has a class."""
        own = [self] if word in self.attributes.get("class", "").split() else []
        return own + [found for each in self.inside for found in each.classed(word)]


@final
class _Reader(HTMLParser):
    """Builds the tree."""

    def __init__(self) -> None:
        super().__init__()
        self.path = [Node("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {key: value or "" for key, value in attrs})
        self.path[-1].inside.append(node)
        if tag not in VOID:
            self.path.append(node)

    def handle_endtag(self, tag: str) -> None:
        if any(node.name == tag for node in self.path):
            while self.path.pop().name != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.path[-1].text += data


def parsed(text: str) -> Node:
    """Returns the tree of a page."""
    reader = _Reader()
    reader.feed(text)
    return reader.path[0]


def chromium() -> str:
    """Returns the browser; without one the tests fail, as a page that nobody opened was not tested."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found, f"no browser: none of {', '.join(NAMES)} is installed, expected Chromium (CONTRIBUTING.md says how)"
    return found


def dump(page: Path, *, width: int = 1280) -> Node:
    """Returns the tree of a page after the browser drew it."""
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    ended = subprocess.run(
        [*command, f"--user-data-dir={page.parent / 'browser'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return parsed(ended.stdout)


def measured(page: Path, *, width: int = 1280) -> Node:
    """Returns the tree of a page with the boxes of its marks; it was drawn in a frame of that width."""
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    copy = page.with_name("measured.html")
    # The frame's own script hands its tree to the page around it: two files may not look into each other.
    copy.write_text(
        text.replace("default-src 'none'; style-src 'unsafe-inline'", "").replace(
            "</body>", f"{MEASURE}<script>parent.postMessage(document.documentElement.outerHTML, '*')</script></body>"
        ),
        encoding="utf-8",
    )
    around = page.with_name("around.html")
    around.write_text(
        f"""<!DOCTYPE html><body><iframe src="{copy.name}" width="{width}" height="900" style="border:0"></iframe>
<script>onmessage = event => {{ document.body.append(event.data); }}</script></body>""",
        encoding="utf-8",
    )
    return parsed(dump(around).all("body")[0].whole())
