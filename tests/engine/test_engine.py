"""The engine against models built layer by layer and called one sequence at a time."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gptailor.app.run import evaluate
from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.engine.batches import Batch, pack
from gptailor.engine.engine import Engine
from gptailor.engine.selfcheck import refuse_inexact
from gptailor.engine.walk import Result
from gptailor.errors import ConfigError, FamilyError
from gptailor.family import Family
from gptailor.family.memory_map import map_tensors
from gptailor.tasks.task import Passage

ByHand = Callable[[Family, Tailoring, list[Passage]], list[list[float]]]
MERGED = LayerSpec.of("math:3", "code:3", merge="task_arithmetic", scale=0.6)


def passages(seed: int, n: int = 7, vocabulary: int = 300) -> list[Passage]:
    """Contexts longer than any sliding window, one to four continuations of one to six tokens."""
    rng = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(3, vocabulary, rng.integers(low, high)))

    return [
        Passage(tokens(1, 24), tuple(tokens(1, 7) for _ in range(rng.integers(1, 5))))
        for _ in range(n)
    ]


def summed(batches: tuple[Batch, ...], result: Result) -> list[list[float]]:
    """Log-probabilities by passage and continuation, in the order of the passages."""
    assert result.targets is not None, result.failure
    found: dict[int, list[float]] = {}
    for batch, targets in zip(batches, result.targets, strict=True):
        sums = torch.zeros(len(batch.spans), dtype=torch.float64)
        sums.index_add_(0, batch.target_span, targets.logprob.double())
        for (passage, _), total in zip(batch.spans, sums.tolist(), strict=True):
            found.setdefault(batch.numbers[passage], []).append(total)
    return [found[number] for number in sorted(found)]


def tailorings() -> list[Tailoring]:
    """Cut the first, the last, and layers of differing kind; take and merge the others."""
    math, code = LayerSpec.of("math"), LayerSpec.of("code")
    return [
        Tailoring.whole(BASE, 6),
        Tailoring(tuple(LayerSpec.of(f"base:{i}") for i in (1, 2, 3, 4))),
        Tailoring((LayerSpec.of("math:0"), MERGED, LayerSpec.of("code:5"))),
        Tailoring(
            (LayerSpec.of("base:0"), MERGED, LayerSpec.of("code:4")), embedding=math, head=code
        ),
    ]


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])  # all are walked elsewhere
def test_an_architecture_scores_as_the_model_built_by_hand(
    family_of: Callable[..., Family], by_hand: ByHand, architecture: str
) -> None:
    family = family_of(architecture)
    engine, asked = Engine(family), passages(0)
    refuse_inexact(engine)
    batches = pack(asked, row_tokens=48, batch_tokens=96)
    for tailoring, result in zip(tailorings(), engine.run(tailorings(), batches), strict=True):
        truth = by_hand(family, tailoring, asked)
        for ours, theirs in zip(summed(batches, result), truth, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)


def test_tied_embeddings_score_as_the_model_built_by_hand(
    family_of: Callable[..., Family], by_hand: ByHand
) -> None:
    family = family_of("llama", tie_word_embeddings=True)
    math = LayerSpec.of("math")
    tailoring = Tailoring((LayerSpec.of("base:0"), MERGED), embedding=math, head=math)
    asked = passages(1)
    batches = pack(asked)
    result = Engine(family).run([tailoring], batches)[0]
    for ours, theirs in zip(
        summed(batches, result), by_hand(family, tailoring, asked), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_parts_can_be_merged(family_of: Callable[..., Family], by_hand: ByHand) -> None:
    family = family_of("llama")
    part = LayerSpec((Source("math"), Source("code")), "linear", (("weights", (1.0, 3.0)),))
    tailoring = Tailoring((LayerSpec.of("base:0"),), embedding=part, norm=part, head=part)
    asked = passages(2)
    batches = pack(asked)
    result = Engine(family).run([tailoring], batches)[0]
    for ours, theirs in zip(
        summed(batches, result), by_hand(family, tailoring, asked), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_layers_may_move_and_repeat(family_of: Callable[..., Family]) -> None:
    family = family_of("llama")  # all layers of one kind, so a plain order of modules is the truth
    order = (3, 0, 3, 5)
    tailoring = Tailoring(tuple(LayerSpec.of(f"base:{i}") for i in order))
    asked = passages(3)
    batches = pack(asked)
    ours = summed(batches, Engine(family).run([tailoring], batches)[0])
    from transformers import AutoModelForCausalLM

    config = type(family.config).from_dict(family.config.to_dict() | {"num_hidden_layers": 4})
    state = dict(family.states[BASE])
    for index, source in enumerate(order):
        for name, tensor in family.layer(Source(BASE, source)).items():
            state[f"model.layers.{index}.{name}"] = tensor
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()})
    for passage, row in zip(asked, ours, strict=True):
        for continuation, total in zip(passage.continuations, row, strict=True):
            tokens = torch.tensor([passage.context + continuation])
            with torch.inference_mode():
                logits = model(tokens[:, :-1]).logits[0].log_softmax(-1)
            told = logits[-len(continuation) :][range(len(continuation)), list(continuation)]
            assert total == pytest.approx(float(told.sum()), abs=1e-3)


def equal_to_the_bit(ours: Result, theirs: Result) -> bool:
    assert ours.targets is not None
    assert theirs.targets is not None
    pairs = zip(ours.targets, theirs.targets, strict=True)
    return all(torch.equal(a.logprob, b.logprob) for a, b in pairs)


POSITIONS = st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True).map(sorted)


@st.composite
def drawn_tailorings(draw: st.DrawFn) -> Tailoring:
    """Any cut, any source, any of two merge methods."""
    layers = []
    for position in draw(POSITIONS):
        sources = draw(st.lists(st.sampled_from((BASE, "math", "code")), min_size=1, unique=True))
        named = [f"{name}:{position}" for name in sources]
        scale = draw(st.sampled_from((0.25, 0.5)))
        if len(named) == 1:
            layers.append(LayerSpec.of(*named))
        elif draw(st.booleans()):
            layers.append(LayerSpec.of(*named, merge="task_arithmetic", scale=scale))
        else:
            layers.append(LayerSpec.of(*named, merge="ties", scale=scale, density=0.5))
    embedding = LayerSpec.of(draw(st.sampled_from((BASE, "math"))))
    return Tailoring(tuple(layers), embedding=embedding)


@settings(
    max_examples=settings.default.max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(drawn_tailorings(), min_size=1, max_size=5), st.integers(0, 99))
def test_candidates_asked_together_score_as_each_alone_to_the_bit(
    family_of: Callable[..., Family], group: list[Tailoring], seed: int
) -> None:
    family = family_of("qwen3")
    batches = pack(passages(seed), row_tokens=40, batch_tokens=80)
    together = Engine(family).run(group, batches)
    for tailoring, result in zip(group, together, strict=True):
        alone = Engine(family).run([tailoring], batches)[0]
        assert equal_to_the_bit(result, alone)


def test_a_small_limit_on_merged_layers_and_on_states_changes_nothing(
    family_of: Callable[..., Family],
) -> None:
    family = family_of("llama")
    batches = pack(passages(5), row_tokens=40, batch_tokens=80)
    plenty = Engine(family).run(tailorings(), batches)
    starved = Engine(family, cache_bytes=1, state_bytes=1)
    for ours, theirs in zip(starved.run(tailorings(), batches), plenty, strict=True):
        assert equal_to_the_bit(ours, theirs)
    assert starved.layers.merged.n_bytes <= sum(
        t.nbytes for t in family.layer(Source(BASE, 0)).values()
    )


def test_members_in_files_score_the_same_and_keep_their_limit(
    family_of: Callable[..., Family],
) -> None:
    family = family_of("llama")
    batches = pack(passages(5), row_tokens=40, batch_tokens=80)
    plenty = Engine(family).run(tailorings(), batches)
    states = {BASE: map_tensors(family.states[BASE])}
    states |= {m: map_tensors(family.states[m], states[BASE]) for m in family.members[1:]}
    in_files = dataclasses.replace(family, states=states, mapped=True)
    one_layer = sum(tensor.nbytes for tensor in family.layer(Source(BASE, 0)).values())
    for limit in (one_layer, 3 * one_layer):
        engine = Engine(in_files, member_bytes=limit)
        for ours, theirs in zip(engine.run(tailorings(), batches), plenty, strict=True):
            assert equal_to_the_bit(ours, theirs)
        assert 0 < engine.layers.taken.n_bytes <= limit
    assert in_files.digests == family.digests
    with pytest.raises(ConfigError, match=r"engine\.member_bytes: 1 bytes do not hold one layer"):
        Engine(in_files, member_bytes=1)


def test_shared_prefixes_are_run_once(family_of: Callable[..., Family]) -> None:
    family = family_of("llama")
    batches = pack(passages(6))
    n_tokens = sum(batch.n_tokens for batch in batches)
    parent = Tailoring.whole(BASE, 6)
    child = Tailoring((*parent.layers[:5], LayerSpec.of("math:5")))
    results = Engine(family).run([parent, child], batches)
    assert sum(result.layer_tokens for result in results) == pytest.approx(7 * n_tokens)
    assert results[0].layer_tokens == pytest.approx(results[1].layer_tokens)


def test_a_candidate_that_overflows_fails_alone_and_names_its_layer(
    family_of: Callable[..., Family],
) -> None:
    family = family_of("llama")
    broken = family.layer(Source("code", 2))["mlp.down_proj.weight"]
    kept = broken.clone()
    try:
        broken.fill_(3e38)
        bad = Tailoring((LayerSpec.of("base:0"), LayerSpec.of("code:2"), LayerSpec.of("base:3")))
        good = Tailoring((LayerSpec.of("base:0"), LayerSpec.of("base:3")))
        results = Engine(family).run([bad, good], pack(passages(7)))
    finally:
        broken.copy_(kept)
    assert results[0].targets is None
    assert "layer 1 (code:2)" in str(results[0].failure)
    assert results[1].targets is not None


def test_a_divergence_from_oneself_is_nothing_and_from_another_is_something(
    family_of: Callable[..., Family],
) -> None:
    family = family_of("llama")
    engine, batches = Engine(family), pack(passages(8))
    whole, other = Tailoring.whole(BASE, 6), Tailoring.whole("math", 6)
    teachers = engine.teach(whole, batches)
    same, apart = engine.run([whole, other], batches, teachers)
    assert same.targets is not None
    assert apart.targets is not None
    for near, far in zip(same.targets, apart.targets, strict=True):
        assert near.divergence is not None
        assert far.divergence is not None
        assert float(near.divergence.abs().max()) < 1e-5
        assert float(far.divergence.mean()) > 0.01


def test_halves_of_a_batch_score_as_the_whole(family_of: Callable[..., Family]) -> None:
    family = family_of("llama")
    engine = Engine(family)
    (batch,) = pack(passages(9), row_tokens=64, batch_tokens=4096)
    whole = engine.run([Tailoring.whole(BASE, 6)], [batch])[0].targets
    halves = engine.run([Tailoring.whole(BASE, 6)], batch.split())[0].targets
    assert whole is not None
    assert halves is not None
    joined = torch.cat([half.logprob for half in halves])
    torch.testing.assert_close(joined, whole[0].logprob, atol=1e-4, rtol=0)


def test_a_batch_that_is_too_large_is_halved_and_scored_all_the_same(
    family_of: Callable[..., Family],
) -> None:
    family = family_of("llama")
    engine, plenty = Engine(family), Engine(family)
    (batch,) = pack(passages(9), row_tokens=64, batch_tokens=4096)
    one, teacher = Tailoring.whole("math", 6), Tailoring.whole(BASE, 6)
    taught = plenty.teach(teacher, [batch])
    room = batch.n_tokens // 3

    def too_large(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given[0].shape[:-1].numel() > room:
            raise torch.OutOfMemoryError

    engine.layers.get(one.layers[3]).register_forward_pre_hook(too_large)
    (halved,) = engine.run([one], [batch], taught)
    (whole,) = plenty.run([one], [batch], taught)
    assert halved.targets is not None, halved.failure
    assert whole.targets is not None
    for ours, theirs in zip(
        dataclasses.astuple(halved.targets[0]), dataclasses.astuple(whole.targets[0]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    room = 1
    (hopeless,) = engine.run([one], [batch], taught)
    assert "out of memory on one batch" in str(hopeless.failure)


def test_a_base_that_transformers_itself_can_t_run_is_told_by_its_place(
    family_of: Callable[..., Family],
) -> None:
    family = family_of("codegen", rotary_dim=64)  # more than a head has
    with pytest.raises(FamilyError, match=r"base: the model .* can't be run .*; mend its config"):
        refuse_inexact(Engine(family))
    with pytest.raises(FamilyError, match="mend its config"):  # from Python the same checks
        evaluate("base", family, {}, n_examples=1)
