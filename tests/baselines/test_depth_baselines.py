"""Each baseline cuts what its paper's formula says, worked out slowly."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from gptailor.baselines import BaselineContext, Statistics
from gptailor.core.plugins import BASELINES
from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError
from gptailor.searchers.space import kept_positions

Make = Callable[..., BaselineContext]


def run(name: str, context: BaselineContext, **options: Any) -> tuple[int, ...]:
    """The layers that a baseline cuts."""
    tailoring: Tailoring = BASELINES.get(name)(context, **options)
    members = {source.member for spec in tailoring.layers for source in spec.sources}
    assert members == {"math"}
    assert {str(spec) for spec in tailoring.outer_parts.values()} == {"math"}
    return tuple(sorted(set(range(8)) - set(kept_positions(tailoring))))


def influences(slow: Any, left: list[int]) -> dict[int, float]:
    streams = [slow.run(row, left)[1] for row in slow.rows]
    return {
        layer: 1
        - float(torch.cat([cosine_similarity(s[i], s[i + 1], dim=-1)[1:] for s in streams]).mean())
        for i, layer in enumerate(left)
    }


def test_last_n_keeps_the_last_layer_and_tail_cuts_it(context: Make) -> None:
    assert run("last_n", context()) == (4, 5, 6)
    assert run("tail", context()) == (5, 6, 7)
    assert run("last_n", context(keep=frozenset({5}))) == (3, 4, 6)
    assert run("tail", context(keep=frozenset({7, 5}))) == (3, 4, 6)


def test_random_cuts_depend_on_the_seed_alone(context: Make) -> None:
    drawn = [run("random", context(seed=seed, keep=frozenset({2}))) for seed in range(20)]
    assert drawn == [run("random", context(seed=s, keep=frozenset({2}))) for s in range(20)]
    assert len(set(drawn)) > 10
    assert all(len(cuts) == 3 and 2 not in cuts for cuts in drawn)
    with pytest.raises(ConfigError, match="none of 200"):
        run("random", context(allowed=lambda _: False))


def test_shortgpt_cuts_the_least_influences_at_once(context: Make, slow: Any) -> None:
    found = influences(slow, list(range(8)))
    assert run("shortgpt", context()) == tuple(sorted(sorted(found, key=found.__getitem__)[:3]))
    least = min(found, key=found.__getitem__)
    assert least not in run("shortgpt", context(keep=frozenset({least})))


def test_iterative_shortgpt_measures_anew_after_each_cut(context: Make, slow: Any) -> None:
    left = list(range(8))
    for _ in range(3):
        found = influences(slow, left)
        left.remove(min(found, key=found.__getitem__))
    assert run("shortgpt_iterative", context()) == tuple(sorted(set(range(8)) - set(left)))


@pytest.mark.parametrize("name", ["angular", "window_cosine"])
def test_a_block_is_cut_whose_ends_are_alike(name: str, context: Make, slow: Any) -> None:
    streams = [slow.run(row, range(8))[1] for row in slow.rows]
    scores = {}
    for start in range(6):
        pairs = [(s[start], s[start + 3]) for s in streams]
        if name == "angular":
            at_ends = [cosine_similarity(a[-1], b[-1], dim=0).arccos() for a, b in pairs]
            scores[start] = float(torch.stack(at_ends).mean())
        else:
            cosines = torch.cat([cosine_similarity(a, b, dim=-1)[1:] for a, b in pairs])
            scores[start] = -float(cosines.mean())
    best = min(scores, key=scores.__getitem__)
    assert run(name, context()) == (best, best + 1, best + 2)
    kept = frozenset({best + 1})
    able = [start for start in scores if best + 1 not in range(start, start + 3)]
    best = min(able, key=scores.__getitem__)
    assert run(name, context(keep=kept)) == (best, best + 1, best + 2)
    with pytest.raises(ConfigError, match="every block of 3 layers"):
        run(name, context(keep=frozenset({2, 5})))


def test_shortened_ppl_cuts_what_is_missed_least_alone(context: Make, slow: Any) -> None:
    losses = {
        cut: slow.loss([layer for layer in range(8) if layer != cut], slow.rows) for cut in range(8)
    }
    ranked = sorted(losses, key=losses.__getitem__)
    assert run("shortened_ppl", context()) == tuple(sorted(ranked[:3]))
    few = {c: slow.loss([n for n in range(8) if n != c], slow.rows[:1]) for c in range(8)}
    expected = tuple(sorted(sorted(few, key=few.__getitem__)[:3]))
    assert run("shortened_ppl", context(), n_tokens=9) == expected


def test_shortened_taylor_cuts_the_lowest_scores(context: Make, statistics: Statistics) -> None:
    scores = statistics.taylor_scores(1280)
    expected = tuple(sorted(sorted(range(8), key=scores.__getitem__)[:3]))
    assert run("shortened_taylor", context()) == expected


@pytest.mark.parametrize("name", ["shortened_ppl_plus", "shortened_taylor_plus"])
def test_plus_never_cuts_the_first_four_layers_nor_the_last_two(name: str, context: Make) -> None:
    assert run(name, context(2)) == (4, 5)
    with pytest.raises(ConfigError, match="it may cut 2 of 8 layers only"):
        run(name, context(3))


def test_sleb_is_greedy_by_loss_and_keeps_both_ends(context: Make, slow: Any) -> None:
    left = list(range(8))
    for _ in range(3):
        losses = {
            cut: slow.loss([layer for layer in left if layer != cut], slow.rows)
            for cut in left[1:-1]
        }
        left.remove(min(losses, key=losses.__getitem__))
    expected = tuple(sorted(set(range(8)) - set(left)))
    assert run("sleb", context()) == expected
    assert {0, 7}.isdisjoint(run("sleb", context(6)))


def test_evopress_finds_the_least_divergence_of_all_sets(
    context: Make, statistics: Statistics
) -> None:
    every = list(itertools.combinations(range(8), 2))
    lefts = [statistics.with_layers(sorted(set(range(8)) - set(cuts))) for cuts in every]
    found = statistics.divergences(lefts, range(len(statistics.rows)))
    best = every[found.index(min(found))]
    everything = {"first_tokens": 10**6, "second_tokens": 10**6}
    for seed in range(2):
        assert run("evopress", context(2, seed), generations=4, **everything) == best
    assert run("evopress", context(2), generations=1) == run("evopress", context(2), generations=1)
    assert run("evopress", context(8 - 1, keep=frozenset({4}))) == (0, 1, 2, 3, 5, 6, 7)


def test_the_baseline_of_the_docs_cuts_before_the_shortest_streams(
    context: Make, statistics: Statistics
) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "baselines.md"
    (source,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, Any] = {}
    exec(source, found)
    norms = statistics.similarities().norms.tolist()[:8]
    expected = sorted(sorted(range(8), key=norms.__getitem__)[:3])
    kept = kept_positions(found["smallest_norms"](context()))
    assert sorted(set(range(8)) - set(kept)) == expected


@pytest.mark.parametrize("name", BASELINES.builtin)
def test_a_baseline_can_cut_nothing(name: str, context: Make) -> None:
    assert run(name, context(0)) == ()
