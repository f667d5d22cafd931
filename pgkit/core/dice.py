"""Stochastic computation graphs: one scalar whose derivatives, of any order, estimate those of the expected cost.

A graph has stochastic nodes, each a sample with the log probability it was drawn at, and costs, each with the nodes
that could have caused it. Derivatives of the surrogate are unbiased at every order; its value is the sum of the costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pgkit.errors import UsageError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Node:
    """A stochastic node: `log_prob` `[N]` of its samples, differentiable, given those of its `parents`.

    `baseline`, `[N]` or a number, may be anything that the node's own sample does not move: it changes no mean.
    """

    log_prob: Tensor
    parents: Sequence[str] = ()
    baseline: Tensor | float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cost: its `value` `[N]`, which may be differentiable itself, and the nodes that it is computed from."""

    value: Tensor
    parents: Sequence[str] = field(default=())


def magic_box(log_prob: Tensor) -> Tensor:
    """Returns exp(L − stop(L)): 1, with the derivatives of a likelihood ratio.

    Shapes: any.
    Source: Foerster et al. 2018, arXiv:1802.05098.
    """
    return (log_prob - log_prob.detach()).exp()


def surrogate(nodes: Mapping[str, Node], costs: Mapping[str, Cost]) -> Tensor:
    """Returns Σ_c □(W_c) c + Σ_w (□(A_w) − □(A_w ∪ w)) b_w of every sample, `[N]`; take its mean and differentiate it.

    W_c are all nodes upstream of a cost, A_w all those upstream of a node, however far. The baseline terms are 0 and
    their derivatives have mean 0; with A_w in them they serve second derivatives too.
    Shapes: log_prob and value `[N]`; baselines `[N]` or numbers.
    Raises: UsageError where a parent does not exist, or a node is upstream of itself.
    Source: Foerster et al. 2018, arXiv:1802.05098; Mao et al. 2019 (ICML); Schulman et al. 2015, arXiv:1506.05254.
    """
    ancestry = _ancestry(nodes)
    size = next(iter(costs.values())).value.shape if costs else torch.Size([1])

    def box(names: Iterable[str]) -> Tensor:
        listed = [nodes[name].log_prob for name in names]
        return magic_box(torch.stack(listed).sum(dim=0)) if listed else torch.ones(size)

    def upstream(owner: str, parents: Sequence[str]) -> set[str]:
        _check(owner, parents, nodes)
        return set(parents).union(*(ancestry[parent] for parent in parents))

    total = sum((box(upstream(name, cost.parents)) * cost.value for name, cost in costs.items()), torch.zeros(size))
    for name, node in nodes.items():
        reference = node.baseline.detach() if isinstance(node.baseline, Tensor) else node.baseline
        total = total + (box(ancestry[name]) - box(ancestry[name] | {name})) * reference
    return total


def _ancestry(nodes: Mapping[str, Node]) -> dict[str, set[str]]:
    """Returns every node's ancestors, itself left out."""
    found: dict[str, set[str]] = {}

    def visit(name: str, path: tuple[str, ...]) -> set[str]:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise UsageError(f"parents: {circle}, expected no node upstream of itself")
        if name not in found:
            parents = nodes[name].parents
            _check(name, parents, nodes)
            found[name] = set(parents).union(*(visit(parent, (*path, name)) for parent in parents))
        return found[name]

    for name in nodes:
        visit(name, ())
    return found


def _check(owner: str, parents: Sequence[str], nodes: Mapping[str, Node]) -> None:
    for parent in parents:
        if parent not in nodes:
            known = ", ".join(nodes) or "none"
            raise UsageError(f"parents of {owner}: {parent}, expected among {known}{did_you_mean(parent, nodes)}")
