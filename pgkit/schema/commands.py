"""What the commands share and what is one's own: options of a group that serve another command, keys of another's.

Told from the source of classes, so that it is said before torch is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgkit.errors import UsageError
from pgkit.schema.source import attribute, methods

Tree = Mapping[str, Any]

_SERVES: Mapping[tuple[str, str], Callable[[str], bool]] = {
    ("train", "estimator"): lambda target: "coefficients" in methods(target),
    ("fit", "estimator"): lambda target: "estimate" in methods(target),
    ("verify", "estimator"): lambda target: "estimate" in methods(target),
    ("train", "baseline"): lambda target: not attribute(target, "one_a_parameter", False),
    ("fit", "baseline"): lambda target: _reads_samples_alone(target),
    ("verify", "baseline"): lambda target: _reads_samples_alone(target),
    ("train", "optimizer"): lambda target: not attribute(target, "takes_names", False),
}
"""Whether a class of pgkit's own is for a command; where nothing is said, it is."""


def _reads_samples_alone(target: str) -> bool:
    """Returns whether a baseline asks for nothing that only trajectories have: a critic, the scores of single steps."""
    scored = attribute(target, "needs_scores", False) and "fit" not in methods(target)
    return not attribute(target, "needs_values", False) and not scored


def groups_of(root: Tree) -> list[str]:
    """Returns the groups that a root file has a choice of, Hydra's own left out."""
    listed = [str(next(iter(entry))) for entry in root.get("defaults", ()) if isinstance(entry, dict)]
    return [group for group in listed if not group.startswith("override ")]


def serves(command: str, group: str, node: Tree) -> bool:
    """Returns whether a command can use what a node describes; a class that is not pgkit's own is taken at its word."""
    target = str(node.get("_target_", ""))
    asked = _SERVES.get((command, group))
    try:
        return asked is None or not target.startswith("pgkit.") or asked(target)
    except UsageError:
        return True  # no class at all: for others to say


def check_commands(command: str, tree: Tree, chosen: Mapping[str, Any], options: Callable[[str], Tree]) -> None:
    """Raises UsageError for a node that another command is for, with the options that this one has.

    `chosen` holds the option that each group was chosen from; `options` gives the nodes of a group by their names.
    """
    for group, node in tree.items():
        if not isinstance(node, dict) or serves(command, group, node):
            continue
        here = [name for name, other in options(group).items() if serves(command, group, other)]
        others = [each for each in ("train", "fit") if each != command and serves(each, group, node)]
        name = chosen.get(group) or node.get("_target_")
        belongs = f"; {name} belongs to pgkit.{others[0]}" if others else ""
        raise UsageError(f"{group}: {name}, expected with pgkit.{command} one of {', '.join(here)}{belongs}")


def without_fit(tree: Tree, *, root: Tree, fit: Tree, typed: Sequence[str]) -> dict[str, Any]:
    """Returns the tree of `pgkit.verify` without what the file of a problem says to `pgkit.fit`: keys and groups.

    `root` and `fit` are the contents of both root files, `typed` the overrides of the command line.
    Raises: UsageError for a key of fit's that was typed.
    """
    named = {re.split(r"[=.]", line.lstrip("+"))[0] for line in typed}
    own = {*root, "problem", "estimator", "baseline"}
    borrowed = {*fit, *groups_of(fit)} - own
    if wrong := sorted(borrowed & named):
        raise UsageError(f"{wrong[0]}: not of pgkit.verify, which takes no steps; it belongs to pgkit.fit")
    typed_or_own = {*root, "problem", *named}
    return {key: value for key, value in tree.items() if key in typed_or_own or key not in {*borrowed, *own}}
