"""Gold answers: the passages whose log-likelihood is to be high."""

import itertools

from gptailor.tasks.task import Example, Outcome, Passage

__all__ = ["gold_passages"]


def gold_passages(example: Example) -> tuple[Passage, ...]:
    """The first gold answer after its context; of a text every window; none if it is no text.

    Each has one continuation.
    """
    pairs = [Passage(p.context, (c,)) for p in example.passages for c in p.continuations]
    if len(pairs) < 2 or example.output_type != "multiple_choice":
        return tuple(pairs)
    numbers = itertools.count()
    grid = [[Outcome(next(numbers), False) for _ in p.continuations] for p in example.passages]
    return (pairs[int(example.in_order(grid)[example.gold[0]].logprob)],)
