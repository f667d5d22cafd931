"""Descriptions of data files: JSON with one spelling for one content, which carries its own checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgkit.errors import UsageError


def render(content: Mapping[str, Any]) -> bytes:
    """Returns the file of a description: one spelling for one content, its own checksum in it."""
    checksum = hashlib.sha256(_canonical(content)).hexdigest()
    return _canonical({**content, "sha256": checksum})


def parse(path: Path, *, version: int, what: str) -> dict[str, Any]:
    """Returns the content of a description of `what`.

    Raises: UsageError naming the file that is missing, damaged, or written by a newer version.
    """
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except OSError as error:
        raise unreadable(path, error, what) from None
    except ValueError:
        raise damaged(path) from None
    body = {key: value for key, value in content.items() if key != "sha256"} if isinstance(content, dict) else {}
    # The bytes are compared and not the checksum alone, so that no change of spelling passes either.
    if render(body) != data:
        raise damaged(path)
    if body.get("format") != version:
        raise UsageError(f"{path}: format {body.get('format')}, expected {version}, which this version of pgkit reads")
    return body


def checked_bytes(path: Path, checksum: str, what: str) -> bytes:
    """Returns the content of a file that has this SHA-256 checksum.

    Raises: UsageError where it cannot be read or is another one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error, what) from None
    if hashlib.sha256(data).hexdigest() != checksum:
        raise damaged(path)
    return data


def damaged(path: Path) -> UsageError:
    """Returns the error of a file whose checksum differs."""
    return UsageError(f"{path}: damaged (its checksum differs), expected the file as it was saved")


def unreadable(path: Path, error: OSError, what: str) -> UsageError:
    """Returns the error of a file that cannot be read."""
    return UsageError(f"{path}: {error.strerror or error}, expected {what}")


def _canonical(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
