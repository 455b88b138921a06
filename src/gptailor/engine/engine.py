"""Run tailorings on packed batches, sharing all the work that can be shared.

It returns the log-probability of each requested token, and does not depend on tasks.
"""

import dataclasses
import logging
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from gptailor.core.tailoring import Tailoring
from gptailor.engine.batches import BATCH_TOKENS, Batch, pack
from gptailor.engine.cpu.processor import keep_freed_pages
from gptailor.engine.head import teach
from gptailor.engine.layer_cache import LayerCache
from gptailor.engine.skeleton import Skeleton
from gptailor.engine.walk import Item, Result, Work, count, forward, walk
from gptailor.errors import ConfigError, is_out_of_memory
from gptailor.family import Family
from gptailor.family.architecture import rotary_bounds
from gptailor.tasks.divergence import Teacher
from gptailor.tasks.task import Passage

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

GIB = 2**30


class Engine:
    """Score tailorings of one family without building models.

    Args:
        family: The members, in memory.
        device: Where layers run.
        cache_bytes: Most bytes of merged layers kept.
        member_bytes: Most bytes of members' layers copied to the device, where the members
            themselves are not on it (see `load_family`); None where they are.
        state_bytes: Most bytes of hidden states at one level of the trie; more batches than fit
            are run one block after the other. If absent, 256 MiB on a CPU and 1 GiB elsewhere.

    Raises:
        ConfigError: `member_bytes` is smaller than one layer.
    """

    def __init__(
        self,
        family: Family,
        *,
        device: str | torch.device = "cpu",
        cache_bytes: int = 4 * GIB,
        member_bytes: int | None = None,
        state_bytes: int | None = None,
    ) -> None:
        keep_freed_pages()
        largest = max(family.layer_parameters) * family.dtype.itemsize
        if member_bytes is not None and member_bytes < largest:
            raise ConfigError(
                f"engine.member_bytes: {member_bytes} bytes do not hold one layer; the largest has "
                f"{largest}, so give that or more"
            )
        self.family = family
        self.device = torch.device(device)
        self.cache_bytes, self.member_bytes = cache_bytes, member_bytes
        on_cpu = self.device.type == "cpu"
        self._state_bytes = state_bytes or (GIB // 4 if on_cpu else GIB)
        self.batch_tokens = BATCH_TOKENS if on_cpu else 4 * BATCH_TOKENS
        hidden = int(family.config.hidden_size)
        self._token_bytes = hidden * family.dtype.itemsize
        self._width = max(family.layer_parameters) / hidden  # outputs of a layer's linear layers
        self.skeleton = Skeleton(family, self.device)
        self.rotary_bounds = rotary_bounds(family.config)
        self.stream_layer_tokens = 0  # tokens times layers that `Streams` ran here, padding counted
        self.layers = LayerCache(
            family,
            self.skeleton.templates,
            self.device,
            cache_bytes=cache_bytes,
            member_bytes=member_bytes,
        )

    @property
    def attention_tokens(self) -> float:
        """The length of row in which attention costs as much as the rest of a layer.

        Attention's work grows with the row, the rest with a layer's parameters; a CPU runs the
        former at about half of the latter's speed (2 cores with AVX-512 or AMX, hidden size 576).
        """
        return self._width / 2

    def pack(self, passages: Sequence[Passage]) -> tuple[Batch, ...]:
        """Pack passages of one kind each (see `pieces`) so that they cost this family least."""
        return pack(
            passages,
            batch_tokens=self.batch_tokens,
            attention_tokens=self.attention_tokens,
            bounds=self.rotary_bounds,
        )

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
                are measured.

        Returns:
            One result a tailoring, in order. A candidate that fails does not affect the others.
        """
        parts = [self._run_block(tailorings, each) for each in self._blocks(batches, teachers)]
        return [Result.joined([part[index] for part in parts]) for index in range(len(tailorings))]

    def count(self, tailorings: Sequence[Tailoring], batches: Sequence[Batch]) -> Work:
        """Count what `run` would do, without running a layer."""
        total = Work()
        for block in self._blocks(batches, None):
            in_block = [item.batch for item in block]
            work, n_states = count(tailorings, in_block)
            total += dataclasses.replace(work, n_bytes=self._block_bytes(in_block, n_states))
        return total

    @torch.inference_mode()
    def teach(self, tailoring: Tailoring, batches: Sequence[Batch]) -> list[Teacher]:
        """What a model predicts at every target, in the compact form that divergences need."""
        taught = []
        for batch in batches:
            states = forward(self.skeleton, self.layers, tailoring, batch)
            gathered = batch.gathered(deque(states, maxlen=1).pop())  # (G, H)
            targets = gathered[batch.target_place.to(self.device)]  # (M, H)
            taught.append(teach(self.skeleton, tailoring, targets))
        return taught

    def _blocks(
        self, batches: Sequence[Batch], teachers: Sequence[Teacher] | None
    ) -> Iterator[list[Item]]:
        """Batches in order, as many at a time as `state_bytes` allows."""
        block: list[Item] = []
        room = self._state_bytes
        for number, batch in enumerate(batches):
            need = batch.n_tokens * self._token_bytes
            if block and need > room:
                yield block
                block, room = [], self._state_bytes
            block.append(Item(batch, None if teachers is None else teachers[number], number))
            room -= need
        if block:
            yield block

    def _run_block(self, tailorings: Sequence[Tailoring], block: list[Item]) -> list[Result]:
        """Run a block; out of memory, batch by batch, then in halves of a batch."""
        try:
            return walk(self.skeleton, self.layers, tailorings, block)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("out of memory on %d batches; trying smaller ones", len(block))
        smaller = block if len(block) > 1 else block[0].halves()
        if len(smaller) == 1:
            failure = f"out of memory on one batch of {block[0].batch.n_tokens} tokens"
            return [Result(None, failure, 0.0) for _ in tailorings]
        parts = [self._run_block(tailorings, [item]) for item in smaller]
        joined = [Result.joined(results) for results in zip(*parts, strict=True)]
        return joined if len(block) > 1 else [result.as_one_batch() for result in joined]

    def _block_bytes(self, batches: Sequence[Batch], n_states: int) -> int:
        """Bytes of a block's hidden states and masks, and of one batch's products."""
        n_tokens = sum(batch.n_tokens for batch in batches)
        states = n_tokens * self._token_bytes * (1 + n_states)  # 1: embedded
        seen = sum(batch.n_tokens * batch.tokens.shape[1] for batch in batches)
        masks = seen * len(set(self.family.kinds))
        products = 2 * self.batch_tokens * int(self._width)
        return states + (masks + products) * self.family.dtype.itemsize
