"""The prefix trie: candidates that start alike run their common layers once.

Knows nothing of tensors: it orders LayerSpecs and says which node follows which.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gptailor.tailoring import LayerSpec, Tailoring

__all__ = ["Node", "prefix_trie", "shared_share"]


@dataclass(slots=True)
class Node:
    """One layer to run, for every candidate below it.

    Args:
        spec: The layer; at the root, the embedding.
        children: What follows, in the order in which it was first asked for.
        leaves: Indices of the candidates that end here.
        n_leaves: How many candidates end here or below.
    """

    spec: LayerSpec
    children: dict[LayerSpec, "Node"] = field(default_factory=dict)
    leaves: list[int] = field(default_factory=list)
    n_leaves: int = 0


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


def shared_share(tailorings: Sequence[Tailoring]) -> float:
    """The share of layers that need not be run, thanks to common prefixes; 0 is none."""
    total = sum(len(tailoring.layers) for tailoring in tailorings)
    pending, run = prefix_trie(tailorings), 0
    while pending:
        node = pending.pop()
        pending += node.children.values()
        run += len(node.children)
    return 1 - run / total
