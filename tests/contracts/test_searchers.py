"""What every searcher must do, whatever it is called."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from gptailor.core.objective import Goal, Objective
from gptailor.core.plugins import SEARCHERS
from gptailor.core.repair import refit_cuts, scale_cuts, without_repair
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Evaluation, Measurement, Proposal, Scores, Trial
from gptailor.errors import ConfigError, GPTailorError
from gptailor.record.entries import AskedEntry, AskedProposal, TrialEntry
from gptailor.searchers.searcher import SearchContext, Searcher, make_searcher
from gptailor.searchers.space import Space, kept_positions

RUNGS = (2, 4, 8)
TASKS = ("capitals", "stories")
SPACES = {
    "three variants": Space(6, 2, ("code", "math", "world"), ("task_arithmetic", "linear")),
    "two variants, tied, slerp": Space(5, 1, ("code", "math"), ("slerp",), tied=True),
    "one variant": Space(5, 2, ("math",), ("task_arithmetic",), keep=frozenset({0, 4})),
    "cutting only": Space(6, 2),
    "nothing to cut": Space(3, 0, ("code", "math"), ("task_arithmetic",)),
    "one layer stays": Space(4, 3, ("math",)),
    "one tailoring alone": Space(3, 0),
    "two layers": Space(2, 1),
    "the last layer must stay": Space(
        6, 2, ("math",), allowed=lambda tailoring: kept_positions(tailoring)[-1] == 5
    ),
}


def scores(tailoring: Tailoring, n_examples: int) -> Scores:
    """Made-up scores that depend on nothing but the tailoring and the example."""
    rng = np.random.default_rng(int(tailoring.digest, 16))
    tasks = {}
    for task in TASKS:
        bits = 1.0 + rng.random(RUNGS[-1]) + 0.1 * len(tailoring.layers)
        tasks[task] = {
            "acc": Measurement("acc", tuple((bits[:n_examples] < 1.9).astype(float).tolist())),
            "gold_bits_per_byte": Measurement(
                "gold_bits_per_byte", tuple(bits[:n_examples].tolist())
            ),
        }
    return Scores(tasks)


def make(
    name: str,
    space: Space,
    *,
    tasks: tuple[str, ...] = TASKS,
    rungs: tuple[int, ...] = RUNGS,
    max_trials: int = 40,
    seed: int = 0,
    **options: object,
) -> Searcher:
    try:
        searcher = SEARCHERS.get(name)
    except ConfigError as missing:
        pytest.skip(str(missing))
    goals = [Goal(task, "acc") for task in tasks]
    objective = Objective(goals, scores(Tailoring.whole(BASE, space.n_layers), RUNGS[-1]))
    return make_searcher(
        searcher, SearchContext(space, objective, rungs, max_trials, seed), options
    )


def evaluated(
    group: Sequence[Proposal], start: int, fails: Callable[[Proposal], bool] = lambda _: False
) -> list[Trial]:
    return [
        Trial(number, proposal, Evaluation(failure="out of memory"))
        if fails(proposal)
        else Trial(number, proposal, Evaluation(scores(proposal.tailoring, proposal.n_examples)))
        for number, proposal in enumerate(group, start)
    ]


def drive(
    searcher: Searcher, fails: Callable[[Proposal], bool] = lambda _: False
) -> list[list[Trial]]:
    groups: list[list[Trial]] = []
    while group := searcher.ask():
        groups.append(evaluated(group, sum(map(len, groups)), fails))
        searcher.tell(groups[-1])
    return groups


def proposals(groups: list[list[Trial]]) -> list[list[Proposal]]:
    return [[trial.proposal for trial in group] for group in groups]


def results(groups: list[list[Trial]], space: Space) -> list[Trial]:
    trials = itertools.chain.from_iterable(groups)
    return [trial for trial in trials if len(trial.tailoring.layers) == space.n_kept]


_SLOW = {name: [pytest.mark.slow] for name in ("smac", "optuna")}  # they fit models


@pytest.fixture(params=[pytest.param(n, marks=_SLOW.get(n, [])) for n in SEARCHERS.names])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[request.param]


def test_every_proposal_is_valid_new_on_a_rung_and_within_the_budget(
    name: str, space: Space
) -> None:
    groups = drive(make(name, space, max_trials=30))
    trials = list(itertools.chain.from_iterable(groups))
    assert 1 <= len(trials) <= 30
    keys = [(trial.tailoring, trial.proposal.n_examples) for trial in trials]
    assert len(set(keys)) == len(keys)
    for trial in trials:
        trial.tailoring.check(space.members, space.n_layers, tied=space.tied)
        assert trial.proposal.n_examples in RUNGS
        assert trial.proposal.origin
        places = kept_positions(trial.tailoring)
        assert list(places) == sorted(set(places))
        assert space.keep <= set(places)
        assert len(places) >= space.n_kept
    for trial in results(groups, space):
        assert space.accepts(trial.tailoring)


@pytest.mark.parametrize("repair", ["refit", "scale"])
def test_every_proposal_of_a_space_that_repairs_is_repaired(name: str, repair: str) -> None:
    norms = {member: (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0) for member in ("base", "code", "math")}
    repairer = {
        "refit": functools.partial(refit_cuts, n_layers=6),
        "scale": functools.partial(scale_cuts, n_layers=6, norms=norms),
    }[repair]
    plain = Space(6, 2, ("code", "math"), ("task_arithmetic",))
    space = dataclasses.replace(plain, repair=repairer)
    trials = results(drive(make(name, space, max_trials=30)), space)
    assert trials
    for tailoring in {trial.tailoring for trial in trials}:
        assert repairer(tailoring) == tailoring
        assert space.accepts(tailoring)
        assert plain.accepts(without_repair(tailoring))
    assert any(spec.repaired for trial in trials for spec in trial.tailoring.layers)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("max_trials", [1, 2, 3, 7])
def test_the_smallest_budgets_end_with_a_result_on_the_last_rung(
    name: str, space: Space, max_trials: int
) -> None:
    groups = drive(make(name, space, max_trials=max_trials))
    assert sum(map(len, groups)) <= max_trials
    assert any(trial.proposal.n_examples == RUNGS[-1] for trial in results(groups, space))


def test_the_same_seed_proposes_the_same_and_another_seed_something_else(name: str) -> None:
    space = SPACES["three variants"]
    first, again = (proposals(drive(make(name, space))) for _ in range(2))
    assert first == again
    if name != "greedy":
        assert first != proposals(drive(make(name, space, seed=1)))


def as_recorded(trial: Trial) -> Trial:
    """The trial as it is read from a record."""
    asked = AskedEntry(proposals=(AskedProposal.of(trial.number, trial.proposal),))
    entry = TrialEntry.of(trial.number, trial.evaluation, 0.0)
    (read,) = AskedEntry.model_validate_json(asked.to_line()).proposals
    return Trial(
        read.number, read.proposal, TrialEntry.model_validate_json(entry.to_line()).evaluation
    )


@pytest.mark.parametrize("stop", [1, 3])
def test_a_record_replayed_goes_on_as_if_never_stopped(name: str, stop: int) -> None:
    space = SPACES["three variants"]
    whole = drive(make(name, space))
    resumed = make(name, space)
    for group in whole[:stop]:
        trials = [as_recorded(trial) for trial in group]
        assert list(resumed.ask()) == [trial.proposal for trial in trials]
        resumed.tell(trials)
    assert proposals(drive(resumed)) == proposals(whole[stop:])


def test_ask_and_tell_must_alternate(name: str) -> None:
    searcher = make(name, SPACES["three variants"])
    with pytest.raises(GPTailorError, match="nothing asked"):
        searcher.tell([])
    group = searcher.ask()
    with pytest.raises(GPTailorError, match="called twice"):
        searcher.ask()
    with pytest.raises(GPTailorError, match="not those"):
        searcher.tell(evaluated(group, 0)[1:])
    searcher.tell(evaluated(group, 0))
    with pytest.raises(GPTailorError, match="nothing asked"):
        searcher.tell(evaluated(group, 0))


def test_a_finished_search_stays_finished(name: str) -> None:
    searcher = make(name, SPACES["cutting only"], max_trials=5)
    drive(searcher)
    assert searcher.ask() == ()
    assert searcher.ask() == ()


@pytest.mark.parametrize("which", ["all", "half", "first group"])
def test_failed_trials_are_survived(name: str, which: str) -> None:
    space = SPACES["three variants"]
    searcher = make(name, space)
    first = {"n": 0}

    def fails(proposal: Proposal) -> bool:
        first["n"] += 1
        if which == "first group":
            return first["n"] <= 8
        return which == "all" or int(proposal.tailoring.digest, 16) % 2 == 0

    groups = drive(searcher, fails)
    trials = list(itertools.chain.from_iterable(groups))
    assert 1 <= len(trials) <= 40
    assert len({(trial.tailoring, trial.proposal.n_examples) for trial in trials}) == len(trials)
    failed = {trial.tailoring for trial in trials if not trial.complete}
    assert failed


def test_one_rung_and_one_task_are_enough(name: str) -> None:
    space = SPACES["three variants"]
    searcher = make(name, space, tasks=("capitals",), rungs=(8,), max_trials=20)
    groups = drive(searcher)
    assert {trial.proposal.n_examples for group in groups for trial in group} == {8}
    assert results(groups, space)


@pytest.mark.parametrize(
    "wrong",
    [{"rungs": ()}, {"rungs": (4, 2)}, {"rungs": (0, 2)}, {"max_trials": 0}, {"rungs": (3, 3)}],
)
def test_impossible_rungs_and_budgets_are_told_in_a_sentence(
    name: str, wrong: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match=r"n_examples|max_trials"):
        make(name, SPACES["cutting only"], **wrong)  # type: ignore[arg-type]


def test_options_out_of_their_limits_are_told_by_name(name: str) -> None:
    options = {
        "evolution": {
            "population": 0,
            "children": 9.0,
            "keep_fraction": 2.0,
            "scalarisation": "sum",
        },
        "random": {"batch": 0, "rung": 7},
        "greedy": {"member": "medicine", "n_final": "many"},
        "smac": {"eta": 1, "batch": 0.5},
        "optuna": {"sampler": "gp", "n_initial": -1},
    }[name]
    with pytest.raises(ConfigError) as caught:
        make(name, SPACES["cutting only"], **options)  # type: ignore[arg-type]
    assert len(caught.value.problems) == len(options)
    for option in options:
        assert any(
            error.startswith(f"search.options.{option}: ") for error in caught.value.problems
        )
    assert "\n" not in "".join(caught.value.problems)


def test_the_registry_knows_a_misspelt_option(name: str) -> None:
    make(name, SPACES["cutting only"])
    problems = SEARCHERS.problems(name, {"rnug": 1})
    assert len(problems) == 1
    assert "rnug" in problems[0]
