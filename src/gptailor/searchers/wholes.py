"""Whole models that a search starts from: members, uniform merges of all variants, a fitted one.

Nothing is cut in them. Members' scores are known before the search; merges are evaluated on as many
examples as a small part of the budget pays.
"""

from collections.abc import Generator, Iterator

from gptailor.core.merge_spec import merge_spec
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Proposal, Trial
from gptailor.searchers.halving import Judge
from gptailor.searchers.history import first_examples
from gptailor.searchers.searcher import Group
from gptailor.searchers.space import Space

__all__ = ["rank_wholes"]

_SCALES = (0.5, 0.7, 0.3, 1.0)  # of merges, the likeliest first


def rank_wholes(
    judge: Judge, budget: float
) -> Generator[Group, tuple[Trial, ...], list[Tailoring]]:
    """Rank the fitted whole, members and uniform merges by the proxy metric, the best first.

    Args:
        judge: Has the objective and the members' scores.
        budget: The most that evaluations may cost, in the unit of `SearchContext.cost`; it may not
            pay all merges. The fitted whole is evaluated in any case. What has no scores comes
            last.
    """
    context = judge.context
    space, objective = context.space, context.objective
    members = {name: space.uniform((), () if name == BASE else (name,)) for name in space.members}
    fitted = [] if space.fitted is None else [space.fitted]
    wholes = list(dict.fromkeys([*fitted, *members.values(), *_merges(space)]))
    scores = {members[name]: known for name, known in context.references.items()}
    new = [whole for whole in wholes if whole not in scores and space.accepts(whole)]
    most = min((known.n_examples for known in scores.values()), default=context.rungs[-1])
    new = new[: max(len(fitted), int(budget / context.cost(context.rungs[0])))]
    paid = [n for n in context.rungs if n <= most and len(new) * context.cost(n) <= budget]
    paid = paid or list(context.rungs[: len(fitted)])
    if new and paid:
        yield tuple(Proposal(whole, paid[-1], "nothing cut") for whole in new)
        found = {whole: context.history.scores(whole, paid[-1]) for whole in new}
        scores |= {whole: known for whole, known in found.items() if known is not None}
        most = paid[-1]
    same = {whole: first_examples(known, most) for whole, known in scores.items()}
    losses = {whole: objective.scalar(known, proxy=True) for whole, known in same.items()}
    return sorted(wholes, key=lambda whole: losses.get(whole, float("inf")))


def _merges(space: Space) -> Iterator[Tailoring]:
    """All variants merged alike in every layer, at several scales by each method.

    The mean of the variants comes second. A method without a scale is given once per scale.
    """
    names = space.variants
    for scale in (_SCALES[0], 1.0 / max(1, len(names)), *_SCALES[1:]):
        for method in space.methods_for(len(names)) if space.merges else ():
            yield space.uniform((), names, method, **merge_spec(method).scaled(scale))
