"""Trees of HTML and SVG: text and attributes are escaped where the tree is written, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree.ElementTree import Element, tostring

Value = str | float
Children = Iterable[Element | str]


def element(name: str, attributes: Mapping[str, Value] | None = None, children: Children = ()) -> Element:
    """Returns an element; numbers are written with two decimals at most."""
    made = Element(name, {key: _text(value) for key, value in (attributes or {}).items()})
    for child in children:
        add(made, child)
    return made


def add(parent: Element, child: Element | str) -> None:
    """Appends an element or some text."""
    if isinstance(child, Element):
        parent.append(child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + child
    else:
        parent.text = (parent.text or "") + child


def written(tree: Element) -> str:
    """Returns the tree as HTML."""
    return tostring(tree, encoding="unicode", method="html")


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
