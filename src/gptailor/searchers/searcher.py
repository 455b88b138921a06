"""The Searcher: drives a generator function that proposes tailorings, by ask and tell.

A searcher is written as a generator function. It yields groups of proposals and is sent the trials
of each group; its options are the keyword-only parameters of its signature.
"""

import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gptailor.core.objective import Objective
from gptailor.core.params import Choice, Range
from gptailor.core.plugins import option_problems, options_of
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Proposal, Scores, Trial
from gptailor.errors import ConfigError, GPTailorError
from gptailor.searchers.history import History
from gptailor.searchers.space import Space

__all__ = [
    "UNSHARED",
    "FittedWhole",
    "Group",
    "MakeSearcher",
    "ProposalGenerator",
    "SearchContext",
    "SearchFunction",
    "Searcher",
    "check_options",
    "make_searcher",
    "member_names",
    "rung_index",
]

UNSHARED = 0.6  # share of layer-tokens that prefixes do not save, before the first trial
_MAX_IDLE = 20  # groups in a row without a new proposal: the space is used up

Group = tuple[Proposal, ...]
ProposalGenerator = Generator[Group, tuple[Trial, ...], None]
# of the objective; the scores of whole members on the search split, as far as they are known; and
# the uncut model with fitted merging coefficients, where they were fitted
MakeSearcher = Callable[[Objective, Mapping[str, Scores], "FittedWhole | None"], "Searcher"]
SearchFunction = Callable[..., ProposalGenerator]  # (context, *, option=default, ...)


@dataclass(frozen=True, slots=True)
class FittedWhole:
    """The uncut model with merging coefficients that were fitted by gradients."""

    tailoring: Tailoring
    layer_tokens: int  # that the fit took


@dataclass(frozen=True)
class SearchContext:
    """What a search is about: the first argument of every searcher's function.

    Args:
        space: What may be proposed.
        objective: What is minimised.
        rungs: Rising numbers of examples a task; the last is the whole search split.
        max_trials: The most proposals asked, each rung of each candidate counting as one.
        seed: Equal seeds and equal trials give equal proposals.
        layer_tokens: The most layer-tokens (tokens times layers run, after all sharing) that trials
            spend, but for the last one's; None for no limit.
        example_tokens: Tokens of one example of every task together, to plan `layer_tokens` with.
        references: Scores of whole members on the search split, as far as they are known.
        earlier: Trials of searches that cut fewer layers of the same members. They cost nothing,
            are not asked again, and are what a search may start from.

    Raises:
        ConfigError: There is no rung, or they do not rise, or there is no trial.
    """

    space: Space
    objective: Objective
    rungs: tuple[int, ...]
    max_trials: int
    seed: int
    layer_tokens: int | None = None
    example_tokens: float = 0.0
    references: Mapping[str, Scores] = field(default_factory=dict)
    earlier: tuple[Trial, ...] = ()
    history: History = field(init=False, repr=False, default_factory=History)

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in itertools.pairwise(self.rungs))
        if not self.rungs or self.rungs[0] < 1 or not rising:
            raise ConfigError(
                f"n_examples must be rising numbers of 1 or more, not {list(self.rungs)}; "
                "write [10, 30, 100], say"
            )
        if self.max_trials < 1:
            raise ConfigError(f"max_trials must be 1 or more, not {self.max_trials}")
        self.history.add_free(self.earlier)

    @property
    def left(self) -> int:
        """How many proposals may still be asked.

        With a budget of layer-tokens, at most its unspent fraction of ``max_trials``; `cost` is in
        the same unit.
        """
        left = self.max_trials - len(self.history)
        if self.layer_tokens is None:
            return left
        unspent = 1.0 - self.history.layer_tokens / self.layer_tokens
        return min(left, int(unspent * self.max_trials))

    @property
    def is_over(self) -> bool:
        """Whether nothing may be asked any more.

        Layer-tokens do not end a search that has scored no candidate with the layers wanted.
        """
        if self.left > 0 or len(self.history) >= self.max_trials:
            return self.left <= 0
        sizes = {len(trial.tailoring.layers) for trial in self.history.complete()}
        return self.space.n_kept in sizes

    def cost(self, n_examples: int, known: int = 0) -> float:
        """What a proposal is expected to take of `left`; 1 without a budget of layer-tokens.

        The layer-tokens of an example are those of the trials so far, on average.

        Args:
            n_examples: Of the proposal.
            known: On how many of them its tailoring has scores already.
        """
        if self.layer_tokens is None:
            return 1.0
        history, n_layers = self.history, (n_examples - known) * self.space.n_kept
        expected = UNSHARED * self.example_tokens
        if history.layer_examples:
            expected = history.layer_tokens / history.layer_examples
        return max(1.0, expected * n_layers / self.layer_tokens * self.max_trials)

    def affordable(self, group: Sequence[Proposal]) -> Group:
        """The proposals of a group, in order, that `left` is expected to pay; at least one."""
        known = [self.history.most_examples(proposal.tailoring) for proposal in group]
        costs = [
            self.cost(proposal.n_examples, min(least, proposal.n_examples))
            for proposal, least in zip(group, known, strict=True)
        ]
        n = sum(total <= self.left for total in itertools.accumulate(costs))
        return tuple(group[: max(1, n)])


class Searcher:
    """Propose candidates, group by group; a pure function of seed and of its trials.

    `ask` and `tell` alternate strictly, so a study resumes by replaying its record. No proposal
    (tailoring and number of examples) is asked twice, and no more are asked than the budget allows.

    Args:
        proposals: Yields groups; is sent the trials of each in its order, less those beyond the
            budget.
        context: Its history is filled by `tell`.
    """

    def __init__(self, proposals: ProposalGenerator, context: SearchContext) -> None:
        self._proposals = proposals
        self._context = context
        self._group: Group | None = None
        self._asked: Group = ()
        self._finished = False

    def ask(self) -> Group:
        """Propose one group that is best evaluated together; ``()`` when nothing is left to ask."""
        if self._asked:
            raise GPTailorError("ask was called twice; tell the trials of the last group first")
        for _ in range(_MAX_IDLE):
            if self._finished or self._context.is_over:
                break
            # a group may have cost less than expected: then the rest of it is asked now
            if not self._new_proposals() and not self._advance():
                break
            self._asked = self._context.affordable(self._new_proposals())
            if self._asked:
                return self._asked
        self._finished = True
        return ()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Record the trials of the last group, in the order of its proposals."""
        if not self._asked:
            raise GPTailorError("tell was called with nothing asked; call ask first")
        asked = [(proposal.tailoring, proposal.n_examples) for proposal in self._asked]
        received = [(trial.tailoring, trial.proposal.n_examples) for trial in trials]
        if asked != received:
            raise GPTailorError(
                f"the {len(received)} trials are not those of the {len(asked)} proposals that ask "
                "returned last, in the same order"
            )
        self._context.history.add(trials)
        self._asked = ()

    def _advance(self) -> bool:
        """Move the generator on to its next group; False when it has ended."""
        try:
            if self._group is None:
                self._group = next(self._proposals)
            else:
                self._group = self._proposals.send(self._context.history.answers(self._group))
        except StopIteration:
            return False
        if not isinstance(self._group, tuple | list):
            kind = type(self._group).__name__
            raise ConfigError(f"a searcher must yield tuples of proposals, not a {kind}")
        return True

    def _new_proposals(self) -> Group:
        """The group's proposals that have no trial yet, each once."""
        new = {
            (proposal.tailoring, proposal.n_examples): proposal
            for proposal in reversed(self._group or ())
            if self._context.history.trial(proposal.tailoring, proposal.n_examples) is None
        }
        return tuple(reversed(new.values()))


def make_searcher(
    function: SearchFunction, context: SearchContext, options: Mapping[str, object] | None = None
) -> Searcher:
    """Make a Searcher of a generator function.

    Args:
        function: Called as ``function(context, **options)``; yields groups of proposals.
        context: What the search is about. It is copied, with an empty history.
        options: For the keyword-only parameters of `function`.

    Raises:
        ConfigError: Every problem of the options, a sentence each.
    """
    options = options or {}
    check_options(function, options, context.space, context.rungs)
    fresh = replace(context)  # its history is made anew
    proposals = function(fresh, **options)
    if not isinstance(proposals, Generator):
        kind = type(proposals).__name__
        raise ConfigError(
            f"a searcher must be a generator function, which yields, not one with a {kind}"
        )
    return Searcher(proposals, fresh)


def check_options(
    function: SearchFunction, options: Mapping[str, object], space: Space, rungs: tuple[int, ...]
) -> None:
    """Check options against the function's signature and what the study has.

    Raises:
        ConfigError: Every problem, a sentence each.
    """
    known = (space, rungs)
    if problems := option_problems(
        options_of(function), options, "searcher", "search.options", known
    ):
        raise ConfigError(problems)


def rung_index(space: Space, rungs: tuple[int, ...]) -> Range:
    """Limits of an option that is an index into the rungs; -1 is the last."""
    return Range(-len(rungs), len(rungs) - 1)


def member_names(space: Space, rungs: tuple[int, ...]) -> Choice:
    """Limits of an option that is a member's name."""
    return Choice(space.members)
