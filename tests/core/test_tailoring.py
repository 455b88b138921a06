"""The words in which a smaller model is written down."""

import copy
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptailor.core.merge_spec import merge_spec
from gptailor.core.plugins import MERGE_METHODS
from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.errors import TailoringError

MEMBERS = ("base", "math", "code", "no")
N_LAYERS = 12

members = st.sampled_from(MEMBERS)


@st.composite
def specs(draw: st.DrawFn, with_layer: bool = True) -> LayerSpec:
    """A layer, or a part outside the layers."""
    layers = st.integers(0, N_LAYERS - 1) if with_layer else st.none()
    if draw(st.booleans()):
        return LayerSpec((Source(draw(members), draw(layers)),))
    spec = merge_spec(draw(st.sampled_from(sorted(MERGE_METHODS.builtin))))
    sources = st.builds(Source, members, layers)
    most = spec.max_sources or 3
    chosen = draw(st.lists(sources, min_size=2, max_size=most, unique=True))
    params = tuple(
        (key, draw(st.floats(limits.low, limits.high)))
        for key, limits in spec.params.items()
        if not limits.integer
    )
    return LayerSpec(tuple(chosen), spec.name, params)


@st.composite
def tailorings(draw: st.DrawFn) -> Tailoring:
    """Any tailoring; its layers come from anywhere."""
    parts = {
        part: draw(specs(with_layer=False))
        for part in ("embedding", "norm", "head")
        if draw(st.booleans())
    }
    return Tailoring(tuple(draw(st.lists(specs(), min_size=1, max_size=8))), **parts)


@given(tailorings())
def test_a_tailoring_reads_back_equal_from_its_yaml(tailoring: Tailoring) -> None:
    back = Tailoring.from_yaml(tailoring.to_yaml())
    assert back == tailoring
    assert hash(back) == hash(tailoring)
    assert back.digest == tailoring.digest
    assert back.to_yaml() == tailoring.to_yaml()


def test_more_layers_than_any_model_has_are_refused() -> None:
    many = Tailoring((LayerSpec((Source("base", 0),)),) * 1001)
    with pytest.raises(TailoringError, match=r"layers: has 1,001 layers; at most 1,000 are made"):
        many.check(MEMBERS, N_LAYERS)


@given(tailorings(), tailorings())
def test_equal_digests_are_equal_tailorings(one: Tailoring, other: Tailoring) -> None:
    assert (one == other) == (one.digest == other.digest)


@given(tailorings())
def test_a_sound_tailoring_fits_its_family(tailoring: Tailoring) -> None:
    tailoring.check(MEMBERS, N_LAYERS)


def test_the_digest_is_the_same_on_every_machine() -> None:
    tailoring = Tailoring(
        (
            LayerSpec.of("base:0"),
            LayerSpec.of("math:1", "code:1", merge="task_arithmetic", scale=0.6),
            LayerSpec.of("math:2"),
        )
    )
    assert tailoring.digest == "795339cc0923083f"
    assert tailoring.to_yaml() == (
        "format: gptailor/1\n"
        "embedding: base\n"
        "head: base\n"
        "layers:\n"
        "- base:0\n"
        "- merge: task_arithmetic\n"
        "  scale: 0.6\n"
        "  sources: ['code:1', 'math:1']\n"
        "- math:2\n"
    )


def test_order_of_layers_is_part_of_a_model() -> None:
    layers = (LayerSpec.of("base:0"), LayerSpec.of("base:1"))
    assert Tailoring(layers) != Tailoring(layers[::-1])


def test_the_final_norm_comes_from_whoever_gives_the_head() -> None:
    layers = (LayerSpec.of("base:0"),)
    head = LayerSpec.of("math")
    same = Tailoring(layers, head=head, norm=head)
    assert Tailoring(layers, head=head) == same
    assert "norm" not in same.to_plain()
    assert Tailoring(layers, head=head, norm=LayerSpec.of("base")).to_plain()["norm"] == "base"


def test_a_whole_member_is_all_of_it() -> None:
    whole = Tailoring.whole("math", 3)
    assert [str(spec) for spec in whole.layers] == ["math:0", "math:1", "math:2"]
    assert {str(spec) for spec in whole.outer_parts.values()} == {"math"}


def test_a_tailoring_survives_its_file(tmp_path: Path) -> None:
    tailoring = Tailoring.whole("math", 3)
    tailoring.save(tmp_path / "deep" / "tailoring.yaml")
    assert Tailoring.load(tmp_path / "deep" / "tailoring.yaml") == tailoring


def test_a_tailoring_may_be_written_by_hand_in_any_order() -> None:
    text = """
        layers: [base:0, {sources: [math:1, code:1], scale: 0.6, merge: task_arithmetic}, "math:2"]
        head: base
        format: gptailor/1
    """
    layers = (
        LayerSpec.of("base:0"),
        LayerSpec.of("code:1", "math:1", merge="task_arithmetic", scale=0.6),
        LayerSpec.of("math:2"),
    )
    assert Tailoring.from_yaml(text) == Tailoring(layers)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"layers": ()}, "at least one layer"),
        ({"layers": (LayerSpec.of("math"),)}, r"layers\[0\]: math names no layer"),
        ({"head": LayerSpec.of("math:1")}, "head: math:1 names a layer"),
        ({"norm": LayerSpec.of("math:1")}, "norm: math:1 names a layer"),
        ({"embedding": LayerSpec.of("math:1")}, "embedding: math:1 names a layer"),
    ],
)
def test_layers_name_layers_and_parts_do_not(parts: dict[str, Any], told: str) -> None:
    with pytest.raises(TailoringError, match=told):
        Tailoring(**({"layers": (LayerSpec.of("base:0"),)} | parts))


def test_every_fault_of_a_file_is_told_at_once() -> None:
    plain = {
        "format": "gptailor/2",
        "layrs": [],
        "head": "math:1:2",
        "layers": ["base:0", "base", 7, {"merge": "tees", "sources": ["a:1", "b:1"]}],
    }
    with pytest.raises(TailoringError) as error:
        Tailoring.from_plain(plain, where="t.yaml")
    told = error.value.problems
    assert [sentence.split(": ")[1] for sentence in told] == [
        "unknown key 'layrs'; did you mean 'layers'? known",
        "format",
        "layers[2]",
        "layers[3]",
        "head",
    ]
    assert all(sentence.startswith("t.yaml: ") for sentence in told)


def test_every_misfit_with_a_family_is_told_at_once() -> None:
    tailoring = Tailoring(
        (
            LayerSpec.of("maths:0"),
            LayerSpec.of("base:6"),
            LayerSpec.of("math:1", "base:1", merge="ties", base="code:9"),
        ),
        head=LayerSpec.of("math"),
    )
    with pytest.raises(TailoringError) as error:
        tailoring.check(("base", "math", "code"), 6, tied=True)
    told = error.value.problems
    assert len(told) == 4
    assert "layers[0]: unknown member 'maths'; did you mean 'math'?" in told[0]
    assert told[1] == "layers[1]: base:6 does not exist; layers go from 0 to 5"
    assert told[2] == "layers[2]: code:9 does not exist; layers go from 0 to 5"
    assert told[3].startswith("head: is math but the embedding is base; the members of this family")


def test_one_source_for_embedding_and_head_fits_a_tied_family() -> None:
    Tailoring.whole("math", 3).check(("base", "math"), 3, tied=True)


def test_tailorings_are_keys() -> None:
    one = Tailoring((LayerSpec.of("math:1", "code:1", merge="ties"),))
    other = Tailoring((LayerSpec.of("code:1", "math:1", merge="ties", scale=0.5),))
    assert {one: 1}[other] == 1


def test_differing_in_any_one_place_is_another_tailoring() -> None:
    layers = (LayerSpec.of("base:0"), LayerSpec.of("base:1"))
    variants = [
        Tailoring(layers),
        Tailoring(layers[:1]),
        Tailoring((LayerSpec.of("math:0"), layers[1])),
        Tailoring(layers, embedding=LayerSpec.of("math")),
        Tailoring(layers, head=LayerSpec.of("math")),
        Tailoring(layers, norm=LayerSpec.of("math")),
    ]
    assert all(one != other for one, other in itertools.combinations(variants, 2))
    assert len({tailoring.digest for tailoring in variants}) == len(variants)


def test_a_tailoring_from_a_process_that_hashes_otherwise_is_found() -> None:
    told = (
        "import pickle, sys; from gptailor.core.tailoring import Tailoring; "
        "sys.stdout.buffer.write(pickle.dumps(Tailoring.whole('base', 3)))"
    )
    env = os.environ | {"PYTHONHASHSEED": "12345"}
    sent = subprocess.run([sys.executable, "-c", told], env=env, capture_output=True, check=True)
    received = pickle.loads(sent.stdout)
    ours = Tailoring.whole("base", 3)
    assert received == ours
    assert {ours: "found"}[received] == "found"
    assert {ours: "found"}[copy.deepcopy(ours)] == "found"
