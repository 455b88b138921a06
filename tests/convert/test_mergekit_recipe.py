"""mergekit recipes read as tailorings, and the sentence where none says the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptailor.app.tailoring_file import load_tailoring
from gptailor.config import config_of
from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.errors import TailoringError

GIVEN = {"remove": 1, "tasks": [{"name": "quiz", "metric": "acc"}]}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Read a recipe beside the folders ``base`` and ``math``; a hub id is ``code``."""
    for name in ("base", "math"):
        (tmp_path / name).mkdir()
    variants = {"math": str(tmp_path / "math"), "code": "org/code"}
    family = {"base": str(tmp_path / "base"), "variants": variants}
    config = config_of({"family": family, **GIVEN}, tmp_path / "tailor.yaml")

    def run(recipe: dict[str, Any]) -> Tailoring:
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        return load_tailoring(path, config, lambda: 3)

    return run


def source(model: str, start: int, stop: int, **parameters: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"model": model, "layer_range": [start, stop]}
    return found | ({"parameters": parameters} if parameters else {})


def slices(method: str, *of_each: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    return {"merge_method": method, "slices": [{"sources": each} for each in of_each], **keys}


def taken(*names: str) -> list[LayerSpec]:
    sources = [name.partition(":") for name in names]
    return [LayerSpec((Source(m, int(n) if n else None),)) for m, _, n in sources]


def test_slices_are_passed_through_and_the_outer_parts_follow_the_first_and_the_last(
    load: Any, tmp_path: Path
) -> None:
    recipe = slices(
        "passthrough",
        [source("./base", 0, 2)],
        [source(str(tmp_path / "math"), 3, 5)],
        [source("org/code", 5, 6)],
        dtype="float32",
    )
    base, code = taken("base", "code")
    layers = taken("base:0", "base:1", "math:3", "math:4", "code:5")
    assert load(recipe) == Tailoring(tuple(layers), embedding=base, norm=code, head=code)
    none = slices("passthrough", [source("math", 0, 0)], [source("base", 1, 3)])
    (math,) = taken("math")
    found = load(none)  # a slice without layers chooses the embedding
    assert (found.embedding, len(found.layers)) == (math, 2)


@pytest.mark.parametrize(
    ("method", "sources", "keys", "merged", "params"),
    [
        ("linear", [{"weight": 1}, {"weight": 3}], {}, "linear", {"weights": (0.25, 0.75)}),
        ("slerp", [{}, {}], {"t": 0.3}, "slerp", {"t": 0.3}),
        # a share of one difference: base + 0.4 (math - base)
        ("task_arithmetic", [{}, {"weight": 0.5}], {"lambda": 0.8}, "linear",
         {"weights": (0.6, 0.4)}),
        ("ties", [{}, {"weight": 0.5, "density": 1}], {"lambda": 0.25, "int8_mask": True},
         "linear", {"weights": (0.75, 0.25)}),
    ],
)  # fmt: skip
def test_one_method_over_slices_merges_layer_by_layer(
    load: Any, method: str, sources: Any, keys: Any, merged: str, params: Any
) -> None:
    pair = [source("base", 0, 2, **sources[0]), source("math", 2, 4, **sources[1])]
    recipe = slices(method, pair, [source("base", 4, 5)] if method != "slerp" else pair)
    found = load(recipe | {"base_model": "base", "parameters": keys})
    places = [("base:0", "math:2"), ("base:1", "math:3")]
    for spec, (one, other) in zip(found.layers[:2], places, strict=True):
        assert list(map(str, spec.sources)) == [one, other]
        assert (spec.method, dict(spec.params)) == (merged, params)
    assert list(map(str, found.embedding.sources)) == ["base", "math"]
    assert found.embedding.method == merged


@pytest.mark.parametrize(
    ("method", "keys", "merged", "params"),
    [
        ("task_arithmetic", [{"weight": 0.5}, {"weight": 0.5}], "task_arithmetic", {"scale": 0.5}),
        ("task_arithmetic", [{"weight": 0.5}, {"weight": 0.25}], "linear",
         {"weights": (0.25, 0.25, 0.5)}),  # base, code, math
        ("ties", [{"density": 0.4}, {"density": 0.4}], "ties", {"scale": 1.0, "density": 0.4}),
        ("task_arithmetic", [{"weight": 1}], None, {}),
    ],
)  # fmt: skip
def test_differences_from_the_base_model_are_added(
    load: Any, method: str, keys: Any, merged: str | None, params: Any
) -> None:
    names = ("math", "code")[: len(keys)]
    each = [source(name, 0, 2, **given) for name, given in zip(names, keys, strict=True)]
    (spec, _) = load(slices(method, each) | {"base_model": "base"}).layers
    assert (spec.method, dict(spec.params)) == (merged, params)
    assert {source.member for source in spec.sources} - {"base"} == set(names)


@pytest.mark.parametrize(
    ("method", "keys", "spec"),
    [
        ("passthrough", {"models": [{"model": "math"}]}, lambda m, c, b: LayerSpec((m,))),
        (
            "linear",
            {"models": [{"model": "math", "parameters": {"weight": 1}},
                        {"model": "org/code", "parameters": {"weight": 3}}]},
            lambda m, c, b: LayerSpec((m, c), "linear", (("weights", (1.0, 3.0)),)),
        ),
        (
            "ties",
            {"models": [{"model": "base"}, {"model": "math"}, {"model": "org/code"}],
             "base_model": "base", "parameters": {"density": 0.5, "weight": 0.5}},
            lambda m, c, b: LayerSpec((m, c), "ties", (("scale", 1.0), ("density", 0.5)), b),
        ),
        (
            "slerp",  # the base model is added
            {"models": [{"model": "math"}], "base_model": "base", "parameters": {"t": 0.3}},
            lambda m, c, b: LayerSpec((b, m), "slerp", (("t", 0.3),)),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_whole_models_are_slices_of_all_layers(
    load: Any, method: str, keys: dict[str, Any], spec: Any
) -> None:
    found = load({"merge_method": method, **keys})

    def wanted(layer: int | None) -> LayerSpec:
        return spec(*(Source(name, layer) for name in ("math", "code", "base")))

    outer = wanted(None)
    layers = tuple(wanted(layer) for layer in range(3))
    assert found == Tailoring(layers, embedding=outer, norm=outer, head=outer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"merge_method": "della"}, "merge_method is 'della'; these are read: passthrough"),
        ({"slices": None}, "it has neither slices nor models"),
        ({"models": [{"model": "base"}]}, "it has both slices and models"),
        ({"slices": None, "models": []}, "models must be a list"),
        ({"slices": None, "models": ["base"]}, "models: a source names no model"),
        ({"slices": None, "models": [source("base", 0, 2)]}, "a layer_range belongs to"),
        ({"slices": None, "models": [{"model": "base"}, {"model": "math"}]}, "takes one source"),
        ({"slices": [{"sources": [source("elsewhere", 0, 2)]}]}, "'elsewhere' is the path of no"),
        ({"slices": [{"sources": [source("base", 0, 2, scale=0.5)]}]}, "its parameters scale"),
        ({"slices": [{"sources": [{"model": "base"}]}]}, "layer_range must be two numbers"),
        ({"slices": ["base"]}, r"slices\[0\]: it must have a list of sources"),
        ({"slices": [{"sources": []}]}, "it must have a list of sources"),
        ({"tokenizer_source": "union"}, "tokenizer_source is 'union'"),
        (
            slices("linear", [source("base", 0, 2, weight=[0, 1]), source("math", 0, 2)]),
            r"weight is \[0, 1\], which differs by layer",
        ),
        (
            slices("ties", [source("code", 0, 2, weight=2), source("math", 0, 2)])
            | {"base_model": "base"},
            "weight is not the same for all sources",
        ),
        (
            slices("ties", [source("math", 0, 2, density=0.5)]) | {"base_model": "base"},
            "ties trims the differences of a single model",
        ),
    ],
)
def test_what_no_tailoring_says_is_one_sentence(load: Any, change: Any, words: str) -> None:
    with pytest.raises(TailoringError, match=f"is a mergekit recipe, .* all of it: .*{words}") as e:
        load(slices("passthrough", [source("base", 0, 2)]) | change)
    assert len(e.value.problems) == 1


def test_where_there_is_no_config_a_recipe_is_told_where_it_can_be_read(
    tmp_path: Path, run_command: Any
) -> None:
    path = tmp_path / "slices.yaml"
    path.write_text(json.dumps(slices("passthrough", [source("a", 0, 2)])), encoding="utf-8")
    code, _, told = run_command("convert", path)
    assert (code, told.count("\n")) == (2, 1)
    assert "is a mergekit recipe" in told
    assert f"'gptailor convert {path} --config tailor.yaml'" in told


def test_a_recipe_is_converted_with_the_members_of_a_config(
    tmp_path: Path, run_command: Any
) -> None:
    (tmp_path / "math").mkdir()
    family = {"base": "org/base", "variants": {"math": "./math"}}
    (tmp_path / "tailor.yaml").write_text(json.dumps({"family": family, **GIVEN}), encoding="utf-8")
    path, out = tmp_path / "recipe.yaml", tmp_path / "t.yaml"

    def convert(recipe: dict[str, Any], *options: Any) -> tuple[int, str]:
        path.write_text(json.dumps(recipe), encoding="utf-8")
        given = ("--config", tmp_path / "tailor.yaml", "--out", out, "--overwrite", *options)
        code, _, told = run_command("convert", path, *given)
        return code, told

    cut = [source("./math", 1, 3)]
    named = slices("passthrough", [source("org/base", 0, 1)], cut) | {"name": "first"}
    assert convert(named) == (0, "")
    math = LayerSpec((Source("math"),))
    layers = tuple(taken("base:0", "math:1", "math:2"))
    assert Tailoring.load(out) == Tailoring(layers, norm=math, head=math)
    whole = {"merge_method": "passthrough", "models": [{"model": "./math"}]}
    assert convert(whole) == (
        2,
        "error: convert: give --layers; a recipe of whole models does not say it\n",
    )
    assert convert(whole, "--layers", 3) == (0, "")
    assert len(Tailoring.load(out).layers) == 3
    code, told = convert({"base_model": "org/base", "experts": [{"source_model": "./math"}]})
    assert (code, told.count("\n")) == (2, 1)
    assert "merge_method is None; these are read: passthrough" in told
    beyond = slices("passthrough", [source("org/base", 2, 4)])
    assert "base:3 does not exist; layers go from 0 to 2" in convert(beyond, "--layers", 3)[1]
