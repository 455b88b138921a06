"""One layer of the result: equal layers are equal objects."""

import itertools
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gptailor.core.layer_spec import LayerSpec, Source
from gptailor.core.merge_spec import merge_spec
from gptailor.core.plugins import MERGE_METHODS
from gptailor.errors import TailoringError

members = st.sampled_from(["base", "math", "code", "chat.v2", "7b", "no"])
sources = st.builds(Source, members, st.integers(0, 99))


@st.composite
def merges(draw: st.DrawFn) -> tuple[str, list[Source], dict[str, Any]]:
    """A method, sources and parameters that are sound together."""
    spec = merge_spec(draw(st.sampled_from(sorted(MERGE_METHODS.builtin))))
    most = spec.max_sources or 4
    chosen = draw(st.lists(sources, min_size=2, max_size=most, unique=True))
    params: dict[str, Any] = {
        key: draw(st.integers(int(limits.low), int(limits.high)))
        if limits.integer
        else draw(st.floats(limits.low, limits.high))
        for key, limits in spec.params.items()
    }
    if spec.weighted:
        size = len(chosen)
        weights = st.lists(st.floats(0, 1e6), min_size=size, max_size=size)
        params["weights"] = tuple(draw(weights.filter(lambda drawn: sum(drawn) > 0)))
    return spec.name, chosen, params


def make(merge: tuple[str, list[Source], dict[str, Any]]) -> LayerSpec:
    name, chosen, params = merge
    return LayerSpec(tuple(chosen), name, tuple(params.items()))


@given(merges())
def test_making_a_layer_from_its_own_parts_changes_nothing(merge: Any) -> None:
    spec = make(merge)
    again = LayerSpec(spec.sources, spec.method, spec.params, spec.base)
    assert again == spec
    assert repr(again) == repr(spec)


@given(merges())
def test_a_layer_reads_back_equal_from_its_plain_form(merge: Any) -> None:
    spec = make(merge)
    back = LayerSpec.from_plain(spec.to_plain())
    assert back == spec
    assert hash(back) == hash(spec)
    assert repr(back) == repr(spec)


@given(merges(), st.randoms(use_true_random=False))
def test_the_order_of_sources_counts_only_where_the_method_says_so(merge: Any, rng: Any) -> None:
    name, chosen, params = merge
    assume(merge_spec(name).symmetric and "weights" not in params)
    rng.shuffle(chosen)
    assert make((name, chosen, params)) == make(merge)


@given(st.permutations([("chat:1", 0.5), ("code:1", 2.0), ("math:1", 1.5)]))
def test_weights_go_with_their_sources(pairs: list[tuple[str, float]]) -> None:
    sources, weights = zip(*pairs, strict=True)
    spec = LayerSpec.of(*sources, merge="linear", weights=weights)
    assert spec == LayerSpec.of(
        "chat:1", "code:1", "math:1", merge="linear", weights=(0.125, 0.5, 0.375)
    )


def test_slerp_keeps_its_order() -> None:
    one = LayerSpec.of("math:1", "code:1", merge="slerp", t=0.3)
    other = LayerSpec.of("code:1", "math:1", merge="slerp", t=0.3)
    assert one != other
    assert one.sources[0] == Source("math", 1)


def test_one_source_keeps_no_method_and_no_parameters() -> None:
    assert LayerSpec.of("math:1", merge="task_arithmetic", scale=0.3) == LayerSpec.of("math:1")


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        (("math:1", "code:1", "task_arithmetic", {"scale": 0.0}), "base:1"),
        (("math:3", "code:2", "ties", {"scale": 0}), "base:2"),
        (("math:1", "code:1", "slerp", {"t": 0}), "math:1"),
        (("math:1", "code:1", "slerp", {"t": 1.0}), "code:1"),
        (("math:1", "code:1", "linear", {"weights": (0.0, 5.0)}), "code:1"),
    ],
)
def test_a_merge_that_gives_one_layer_back_is_that_layer(spec: Any, same: str) -> None:
    one, other, method, params = spec
    assert LayerSpec.of(one, other, merge=method, **params) == LayerSpec.of(same)


def test_a_scale_of_zero_gives_the_base_that_was_named() -> None:
    spec = LayerSpec.of("math:1", "code:1", merge="ties", base="chat:4", scale=0.0)
    assert spec == LayerSpec.of("chat:4")


@pytest.mark.parametrize("weights", [(1, 3), (2.0, 6.0), (0.25, 0.75), (250_000, 750_000)])
def test_weights_are_shares_of_one(weights: tuple[float, float]) -> None:
    spec = LayerSpec.of("code:1", "math:1", merge="linear", weights=weights)
    assert spec.params == (("weights", (0.25, 0.75)),)


def test_a_source_of_weight_zero_is_dropped() -> None:
    three = LayerSpec.of("chat:1", "code:1", "math:1", merge="linear", weights=(1, 0, 1))
    assert three == LayerSpec.of("chat:1", "math:1", merge="linear")


def test_missing_parameters_take_their_defaults() -> None:
    spec = LayerSpec.of("code:1", "math:1", merge="ties")
    assert dict(spec.params) == {"density": 0.5, "scale": 0.5}
    assert spec == LayerSpec.of("code:1", "math:1", merge="ties", scale=0.5, density=0.5)


def test_minus_zero_is_zero_and_a_whole_number_is_its_float() -> None:
    one = LayerSpec.of("code:1", "math:1", merge="breadcrumbs", gamma=-0.0, density=1)
    other = LayerSpec.of("code:1", "math:1", merge="breadcrumbs", gamma=0.0, density=1.0)
    assert repr(one) == repr(other)


def test_the_base_is_the_bases_layer_at_the_first_source_and_is_not_written() -> None:
    spec = LayerSpec.of("math:4", "code:3", merge="task_arithmetic")
    assert spec.base == Source("base", 3)
    assert "base" not in spec.to_plain()
    named = LayerSpec.of("math:4", "code:3", merge="task_arithmetic", base="base:4")
    assert named != spec
    assert named.to_plain()["base"] == "base:4"


def test_a_layer_tells_its_position_its_members_and_itself() -> None:
    spec = LayerSpec.of("math:4", "code:3", merge="task_arithmetic", scale=0.6)
    assert spec.position == 3
    assert spec.members == ("code", "math", "base")
    assert str(spec) == "task_arithmetic(code:3, math:4, scale=0.6)"
    assert str(LayerSpec.of("math:4")) == "math:4"
    weighted = LayerSpec.of("code:1", "math:1", merge="linear", weights=(1, 3))
    assert str(weighted) == "linear(code:1, math:1, weights=[0.25, 0.75])"


@pytest.mark.parametrize(
    ("make_it", "told"),
    [
        (lambda: LayerSpec(()), "at least one source"),
        (lambda: LayerSpec.of("math:1", "math:1", merge="linear"), "appears twice"),
        (lambda: LayerSpec.of("math:1", "code", merge="linear"), "some name a layer"),
        (lambda: LayerSpec.of("math:1", "code:1"), "no merge method is given"),
        (lambda: LayerSpec.of("math:1", scale=0.5), "has parameters, but no merge method"),
        (lambda: LayerSpec.of("math:1", base="base:1"), "has parameters, but no merge method"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="tie"), "did you mean 'ties'"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="ties", sale=1), "did you mean 'scale'"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="ties", scale=3.0), "scale must be a number"),
        (lambda: LayerSpec.of("a:1", "b:1", "c:1", merge="slerp"), "merges 2 sources, not 3"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="linear", base="base:1"), "takes no base"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="ties", base="base"), "does not go with"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="linear", weights=(1,)), "a list of 2 numbers"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="linear", weights=0.5), "a list of 2 numbers"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="linear", weights=(0, 0)), "sum to more than 0"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="linear", weights=(1, -1)), "sum to more than 0"),
        (
            lambda: LayerSpec.of("a:1", "b:1", merge="linear", weights=(1, 1e300)),
            "from -1e.06 to 1e.06",
        ),
        (
            lambda: LayerSpec.of("a:1", "b:1", merge="linear", weights=(1, 10**400)),
            "from -1e.06 to",
        ),
        (lambda: LayerSpec.of("a:1", "b:1", merge="linear", weights=(1, float("nan"))), "not nan"),
        (lambda: LayerSpec.of("a:1", "b:1", merge="dare_ties", seed=0.5), "seed must be a whole"),
        (lambda: LayerSpec.of("a:1", merge="ties", scale=7), "scale must be a number"),
    ],
)
def test_what_is_no_layer_is_told_in_one_sentence(make_it: Any, told: str) -> None:
    with pytest.raises(TailoringError, match=told) as error:
        make_it()
    assert len(error.value.problems) == 1


@given(sources)
def test_a_source_reads_back_equal(source: Source) -> None:
    assert Source.parse(str(source)) == source


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":1", "math:", "math:-1", "math:1.0", "math:1:2", "math: 1", " math:1"),
        *("math:1 ", "-m:1", ".:1", "a b:1", "a/b:1", "math:1e3", "math:1000000", "math:\u0661"),
        *("m\nath:1", "math\n", None, 1, 1.5, True, ["math:1"], {"math": 1}),
    ],
)
def test_what_is_no_source_is_told_with_its_value(text: object) -> None:
    with pytest.raises(TailoringError) as error:
        Source.parse(text)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize("layer", [-1, 1.0, True, "1"])
def test_a_layer_is_a_whole_number_from_zero(layer: Any) -> None:
    with pytest.raises(TailoringError, match="give 0 or more"):
        Source("math", layer)


def test_every_pair_of_methods_gives_different_layers() -> None:
    specs = [LayerSpec.of("code:1", "math:1", merge=name) for name in MERGE_METHODS.builtin]
    assert all(one != other for one, other in itertools.combinations(specs, 2))
