import ast
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gptailor.core.repair import refit_cuts
from gptailor.core.score_table import MeanRow, ScoreRow, ScoreTable, Share
from gptailor.core.statistics import Estimate
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.export import CardFacts, card_facts, model_card
from gptailor.report.chat_use import ChatUse

MIXED = Tailoring(
    (
        LayerSpec.of("base:0"),
        LayerSpec.of("math:1", "code:1", merge="task_arithmetic", scale=0.6),
        LayerSpec.of("math:3"),
    )
)


def table_of(
    base: float,
    result: Estimate,
    kept: Estimate | None,
    task: str = "capitals",
    metric: str = "acc",
) -> ScoreTable:
    share = Share("base", kept, at_chance=True)
    rows = (
        ScoreRow(task, metric, "base", 120, Estimate(base, base, base)),
        ScoreRow(task, metric, "result", 120, result, share, chance=0.25),
    )
    return ScoreTable(rows, {})


HALF = Estimate(0.5, 0.25, 0.75)
FACTS = CardFacts(
    name="pico",
    tailoring=MIXED,
    n_layers=5,
    paths={"base": "makers/pico-1b", "math": "./adapters/math", "code": "someone/pico-code"},
    licence="apache-2.0",
    parameters=(1000, 700),
    scores=table_of(0.8, Estimate(0.7, 0.6, 0.8), Estimate(0.875, 0.75, 1.0)),
    n_tried=84,
    notes=("math: read from an adapter",),
    versions={"gptailor": "0.1.0"},
)
TRICKS = [
    "a|b",
    "a\\|b",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "`x` ``` y",
    "x\n---\nlicense: evil\n---\n# y",
    "x\r\n\u2028| y |",
    "&lt;b&gt; $x$ ~~y~~ **z**",
    "\ud800\x00\x1b[31m\u202e",
    "{{ 7 * 7 }} {% raw %}",
    "'\": !!python/object [",
]


def cells(card: str, head: str) -> list[list[str]]:
    """The rows of the table whose first head cell is `head`, as a Markdown reader shows them."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(body(card)):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level == 3 + 1:
            kinds = {child.type for child in token.children or ()}
            assert kinds <= {"text", "text_special"}, kinds
            tables[-1][-1].append("".join(child.content for child in token.children or ()))
    return next(table[1:] for table in tables if table[0][0] == head)


def body(card: str) -> str:
    return ModelCard(card).text


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("\n---\n")[0])


def shown(text: str) -> str:
    """What is left of a name in one line: words of printable characters."""
    return " ".join(
        "".join(char if char == " " or char.isprintable() else " " for char in text).split()
    )


def test_the_headline_says_whether_layers_were_cut() -> None:
    assert "5 layers each: whole layers were cut, taken from one member" in model_card(FACTS)
    narrow = dataclasses.replace(FACTS, n_layers=3, width="heads were taken out")
    assert "3 layers each: each layer was taken from one member or" in model_card(narrow)


def test_front_matter_reads_back_as_the_hub_reads_it() -> None:
    data = ModelCard(model_card(FACTS)).data
    assert data.license == "apache-2.0"
    assert data.base_model_relation == "merge"
    assert data.library_name == "transformers"
    assert data.eval_results[0].metric_value == 0.7
    assert {"gptailor", "merge"} <= set(data.tags)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("makers/pico-1b", "makers/pico-1b"),
        ("makers/pico-1b@v2", "makers/pico-1b"),
        ("someone/lora (adapter on makers/pico-1b, times 0.5)", "someone/lora"),
        ("gpt2", "gpt2"),
        ("someone/pico-GGUF/pico.Q4_1.gguf@v1", "someone/pico-GGUF"),
        ("/home/jo/secret place/my model", None),
        ("./adapters/math/", None),
        ("package://some_package/SmolLM2-135M.Q4_1.gguf", None),
    ],
)
def test_base_model_is_a_hub_id_and_nothing_else(source: str, name: str | None) -> None:
    matter = front_matter(model_card(dataclasses.replace(FACTS, paths={"base": source})))
    assert matter.get("base_model") == (None if name is None else [name])
    assert matter.get("base_model_relation") == (None if name is None else "merge")


def test_folders_of_this_machine_are_not_published() -> None:
    paths = {"base": "/home/me/secret/pico", "math": "/home/me/math (adapter on /home/me/pico)"}
    card = model_card(dataclasses.replace(FACTS, paths=paths))
    assert "/home/me" not in card
    assert "math (adapter on pico)" in card.replace("\\", "")


def test_base_model_lists_every_member_once() -> None:
    sources = {"base": "makers/pico-1b", "math": "makers/pico-1b", "code": "someone/pico-code"}
    card = model_card(dataclasses.replace(FACTS, paths=sources))
    assert front_matter(card)["base_model"] == ["makers/pico-1b", "someone/pico-code"]


def test_a_folder_that_looks_like_a_hub_id_is_not_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "makers" / "pico-1b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert front_matter(model_card(FACTS))["base_model"] == ["someone/pico-code"]


@pytest.mark.parametrize(
    ("licence", "named"),
    [
        ("mit", ("mit", None)),
        ("My Own 1.0", ("other", "my-own-1.0")),
        ("---", ("other", "unknown")),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_another_with_a_name(
    licence: str, named: tuple[str, str | None]
) -> None:
    matter = front_matter(model_card(dataclasses.replace(FACTS, licence=licence)))
    assert (matter["license"], matter.get("license_name")) == named


def test_every_layer_is_listed_with_where_it_comes_from() -> None:
    rows = cells(model_card(FACTS), "layer")
    assert rows == [
        ["0", "base:0", "taken"],
        ["1", "code:1, math:1", "merged: task_arithmetic, scale 0.6, differences from base:1"],
        ["2", "math:3", "taken"],
        ["embedding", "base", "taken"],
        ["norm", "base", "taken"],
        ["head", "base", "taken"],
    ]


def test_repairs_are_listed_and_not_left_to_llama_cpp() -> None:
    layers = [LayerSpec.of(f"base:{layer}") for layer in (0, 2, 4)]
    layers[1] = layers[1].with_repair(gain=0.5, refit_to=4, fitted="0123456789abcdef")
    cut = Tailoring(tuple(layers))
    card = model_card(dataclasses.replace(FACTS, tailoring=cut))
    how = "multiplied by 0.5, refitted for the cut of layer 3, tensors of fitted/0123456789abcdef"
    assert cells(card, "layer")[1] == ["1", "base:2", f"taken, what it adds {how}"]
    assert "llama-quantize" not in card


def test_a_layer_after_a_cut_is_refitted_for_no_cut_of_its_own() -> None:
    kept = Tailoring(tuple(LayerSpec.of(f"base:{layer}") for layer in (0, 3)))
    first, last = refit_cuts(kept, 4).layers
    refitted = Tailoring((first, last.with_repair(refit_to=4)))
    card = model_card(dataclasses.replace(FACTS, n_layers=4, tailoring=refitted))
    assert [row[2] for row in cells(card, "layer")[:2]] == [
        "taken, refitted for the cut of layers 1, 2",
        "taken, refitted",
    ]
    assert (
        "Cut: 1, 2. Cuts were repaired in closed form: original layers 0, 3 were refitted" in card
    )


def test_cut_layers_are_named() -> None:
    assert "Cut: 2, 4." in model_card(FACTS)


def test_members_that_gave_nothing_are_left_out() -> None:
    facts = dataclasses.replace(FACTS, paths={**FACTS.paths, "chat": "someone/chat"})
    assert [row[0] for row in cells(model_card(facts), "member")] == ["base", "code", "math"]


def test_scores_stand_with_intervals_and_retention() -> None:
    assert cells(model_card(FACTS), "task") == [
        [
            *("capitals", "acc", "0.8", "0.25", "0.7 [0.6, 0.8]"),
            *("87.5% [75.0%, 100.0%]", "not above chance", "120"),
        ]
    ]


def test_shares_of_the_best_member_and_above_chance_stand_beside() -> None:
    kept, above, score = (Estimate(x, x, x) for x in (0.5, 0.125, 0.4))
    shares = Share("base", kept, above), Share("math", above, kept)
    rows = [
        ScoreRow(task, "acc", model, 120, score, *shares, 0.25)
        for model in ("base", "math", "result")
        for task in ("capitals", "stories")
    ]
    table = ScoreTable(tuple(rows), {"result": MeanRow("result", *shares)}, "math")
    half, eighth = "50.0% [50.0%, 50.0%]", "12.5% [12.5%, 12.5%]"
    told = [half, eighth, eighth, half]
    card = model_card(dataclasses.replace(FACTS, scores=table))
    scores = ["acc", "0.4", "0.4", "0.25", "0.4 [0.4, 0.4]"]
    assert cells(card, "task") == [
        ["capitals", *scores, *told, "120"],
        ["stories", *scores, *told, "120"],
        ["mean", *[""] * 5, *told, ""],
    ]


def test_a_score_that_is_no_number_does_not_reach_the_hubs_data() -> None:
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    card = model_card(dataclasses.replace(FACTS, scores=table_of(0.8, nothing, nothing)))
    assert "model-index" not in front_matter(card)
    row = ["capitals", "acc", "0.8", "0.25", "nan [nan, nan]", "- [-, -]"]
    assert cells(card, "task") == [[*row, "not above chance", "120"]]


def test_the_tailoring_in_the_card_reads_back_equal() -> None:
    card = model_card(FACTS)
    text = card.split("```yaml\n")[1].split("```")[0]
    assert Tailoring.from_yaml(text) == MIXED


def test_removals_alone_are_told_to_llama_cpp() -> None:
    cut = Tailoring(tuple(LayerSpec.of(f"base:{layer}") for layer in (0, 2, 4)))
    card = model_card(dataclasses.replace(FACTS, tailoring=cut))
    assert "llama-quantize --prune-layers 1,3 " in card


@pytest.mark.parametrize("layers", [(0, 2, 2), (2, 0), (0, 1, 2, 3, 4)])
def test_what_is_not_a_removal_is_not_told_to_llama_cpp(layers: tuple[int, ...]) -> None:
    moved = Tailoring(tuple(LayerSpec.of(f"base:{layer}") for layer in layers))
    assert "llama-quantize" not in model_card(dataclasses.replace(FACTS, tailoring=moved))


def test_removals_from_a_variant_name_the_variant() -> None:
    math = LayerSpec.of("math")
    layers = tuple(LayerSpec.of(f"math:{layer}") for layer in (1, 2, 3))
    cut = Tailoring(layers, embedding=math, head=math)
    card = model_card(dataclasses.replace(FACTS, tailoring=cut))
    assert "llama-quantize --prune-layers 0,4 math.gguf tailored.gguf COPY\n" in card
    mixed = dataclasses.replace(cut, layers=(LayerSpec.of("base:0"), *layers))
    assert "llama-quantize" not in model_card(dataclasses.replace(FACTS, tailoring=mixed))


def test_layers_of_several_kinds_are_not_told_to_llama_cpp() -> None:
    cut = Tailoring(tuple(LayerSpec.of(f"base:{layer}") for layer in (0, 2, 4)))
    facts = dataclasses.replace(FACTS, tailoring=cut, uniform=False)
    assert "llama-quantize" not in model_card(facts)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("model_type", "uniform"), [("llama", True), ("gemma2", False)])
def test_a_family_says_whether_its_layers_are_of_one_kind(
    model_type: str, uniform: bool, opened: Callable[..., Any]
) -> None:
    family = opened(model_type).family
    cut = Tailoring((LayerSpec.of("base:0"), LayerSpec.of("base:3")))
    facts = card_facts(family, cut, "pico")
    assert facts.uniform == uniform
    assert ("--prune-layers 1,2,4,5 base.gguf" in model_card(facts)) == uniform


def test_a_variants_embedding_is_not_a_removal() -> None:
    embedding = LayerSpec.of("math")
    cut = Tailoring((LayerSpec.of("base:0"),), embedding=embedding)
    assert "llama-quantize" not in model_card(dataclasses.replace(FACTS, tailoring=cut))


def test_a_card_of_the_barest_facts_can_be_read() -> None:
    facts = CardFacts("pico", Tailoring.whole("base", 2), 2, {})
    card = model_card(facts)
    assert "base_model" not in front_matter(card)
    assert "No layer was cut." in card


@pytest.mark.parametrize("trick", TRICKS)
def test_a_hostile_name_is_shown_as_text(trick: str) -> None:
    facts = dataclasses.replace(
        FACTS,
        name=trick,
        paths={"base": trick, "math": trick},
        licence=trick,
        scores=table_of(1.0, HALF, None, trick, trick),
        scores_note=trick,
        notes=(trick,),
        versions={trick: trick},
    )
    card = model_card(facts)
    card.encode("utf-8")
    kinds = {token.type for token in MarkdownIt("commonmark").parse(body(card))}
    assert "html_block" not in kinds
    assert cells(card, "task")[0][:2] == [shown(trick), shown(trick)]
    assert cells(card, "member")[0][1] == shown(trick)
    data = front_matter(card)
    assert data["license"] == "other"
    assert re.fullmatch(r"[a-z0-9._-]+", data["license_name"])
    assert data["model-index"][0]["name"] == shown(trick)


@given(name=st.text(max_size=40))
@example(name="_0_")
@example(name="a_b_")
@example(name="__é_")
def test_any_name_stays_in_its_cell(name: str) -> None:
    card = model_card(dataclasses.replace(FACTS, scores=table_of(1.0, HALF, None, name)))
    row = ["acc", "1", "0.25", "0.5 [0.25, 0.75]", "", "not above chance", "120"]
    assert cells(card, "task") == [[shown(name), *row]]


@pytest.mark.parametrize("said", [None, "Be brief.", 'a ``` "b" {x}\n\\ é'])
@pytest.mark.parametrize("template", ["", "rag"])
def test_a_chat_model_is_used_as_it_was_scored(said: str | None, template: str) -> None:
    card = model_card(dataclasses.replace(FACTS, chat=ChatUse("", template, said)))
    (source,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    call = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tokenizer.apply_chat_template"
    )
    messages = ast.literal_eval(call.args[0])
    assert [each["content"] for each in messages[:-1]] == ([] if said is None else [said])
    assert messages[-1]["role"] == "user"
    named = {key.arg: ast.literal_eval(key.value) for key in call.keywords}
    assert named.get("chat_template", "") == template
    assert named["add_generation_prompt"]
    assert "apply_chat_template" not in model_card(FACTS)
