"""Jobs are divided along their prefixes, evenly, and none is lost."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.core.trial import Job, Measurement, Scores
from gptailor.workers.grouping import grouped


def _job(word: str, n_examples: int = 1) -> Job:
    """One layer a letter: a lower-case one of the base, an upper-case one of a variant."""
    layers = (
        LayerSpec((Source("v" if letter.isupper() else "base", ord(letter.lower()) - ord("a")),))
        for letter in word
    )
    return Job(Tailoring(tuple(layers)), n_examples)


def _cost(jobs: list[Job]) -> int:
    """Layers times examples, by listing every prefix."""
    prefixes = {
        (job.n_examples, job.tailoring.layers[:depth])
        for job in jobs
        for depth in range(1, len(job.tailoring.layers) + 1)
    }
    return sum(n_examples for n_examples, _ in prefixes)


made = st.lists(
    st.tuples(st.sampled_from(["abc", "abC", "aBc", "aBC", "Abc", "ABC", "bc"]), st.integers(1, 3)),
    min_size=1,
    max_size=9,
)


@given(made, st.integers(1, 4), st.integers(1, 5))
def test_every_job_is_in_one_group_and_no_group_is_too_large(
    told: list[tuple[str, int]], n_groups: int, most: int
) -> None:
    jobs = [_job(word, n) for word, n in told]
    groups = grouped(jobs, n_groups=n_groups, most=most)
    assert sorted(itertools.chain(*groups)) == list(range(len(jobs)))
    assert all(0 < len(group) <= most and list(group) == sorted(group) for group in groups)
    assert groups == sorted(groups)
    assert len(groups) <= max(n_groups, -(-len(jobs) // most))


@given(made, st.integers(1, 3))
def test_no_other_cut_of_the_same_row_makes_the_costliest_group_cheaper(
    told: list[tuple[str, int]], n_groups: int
) -> None:
    jobs = [_job(word, n) for word, n in told]
    groups = grouped(jobs, n_groups=n_groups, most=len(jobs))
    # the row: what starts alike side by side, in the order of first appearance
    (row,) = grouped_row(jobs)
    cuts = itertools.chain.from_iterable(
        itertools.combinations(range(1, len(row)), n) for n in range(n_groups)
    )
    costs = []
    for cut in cuts:
        edges = [0, *cut, len(row)]
        parts = [[jobs[i] for i in row[a:b]] for a, b in itertools.pairwise(edges)]
        costs.append(max(_cost(part) for part in parts))
    assert max(_cost([jobs[index] for index in group]) for group in groups) == min(costs)


def grouped_row(jobs: list[Job]) -> list[list[int]]:
    """All jobs in one row, by the slow way: sort by where each prefix was first seen."""

    def seen(index: int) -> list[int]:
        job = jobs[index]
        keys = [(job.n_examples, job.tailoring.layers[:d]) for d in range(4)]
        return [
            next(
                i
                for i, other in enumerate(jobs)
                if (other.n_examples, other.tailoring.layers[: len(prefix)]) == (n, prefix)
            )
            for n, prefix in keys
        ]

    return [sorted(range(len(jobs)), key=lambda index: (seen(index), index))]


def test_children_of_one_parent_stay_together() -> None:
    jobs = [_job(word) for word in ("abcd", "ABCD", "abcD", "ABCd", "abCd", "ABcd")]
    assert grouped(jobs, n_groups=2, most=16) == [(0, 2, 4), (1, 3, 5)]


def test_examples_that_are_known_cost_nothing() -> None:
    known = Scores({"t": {"acc": Measurement("acc", (1.0,) * 90)}})
    fresh, going_on = _job("abc", 100), _job("Abc", 100)
    going_on = Job(going_on.tailoring, 100, "search", known)
    jobs = [fresh, going_on, Job(_job("ABc").tailoring, 10), Job(_job("ABC").tailoring, 10)]
    assert grouped(jobs, n_groups=2, most=16) == [(0,), (1, 2, 3)]


def test_nothing_to_do_is_no_group() -> None:
    assert grouped([], n_groups=2, most=4) == []
