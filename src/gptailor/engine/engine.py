"""Run tailorings on packed batches, sharing all the work that can be shared.

Candidates asked together are walked depth first along their prefix trie, layer by layer over all
batches at once: each shared layer runs once, each merged layer is needed at one time only, and one
hidden state is kept for each branching. Logits are made only where something is predicted. Knows
nothing of tasks: it tells how likely each wanted token is.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gptailor.core.prefix_trie import Node, prefix_trie
from gptailor.core.tailoring import Tailoring
from gptailor.engine.batches import Batch
from gptailor.engine.layer_cache import LayerCache
from gptailor.engine.skeleton import Inputs, Skeleton
from gptailor.engine.targets import Result, Run, Targets
from gptailor.errors import ConfigError, is_out_of_memory
from gptailor.family import Family
from gptailor.tasks.divergence import Teacher, compact, divergence

__all__ = ["STATE_BYTES", "Engine"]

logger = logging.getLogger(__name__)

GIB = 2**30
STATE_BYTES = GIB // 4
_HEAD_BYTES = 256 * 2**20  # float32 logits made at a time
_CACHED_ROWS = 32  # of which a CPU's cache holds the probabilities


class Engine:
    """Score tailorings of one family without building models.

    Args:
        family: The members, in memory.
        device: Where layers run.
        cache_bytes: Most bytes of merged layers kept.
        member_bytes: Most bytes of members' layers brought to the device, where the members
            themselves are not on it (see `load_family`); None where they are.
        state_bytes: Most bytes of hidden states at one level of the trie; more batches than fit
            are run one block after the other.

    Raises:
        ConfigError: `member_bytes` holds no layer.
    """

    def __init__(
        self,
        family: Family,
        *,
        device: str | torch.device = "cpu",
        cache_bytes: int = 4 * GIB,
        member_bytes: int | None = None,
        state_bytes: int = STATE_BYTES,
    ) -> None:
        self.family = family
        self.device = torch.device(device)
        self._skeleton = Skeleton(family, self.device)
        _refuse_small(family, member_bytes)
        self._layers = LayerCache(
            family,
            self._skeleton.templates,
            self.device,
            cache_bytes=cache_bytes,
            member_bytes=member_bytes,
        )
        self._state_bytes = state_bytes

    @property
    def attention_tokens(self) -> float:
        """In a row of so many tokens attention costs as much as the rest of a layer.

        Attention's work grows with the row, the rest with a layer's parameters; a CPU runs the
        former at about half of the latter's speed (2 cores with AVX-512 or AMX, hidden size 576).
        """
        return max(self.family.layer_parameters) / int(self.family.config.hidden_size) / 2

    @property
    def merged_bytes(self) -> int:
        """Bytes of merged layers held now."""
        return self._layers.merged.n_bytes

    @property
    def brought_bytes(self) -> int:
        """Bytes of members' layers held on the device beside the members."""
        return self._layers.taken.n_bytes

    @torch.inference_mode()
    def run(
        self,
        tailorings: Sequence[Tailoring],
        batches: Sequence[Batch],
        teachers: Sequence[Teacher] | None = None,
    ) -> list[Result]:
        """Score every tailoring on every batch.

        Args:
            tailorings: Candidates; those that start alike share the work of their common prefix.
            batches: Packed passages.
            teachers: For each batch, what a member predicts at its targets; with it, divergences
                are told.

        Returns:
            One result a tailoring, in order. A candidate that can't be scored does not harm others.
        """
        runs = [Run(len(batches)) for _ in tailorings]
        start = 0
        for block in self._blocks(batches):
            taught = None if teachers is None else teachers[start : start + len(block)]
            self._run_block(tailorings, runs, block, taught, range(start, start + len(block)))
            start += len(block)
        return [run.result() for run in runs]

    @torch.inference_mode()
    def teach(self, tailoring: Tailoring, batches: Sequence[Batch]) -> list[Teacher]:
        """What a model predicts at every target, in the compact form that divergences need."""
        taught = []
        for batch in batches:
            hidden = self._forward(tailoring, batch)[batch.target_place.to(self.device)]
            step = self._head_rows(len(hidden))
            taught.append(
                Teacher.joined(
                    [
                        compact(self._skeleton.logits(tailoring, hidden[low : low + step]))
                        for low in range(0, len(hidden), step)
                    ]
                )
            )
        return taught

    def _head_rows(self, n: int) -> int:
        """How many of n positions' logits are made at a time: equal parts, few rows being slow."""
        most = max(1, _HEAD_BYTES // (4 * int(self.family.config.vocab_size)))
        return max(1, math.ceil(n / math.ceil(n / most))) if n else 1

    def _forward(self, tailoring: Tailoring, batch: Batch) -> Tensor:
        """The hidden states after the last layer where something is predicted, (G, H)."""
        inputs = self._skeleton.inputs(tailoring, batch)
        hidden = inputs.hidden
        for spec in tailoring.layers:
            hidden = _called(self._layers.get(spec), hidden, inputs.arguments[spec.position])
        return _gathered(hidden, batch)

    def _blocks(self, batches: Sequence[Batch]) -> list[list[Batch]]:
        """Batches in order, as many at a time as `state_bytes` allows."""
        width = self.family.config.hidden_size * self.family.dtype.itemsize
        blocks: list[list[Batch]] = []
        room = 0
        for batch in batches:
            need = batch.n_tokens * width
            if not blocks or need > room:
                blocks.append([])
                room = self._state_bytes
            blocks[-1].append(batch)
            room -= need
        return blocks

    def _run_block(
        self,
        tailorings: Sequence[Tailoring],
        runs: list[Run],
        block: list[Batch],
        teachers: Sequence[Teacher] | None,
        numbers: Sequence[int],
    ) -> None:
        """Run a block; with too little memory, batch by batch, then in halves of a batch.

        Args:
            tailorings: Candidates.
            runs: Theirs, to which what is found is added.
            block: Batches.
            teachers: One a batch.
            numbers: Of the batches, among all that the runs are about.
        """
        walk = self._walked(tailorings, block, teachers, numbers)
        if walk is not None:
            for index, run in enumerate(runs):
                run.add(numbers, walk.found[index], walk.layer_tokens[index], walk.failures[index])
            return
        if len(block) > 1:
            for place, batch in enumerate(block):
                taught = None if teachers is None else teachers[place : place + 1]
                self._run_block(tailorings, runs, [batch], taught, [numbers[place]])
            return
        self._run_apart(tailorings, runs, block[0], teachers, numbers[0])

    def _walked(
        self,
        tailorings: Sequence[Tailoring],
        block: list[Batch],
        teachers: Sequence[Teacher] | None,
        numbers: Sequence[int],
    ) -> "_Walk | None":
        """Walk a block; None where memory did not suffice, with nothing of it kept."""
        try:
            walk = _Walk(self, tailorings, block, teachers, numbers)
            for root in prefix_trie(tailorings):
                walk.begin(root)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("out of memory on %d batches; trying smaller ones", len(block))
            return None
        return walk

    def _run_apart(
        self,
        tailorings: Sequence[Tailoring],
        runs: list[Run],
        batch: Batch,
        teachers: Sequence[Teacher] | None,
        number: int,
    ) -> None:
        """Run the halves of a batch that was too large, and put the targets together again."""
        halves = batch.split()
        if len(halves) == 1:
            for run in runs:
                run.fail(f"out of memory on one batch of {batch.n_tokens} tokens")
            return
        n_first = len(halves[0].target_token)  # halves keep the order of the whole's targets
        ends = (slice(None, n_first), slice(n_first, None))
        parts = []
        for half, end in zip(halves, ends, strict=True):
            parts.append([Run(1) for _ in tailorings])
            taught = None if teachers is None else [teachers[0][end]]
            self._run_block(tailorings, parts[-1], [half], taught, [number])
        for index, run in enumerate(runs):
            results = [part[index].result() for part in parts]
            cost = sum(result.layer_tokens for result in results)
            failure = next((result.failure for result in results if result.failure), None)
            joined = [r.targets[0] for r in results if r.targets] if failure is None else []
            run.add([number], [Targets.joined(joined)] if joined else [], cost, failure)

    def score(
        self, tailoring: Tailoring, hidden: Tensor, batch: Batch, teacher: Teacher | None
    ) -> Targets:
        """Turn gathered hidden states, (G, H), into what is wanted at the batch's targets."""
        step = self._head_rows(len(hidden))
        part = _CACHED_ROWS if self.device.type == "cpu" else step
        places, tokens = batch.target_place.to(self.device), batch.target_token.to(self.device)
        logprob = torch.empty(len(places), dtype=torch.float32, device=self.device)
        greedy = torch.empty(len(places), dtype=torch.bool, device=self.device)
        apart = torch.empty_like(logprob) if teacher is not None else None
        for low in range(0, len(hidden), step):
            logits = self._skeleton.logits(tailoring, hidden[low : low + step])
            for first in range(0, len(logits), part):
                told = logits[first : first + part].log_softmax(dim=-1, dtype=torch.float32)
                rows = places - (low + first)
                here = ((rows >= 0) & (rows < len(told))).nonzero()[:, 0]
                rows, wanted = rows[here], tokens[here]
                logprob[here] = told[rows, wanted]
                greedy[here] = _greedy(told, rows, wanted)
                if apart is not None and teacher is not None:
                    apart[here] = divergence(teacher[here], told[rows])
        return Targets(logprob.cpu(), greedy.cpu(), None if apart is None else apart.cpu())

    def explain(self, tailoring: Tailoring, batch: Batch) -> str:
        """Name the first layer after which a hidden state is not finite."""
        inputs = self._skeleton.inputs(tailoring, batch)
        hidden = inputs.hidden
        for index, spec in enumerate(tailoring.layers):
            hidden = _called(self._layers.get(spec), hidden, inputs.arguments[spec.position])
            if not bool(hidden.isfinite().all()):
                return f"non-finite hidden states after layer {index} ({spec})"
        return "non-finite log-probabilities after the head"


class _Walk:
    """One depth-first walk along the trie over one block of batches."""

    def __init__(
        self,
        engine: Engine,
        tailorings: Sequence[Tailoring],
        block: Sequence[Batch],
        teachers: Sequence[Teacher] | None,
        numbers: Sequence[int],
    ) -> None:
        self._engine, self._tailorings, self._block = engine, tailorings, block
        self._teachers, self._numbers = teachers, numbers
        self._n_tokens = sum(batch.n_tokens for batch in block)
        self._inputs: list[Inputs] = []
        self.found: list[list[Targets]] = [[] for _ in tailorings]
        self.failures: list[str | None] = [None for _ in tailorings]
        self.layer_tokens = [0.0 for _ in tailorings]

    def begin(self, root: Node) -> None:
        """Embed the block and walk everything below this embedding."""
        first = self._tailorings[_any_leaf(root)]
        self._inputs = [self._engine._skeleton.inputs(first, batch) for batch in self._block]
        self._visit(root, [inputs.hidden for inputs in self._inputs])

    def _visit(self, node: Node, states: list[Tensor]) -> list[int]:
        """Score what ends here, run what follows; the indices of all leaves below."""
        below = list(node.leaves)
        for leaf in node.leaves:
            self._score(leaf, states)
        children = list(node.children.values())
        for child in children:
            last = child is children[-1]
            leaves = self._visit(child, self._step(child, states, in_place=last))
            for leaf in leaves:
                self.layer_tokens[leaf] += self._n_tokens / child.n_leaves
            below += leaves
        return below

    def _step(self, node: Node, states: list[Tensor], *, in_place: bool) -> list[Tensor]:
        """Run one layer on every batch; reuse the list where nobody needs the old states."""
        layer = self._engine._layers.get(node.spec)
        result = states if in_place else list(states)
        for index, inputs in enumerate(self._inputs):
            result[index] = _called(layer, states[index], inputs.arguments[node.spec.position])
        return result

    def _score(self, leaf: int, states: Sequence[Tensor]) -> None:
        tailoring = self._tailorings[leaf]
        for index, (batch, hidden) in enumerate(zip(self._block, states, strict=True)):
            teacher = None if self._teachers is None else self._teachers[index]
            targets = self._engine.score(tailoring, _gathered(hidden, batch), batch, teacher)
            if not bool(targets.logprob.isfinite().all()):
                why = self._engine.explain(tailoring, batch)
                self.failures[leaf] = f"{why}, in batch {self._numbers[index]}"
                return
            self.found[leaf].append(targets)


def _refuse_small(family: Family, member_bytes: int | None) -> None:
    largest = max(family.layer_parameters) * family.dtype.itemsize
    if member_bytes is not None and member_bytes < largest:
        raise ConfigError(
            f"engine.member_bytes: {member_bytes} bytes do not hold one layer; the largest has "
            f"{largest}, so give that or more"
        )


def _called(layer: nn.Module, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Run one layer; a few architectures' layers give a tuple with the hidden state first."""
    out = layer(hidden, **arguments)
    result: Tensor = out if isinstance(out, Tensor) else out[0]
    return result


def _gathered(hidden: Tensor, batch: Batch) -> Tensor:
    """(B, T, H) -> (G, H), where something is predicted."""
    return hidden.flatten(0, 1)[batch.gather.to(hidden.device)]


def _greedy(logprobs: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """Whether a token is the likeliest of its row, the first of several: bool (M,)."""
    greedy = logprobs.amax(dim=-1)[rows] == logprobs[rows, wanted]
    hits = greedy.nonzero()[:, 0]  # few: only they are looked through for an equal before them
    greedy[hits] = logprobs[rows[hits]].argmax(dim=-1) == wanted[hits]
    return greedy


def _any_leaf(node: Node) -> int:
    while not node.leaves:
        node = next(iter(node.children.values()))
    return node.leaves[0]
