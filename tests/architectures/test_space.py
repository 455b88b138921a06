"""No searcher proposes what the config of the smaller model could not say."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig

from gptailor.app.expressible import expressible
from gptailor.core.objective import Goal, Objective
from gptailor.core.plugins import SEARCHERS
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.core.trial import Evaluation, Measurement, Scores, Trial
from gptailor.errors import ConfigError, TailoringError
from gptailor.family import Family, tailored_config
from gptailor.searchers.searcher import SearchContext, make_searcher
from gptailor.searchers.space import Space

# first some dense layers and then experts; dense and expert, with rope and without; the last layer
# attends to everything, whatever the list says
OWN: dict[str, dict[str, Any]] = {
    "gemma4_unified_text": {
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 2,
        "head_dim": 8,
        "sliding_window": 4,
    },
    "deepseek_v3": {},
    "llama4_text": {},
}
RUNGS = (2, 4)


@pytest.fixture(scope="module", params=OWN)
def family(
    request: pytest.FixtureRequest,
    tiny_fields: Callable[[str], dict[str, Any]],
    family_in_memory: Callable[..., Family],
) -> Family:
    """A base and two variants in memory; what is asked here needs no files."""
    own = OWN[request.param]
    fields = tiny_fields("llama") | own if own else tiny_fields(request.param)
    return family_in_memory(request.param, fields, (BASE, "math", "code"))


def scores(tailoring: Tailoring, n_examples: int) -> Scores:
    """Made-up scores that depend on nothing but the tailoring and the example."""
    bits = 1.0 + np.random.default_rng(int(tailoring.digest, 16)).random(RUNGS[-1])
    values = {"acc": (bits < 1.5).astype(float), "gold_bits_per_byte": bits}
    return Scores(
        {"task": {k: Measurement(k, tuple(v[:n_examples].tolist())) for k, v in values.items()}}
    )


_SLOW = {name: [pytest.mark.slow] for name in ("smac", "optuna")}


@pytest.mark.sampled(9)
@pytest.mark.parametrize("n_removed", [2, 3])
@pytest.mark.parametrize("name", [pytest.param(n, marks=_SLOW.get(n, [])) for n in SEARCHERS.names])
def test_every_proposal_can_be_exported(name: str, n_removed: int, family: Family) -> None:
    try:
        searcher = SEARCHERS.get(name)
    except ConfigError as missing:
        pytest.skip(str(missing))
    space = Space(
        6,
        n_removed,
        ("math", "code"),
        ("task_arithmetic",),
        kinds=family.kinds,
        allowed=expressible(family),
    )
    whole = Tailoring.whole(BASE, 6)
    objective = Objective([Goal("task", "acc")], scores(whole, RUNGS[-1]))
    asking = make_searcher(searcher, SearchContext(space, objective, RUNGS, 24, seed=0))
    numbers, results = itertools.count(), 0
    while group := asking.ask():
        for proposal in group:
            family.check(proposal.tailoring)
            results += len(proposal.tailoring.layers) == space.n_kept
        told = [(p, scores(p.tailoring, p.n_examples)) for p in group]
        asking.tell([Trial(next(numbers), proposal, Evaluation(found)) for proposal, found in told])
    assert results > 0


def test_some_cuts_can_not_be_said_and_the_space_leaves_them_out(
    tiny_fields: Callable[[str], dict[str, Any]],
) -> None:
    config = AutoConfig.for_model(
        "gemma4_unified_text", **tiny_fields("llama") | OWN["gemma4_unified_text"]
    )
    assert config.layer_types[-1] == "full_attention"
    with pytest.raises(TailoringError, match=r"layer 4 .*sliding_attention.* makes that .*full"):
        tailored_config(config, [0, 1, 2, 4])
    assert tailored_config(config, [0, 1, 2, 3]).layer_types[-1] == "full_attention"


def test_layers_of_unlike_kind_never_merge(family: Family) -> None:
    kinds = family.kinds
    one, other = next(
        (a, b) for a, b in itertools.combinations(range(6), 2) if kinds[a] != kinds[b]
    )
    merged = LayerSpec.of(f"math:{one}", f"code:{other}", merge="task_arithmetic", scale=0.5)
    with pytest.raises(TailoringError, match="layers of unlike kind"):
        family.check(Tailoring((merged,)))
