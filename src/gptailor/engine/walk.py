"""Run candidates depth first along their prefix trie, and count what that costs.

Layer by layer over all batches of a block at once: each shared layer runs once, and one hidden
state is kept for each branching. `walk` runs layers; `count` goes the same way and runs nothing.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gptailor.core.prefix_trie import Node, prefix_trie
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.batches import Batch
from gptailor.engine.head import Targets, score
from gptailor.engine.layer_cache import LayerCache
from gptailor.engine.skeleton import Inputs, Skeleton
from gptailor.tasks.divergence import Teacher

__all__ = ["Item", "Result", "Work", "count", "forward", "hidden_of", "run_layer", "walk"]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One batch of a run."""

    batch: Batch
    teacher: Teacher | None  # what a member predicts at the batch's targets
    number: int  # index of the batch among all of the run

    def halves(self) -> "list[Item]":
        """Two of half the passages each, in order; itself alone if it has one passage."""
        items, start = [], 0
        for half in self.batch.split():
            stop = start + len(half.target_token)
            teacher = None if self.teacher is None else self.teacher[slice(start, stop)]
            items.append(Item(half, teacher, self.number))
            start = stop
        return items


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The result of one tailoring on some batches."""

    targets: tuple[Targets, ...] | None  # one for each batch; None if it could not be scored
    failure: str | None  # why it could not be scored
    layer_tokens: float  # tokens times layers run for it; shared layers are divided evenly

    @classmethod
    def joined(cls, parts: "Sequence[Result]") -> "Result":
        """Join results on consecutive batches; of several failures the first is kept."""
        layer_tokens = sum(part.layer_tokens for part in parts)
        failure = next((part.failure for part in parts if part.failure is not None), None)
        if failure is not None:
            return cls(None, failure, layer_tokens)
        targets = tuple(itertools.chain.from_iterable(part.targets or () for part in parts))
        return cls(targets, None, layer_tokens)

    def as_one_batch(self) -> "Result":
        """The same with all targets in one, as of one batch."""
        joined = None if self.targets is None else (Targets.joined(self.targets),)
        return Result(joined, self.failure, self.layer_tokens)


@dataclass(frozen=True, slots=True)
class Work:
    """What evaluations cost, in units whose speed can be measured."""

    layer_tokens: int = 0  # tokens times layers run, after all sharing
    unshared: int = 0  # the same if candidates shared nothing
    n_runs: int = 0  # layers run on a chunk of examples, however many
    input_tokens: int = 0  # tokens embedded, once for each embedding
    target_tokens: int = 0  # positions whose logits are made, once for each candidate
    merges: tuple[LayerSpec, ...] = ()  # merged layers, in the order in which they are needed
    n_bytes: int = 0  # most bytes of hidden states, masks and products held at one time

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


def _visits(root: Node) -> Iterator[tuple[Node, int, int, bool]]:
    """All nodes below an embedding, depth first, each before its children.

    Yields:
        The node; its depth, 0 for the embedding; how many hidden states of one batch are held when
        it has run, its own among them; and whether the state it starts from is not needed again.
    """
    pending, n_held = [(root, 0, False)], 0
    while pending:
        node, depth, last = pending.pop()
        n_held -= last
        yield node, depth, n_held + 1, last
        n_held += bool(node.children)
        children = list(node.children.values())
        pending += [(child, depth + 1, child is children[-1]) for child in reversed(children)]


def walk(
    skeleton: Skeleton, layers: LayerCache, tailorings: Sequence[Tailoring], block: Sequence[Item]
) -> list[Result]:
    """Score every tailoring on batches that are run together; one result each, in order."""
    found: dict[int, list[Targets]] = {}  # on the device, which nothing waits for until the end
    shares: dict[int, float] = {}
    n_tokens = sum(item.batch.n_tokens for item in block)
    for root in prefix_trie(tailorings):
        first = next(each for each in tailorings if each.embedding == root.spec)
        inputs = [skeleton.inputs(first, item.batch) for item in block]
        held: list[list[Tensor]] = []  # states that other children start from: (B, T, H) a batch
        path: list[int] = []  # number of candidates below each layer on the way here
        for node, depth, _, in_place in _visits(root):
            if depth == 0:
                states = [each.hidden for each in inputs]
            else:
                states = held.pop() if in_place else list(held[-1])
                _run_all(layers.get(node.spec), node.spec.position, states, inputs)
                path[depth - 1 :] = [node.n_leaves]
            for leaf in node.leaves:
                found[leaf] = _scored(skeleton, tailorings[leaf], states, block)
                shares[leaf] = sum(n_tokens / n_leaves for n_leaves in reversed(path))
            if node.children:
                held.append(states)
    scored = _on_cpu([found[index] for index in range(len(tailorings))])
    return [
        _result(skeleton, layers, tailoring, targets, shares[index], block)
        for index, (tailoring, targets) in enumerate(zip(tailorings, scored, strict=True))
    ]


def count(tailorings: Sequence[Tailoring], batches: Sequence[Batch]) -> tuple[Work, int]:
    """Count what `walk` would do with a block of batches.

    Returns:
        The work without its bytes, and the most hidden states of one batch held at one time.
    """
    n_tokens, roots = sum(batch.n_tokens for batch in batches), prefix_trie(tailorings)
    visits = [visit for root in roots for visit in _visits(root)]
    specs = [node.spec for node, depth, _, _ in visits if depth > 0]
    work = Work(
        layer_tokens=n_tokens * len(specs),
        unshared=n_tokens * sum(len(tailoring.layers) for tailoring in tailorings),
        n_runs=len(specs),
        input_tokens=n_tokens * len(roots),
        target_tokens=len(tailorings) * sum(len(batch.gather) for batch in batches),
        merges=tuple(spec for spec in specs if spec.method is not None),
    )
    return work, max(n_states for _, _, n_states, _ in visits)


def forward(
    skeleton: Skeleton, layers: LayerCache, tailoring: Tailoring, batch: Batch
) -> Iterator[Tensor]:
    """Run one tailoring: the hidden states after each layer in turn, (B, T, H)."""
    inputs = skeleton.inputs(tailoring, batch)
    hidden = inputs.hidden
    for spec in tailoring.layers:
        hidden = run_layer(layers.get(spec), hidden, inputs.arguments[spec.position])
        yield hidden


def _run_all(
    layer: nn.Module, position: int, states: list[Tensor], inputs: Sequence[Inputs]
) -> None:
    """Replace the states of all batches by those after a layer, one by one to free memory."""
    for index, given in enumerate(inputs):
        states[index] = run_layer(layer, states[index], given.arguments[position])


def run_layer(layer: nn.Module, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Run one layer; a few architectures' layers return a tuple with the hidden state first."""
    return hidden_of(layer(hidden, **arguments))


def hidden_of(answer: Any) -> Tensor:
    """The hidden state in what a layer returned."""
    hidden: Tensor = answer if isinstance(answer, Tensor) else answer[0]
    return hidden


def _scored(
    skeleton: Skeleton, tailoring: Tailoring, states: Sequence[Tensor], block: Sequence[Item]
) -> list[Targets]:
    """Targets of each batch, on the device."""
    return [
        score(skeleton, tailoring, item.batch.gathered(hidden), item.batch, item.teacher)
        for item, hidden in zip(block, states, strict=True)
    ]


def _on_cpu(found: Sequence[Sequence[Targets]]) -> list[tuple[Targets, ...]]:
    """Targets of each candidate and batch, brought to the CPU in one copy."""
    flat = [targets for each in found for targets in each]
    if not flat:
        return [() for _ in found]
    sizes = [len(targets.logprob) for targets in flat]
    parts = iter(Targets.joined(flat).on_cpu().split(sizes))
    return [tuple(itertools.islice(parts, len(each))) for each in found]


def _result(
    skeleton: Skeleton,
    layers: LayerCache,
    tailoring: Tailoring,
    targets: tuple[Targets, ...],
    share: float,
    block: Sequence[Item],
) -> Result:
    """The result of a candidate: its targets, or the reason why it can't be scored."""
    for item, each in zip(block, targets, strict=True):
        if not bool(each.logprob.isfinite().all()):
            reason = _first_not_finite(skeleton, layers, tailoring, item.batch)
            return Result(None, f"{reason}, in batch {item.number}", share)
    return Result(targets, None, share)


def _first_not_finite(
    skeleton: Skeleton, layers: LayerCache, tailoring: Tailoring, batch: Batch
) -> str:
    """Name the first layer after which a hidden state is not finite."""
    states = forward(skeleton, layers, tailoring, batch)
    for index, (spec, hidden) in enumerate(zip(tailoring.layers, states, strict=True)):
        if not bool(hidden.isfinite().all()):
            return f"non-finite hidden states after layer {index} ({spec})"
    return "non-finite log-probabilities after the head"
