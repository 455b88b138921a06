"""Run candidates depth first along their prefix trie, and count what that costs.

Layer by layer over all batches of a block at once: each shared layer runs once, and one hidden
state is kept for each branching. `walk` runs layers; `count` goes the same way and runs nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gptailor.core.prefix_trie import Node, prefix_trie
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.batches import Batch
from gptailor.engine.head import score
from gptailor.engine.layer_cache import LayerCache
from gptailor.engine.skeleton import Inputs, Skeleton
from gptailor.engine.targets import Result, Targets
from gptailor.tasks.divergence import Teacher

__all__ = ["Block", "Work", "count", "forward", "walk"]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Batches that are run together.

    Args:
        batches: Packed passages.
        teachers: For each batch, what a member predicts at its targets, or None.
        numbers: For each batch, its index among all batches of the run.
    """

    batches: tuple[Batch, ...]
    teachers: tuple[Teacher | None, ...]
    numbers: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens run through each layer, padding counted."""
        return sum(batch.n_tokens for batch in self.batches)

    def singles(self) -> list["Block"]:
        """One block for each batch."""
        parts = zip(self.batches, self.teachers, self.numbers, strict=True)
        return [Block((batch,), (teacher,), (number,)) for batch, teacher, number in parts]

    def halves(self) -> list["Block"]:
        """Split the only batch by its passages; itself alone if it has one passage."""
        (batch,), (teacher,) = self.batches, self.teachers
        halves, blocks, start = batch.split(), [], 0
        for half in halves:  # their targets keep the order of the whole batch's
            stop = start + len(half.target_token)
            taught = None if teacher is None else teacher[slice(start, stop)]
            blocks.append(Block((half,), (taught,), self.numbers))
            start = stop
        return blocks


@dataclass(frozen=True, slots=True)
class Work:
    """What evaluations cost, in units whose speed can be measured.

    Args:
        layer_tokens: Tokens times layers run, after all sharing.
        unshared: The same if candidates shared nothing.
        n_runs: Layers run on a chunk of examples, however many.
        input_tokens: Tokens embedded, once for each embedding.
        target_tokens: Positions whose logits are made, once for each candidate.
        merges: Merged layers in the order in which they are needed.
        n_bytes: Most bytes of hidden states, masks and products held at one time.
    """

    layer_tokens: int = 0
    unshared: int = 0
    n_runs: int = 0
    input_tokens: int = 0
    target_tokens: int = 0
    merges: tuple[LayerSpec, ...] = ()
    n_bytes: int = 0

    def __add__(self, other: "Work") -> "Work":
        """The work of both, one after the other."""
        return Work(
            self.layer_tokens + other.layer_tokens,
            self.unshared + other.unshared,
            self.n_runs + other.n_runs,
            self.input_tokens + other.input_tokens,
            self.target_tokens + other.target_tokens,
            self.merges + other.merges,
            max(self.n_bytes, other.n_bytes),
        )


@dataclass(frozen=True, slots=True)
class _Visit:
    """One step of the walk: a layer to run, or at depth 0 the embedding.

    Args:
        node: In the trie.
        depth: Of the node; layers before it and itself.
        n_states: Hidden states of one batch that are held when it has run, its own among them.
        in_place: Whether the state that it starts from is not needed afterwards.
    """

    node: Node
    depth: int
    n_states: int
    in_place: bool


def _visits(root: Node) -> Iterator[_Visit]:
    """All nodes below an embedding, depth first, each before its children."""
    pending, n_held = [(root, 0, False)], 0
    while pending:
        node, depth, last = pending.pop()
        n_held -= last
        yield _Visit(node, depth, n_held + 1, last)
        n_held += bool(node.children)
        children = list(node.children.values())
        pending += [(child, depth + 1, child is children[-1]) for child in reversed(children)]


def walk(
    skeleton: Skeleton, layers: LayerCache, tailorings: Sequence[Tailoring], block: Block
) -> list[Result]:
    """Score every tailoring on a block of batches.

    Args:
        skeleton: Embeds tokens and makes logits.
        layers: Makes layers.
        tailorings: Candidates.
        block: The batches.

    Returns:
        One result a tailoring, in order.
    """
    results: dict[int, Result] = {}
    for root in prefix_trie(tailorings):
        first = tailorings[_any_leaf(root)]
        inputs = [skeleton.inputs(first, batch) for batch in block.batches]
        held: list[list[Tensor]] = []  # states that other children start from: (B, T, H) a batch
        path: list[int] = []  # candidates below each layer on the way here
        for visit in _visits(root):
            node = visit.node
            if visit.depth == 0:
                states = [each.hidden for each in inputs]
            else:
                states = held.pop() if visit.in_place else list(held[-1])
                _run_layer(layers.get(node.spec), node.spec.position, states, inputs)
                path[visit.depth - 1 :] = [node.n_leaves]
            for leaf in node.leaves:
                found, failure = _scored(skeleton, layers, tailorings[leaf], states, block)
                share = sum(block.n_tokens / n_leaves for n_leaves in reversed(path))
                results[leaf] = Result(None if failure else tuple(found), failure, share)
            if node.children:
                held.append(states)
    return [results[index] for index in range(len(tailorings))]


def count(tailorings: Sequence[Tailoring], batches: Sequence[Batch]) -> tuple[Work, int]:
    """Count what `walk` would do with a block of batches.

    Returns:
        The work, its bytes left out, and the most hidden states of one batch held at one time.
    """
    n_tokens, roots = sum(batch.n_tokens for batch in batches), prefix_trie(tailorings)
    visits = [visit for root in roots for visit in _visits(root)]
    specs = [visit.node.spec for visit in visits if visit.depth > 0]
    work = Work(
        layer_tokens=n_tokens * len(specs),
        unshared=n_tokens * sum(len(tailoring.layers) for tailoring in tailorings),
        n_runs=len(specs),
        input_tokens=n_tokens * len(roots),
        target_tokens=len(tailorings) * sum(len(batch.gather) for batch in batches),
        merges=tuple(spec for spec in specs if spec.method is not None),
    )
    return work, max(visit.n_states for visit in visits)


def forward(
    skeleton: Skeleton, layers: LayerCache, tailoring: Tailoring, batch: Batch
) -> Iterator[Tensor]:
    """Run one tailoring: the hidden states after each layer in turn, (B, T, H)."""
    inputs = skeleton.inputs(tailoring, batch)
    hidden = inputs.hidden
    for spec in tailoring.layers:
        hidden = _called(layers.get(spec), hidden, inputs.arguments[spec.position])
        yield hidden


def _run_layer(
    layer: nn.Module, position: int, states: list[Tensor], inputs: Sequence[Inputs]
) -> None:
    """Replace the states of all batches by those after a layer, one by one to free memory."""
    for index, given in enumerate(inputs):
        states[index] = _called(layer, states[index], given.arguments[position])


def _called(layer: nn.Module, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Run one layer; a few architectures' layers return a tuple with the hidden state first."""
    out = layer(hidden, **arguments)
    result: Tensor = out if isinstance(out, Tensor) else out[0]
    return result


def _scored(
    skeleton: Skeleton,
    layers: LayerCache,
    tailoring: Tailoring,
    states: Sequence[Tensor],
    block: Block,
) -> tuple[list[Targets], str | None]:
    """Targets of each batch, or the reason why the candidate can't be scored."""
    found: list[Targets] = []
    parts = zip(block.batches, block.teachers, block.numbers, states, strict=True)
    for batch, teacher, number, hidden in parts:
        targets = score(skeleton, tailoring, batch.gathered(hidden), batch, teacher)
        if not bool(targets.logprob.isfinite().all()):
            reason = _first_not_finite(skeleton, layers, tailoring, batch)
            return [], f"{reason}, in batch {number}"
        found.append(targets)
    return found, None


def _first_not_finite(
    skeleton: Skeleton, layers: LayerCache, tailoring: Tailoring, batch: Batch
) -> str:
    """Name the first layer after which a hidden state is not finite."""
    states = forward(skeleton, layers, tailoring, batch)
    for index, (spec, hidden) in enumerate(zip(tailoring.layers, states, strict=True)):
        if not bool(hidden.isfinite().all()):
            return f"non-finite hidden states after layer {index} ({spec})"
    return "non-finite log-probabilities after the head"


def _any_leaf(node: Node) -> int:
    while not node.leaves:
        node = next(iter(node.children.values()))
    return node.leaves[0]
