"""Prefix trie of candidates: layers that candidates have in common at the start run once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gptailor.core.tailoring import LayerSpec, Tailoring

__all__ = ["Node", "in_order", "prefix_trie"]


@dataclass(slots=True)
class Node:
    """One layer to run, for every candidate below it."""

    spec: LayerSpec  # at the root, the embedding
    children: dict[LayerSpec, "Node"] = field(default_factory=dict)  # the layers that follow
    leaves: list[int] = field(default_factory=list)  # indices of the candidates that end here
    n_leaves: int = 0  # how many candidates end here or below


def prefix_trie(tailorings: Sequence[Tailoring]) -> list[Node]:
    """Merge the candidates' paths, embedding first; one root for each distinct embedding."""
    roots: dict[LayerSpec, Node] = {}
    for index, tailoring in enumerate(tailorings):
        node = roots.setdefault(tailoring.embedding, Node(tailoring.embedding))
        node.n_leaves += 1
        for spec in tailoring.layers:
            node = node.children.setdefault(spec, Node(spec))
            node.n_leaves += 1
        node.leaves.append(index)
    return list(roots.values())


def in_order(tailorings: Sequence[Tailoring]) -> Iterator[tuple[int, int]]:
    """Each candidate's index and the layers it shares with the one before, in the engine's order.

    Example:
        >>> a, b = Tailoring.whole("base", 4), Tailoring.whole("math", 4)
        >>> list(in_order([a, b, a]))
        [(0, 0), (2, 4), (1, 0)]
    """
    pending = [(root, 0) for root in reversed(prefix_trie(tailorings))]
    shared = 0
    while pending:
        node, depth = pending.pop()
        shared = min(shared, max(0, depth - 1))  # it branches off above this node
        for index in node.leaves:
            yield index, shared
            shared = depth
        pending += [(child, depth + 1) for child in reversed(node.children.values())]
