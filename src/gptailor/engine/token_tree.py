"""A prefix tree of token sequences, laid out as one row.

The layout is depth first, so a token's descendants follow it directly, and one number a token says
which tokens may attend to it: the end of its subtree.
"""

from collections.abc import Sequence

__all__ = ["TokenTree"]

_ROOT = -1


class TokenTree:
    """The sequences of one row; common prefixes are stored once."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, int], int] = {}  # (parent, token) -> node
        self._tokens: list[int] = []
        self._parents: list[int] = []

    def __len__(self) -> int:
        """Nodes: the tokens of the row."""
        return len(self._tokens)

    def add(self, tokens: Sequence[int], after: int = _ROOT) -> list[int]:
        """Add a sequence.

        Args:
            tokens: Token ids.
            after: The node that they follow; the start of the row if absent.

        Returns:
            The node of each token.
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
        """Length of the longest prefix of a sequence that is in the tree."""
        for n, token in enumerate(tokens):
            known = self._children.get((after, token))
            if known is None:
                return n
            after = known
        return len(tokens)

    def laid_out(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Put the nodes in a row, each before its descendants.

        Returns:
            For each node its index in the row; then, by index: the token id, the position in its
            own sequence, and the end (exclusive) of its subtree.
        """
        n = len(self._tokens)
        sizes = [1] * n
        for node in reversed(range(n)):  # a parent is always older than its children
            if self._parents[node] != _ROOT:
                sizes[self._parents[node]] += sizes[node]
        places, depths = [0] * n, [0] * n
        free = {_ROOT: 0}  # node -> index of its next child
        tokens, positions, ends = [0] * n, [0] * n, [0] * n
        for node, parent in enumerate(self._parents):
            place = free[parent]
            places[node], free[node] = place, place + 1
            free[parent] = place + sizes[node]
            depths[node] = 0 if parent == _ROOT else depths[parent] + 1
            tokens[place], positions[place] = self._tokens[node], depths[node]
            ends[place] = place + sizes[node]
        return places, tokens, positions, ends
