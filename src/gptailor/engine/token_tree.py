"""A row of tokens as a tree: what sequences have in common at their start stands there once.

Sequences are added one by one; the tree is then laid out depth first, so that a token's descendants
stand right behind it, and "who sees whom" is one number a token: where its descendants end. Knows
nothing of passages, tensors and models.
"""

from collections.abc import Sequence

__all__ = ["TokenTree"]

_ROOT = -1


class TokenTree:
    """The sequences of one row, their common beginnings shared."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, int], int] = {}  # (parent, token) -> node
        self._tokens: list[int] = []
        self._parents: list[int] = []

    def __len__(self) -> int:
        """Distinct tokens: what a row of this tree holds."""
        return len(self._tokens)

    def add(self, tokens: Sequence[int], after: int = _ROOT) -> list[int]:
        """Add a sequence.

        Args:
            tokens: Token ids.
            after: The node that they follow; the start if absent.

        Returns:
            The node of each token; a node stands for its token after all that is before it.
        """
        nodes = []
        for token in tokens:
            known = self._children.get((after, token))
            if known is None:
                known = self._children[after, token] = len(self._tokens)
                self._tokens.append(token)
                self._parents.append(after)
            nodes.append(known)
            after = known
        return nodes

    def common(self, tokens: Sequence[int], after: int = _ROOT) -> int:
        """How many of a sequence's tokens are there already."""
        for n, token in enumerate(tokens):
            known = self._children.get((after, token))
            if known is None:
                return n
            after = known
        return len(tokens)

    def laid_out(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Put the nodes in a row, each before its descendants.

        Returns:
            For each node its place in the row; then, by place: the token id, the position in its
            own sequence, and the place behind its last descendant.
        """
        n = len(self._tokens)
        sizes = [1] * n
        for node in reversed(range(n)):  # a parent is always older than its children
            if self._parents[node] != _ROOT:
                sizes[self._parents[node]] += sizes[node]
        places, depths = [0] * n, [0] * n
        free = {_ROOT: 0}  # node -> where its next child's descendants begin
        tokens, positions, ends = [0] * n, [0] * n, [0] * n
        for node, parent in enumerate(self._parents):
            place = free[parent]
            places[node], free[node] = place, place + 1
            free[parent] = place + sizes[node]
            depths[node] = 0 if parent == _ROOT else depths[parent] + 1
            tokens[place], positions[place] = self._tokens[node], depths[node]
            ends[place] = place + sizes[node]
        return places, tokens, positions, ends
