"""The page: whole, right, safe and alone, whatever the run is like."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from intervals import average_retention, retention_interval
from recorded_runs import Sketch, write_run

from gptailor.core.metrics import aggregate
from gptailor.core.objective import retention
from gptailor.core.trial import Measurement
from gptailor.errors import RecordError, UserError
from gptailor.record.run_record import read_run
from gptailor.report import write_report
from gptailor.report.chat_use import ChatUse, chat_use
from gptailor.report.ladder_page import ladder_facts
from gptailor.report.progress import search_chart
from gptailor.report.repeating import repeating_config, repeating_steps
from gptailor.report.words import decimal, percent

MakeRun = Callable[..., Path]
VOID = {"meta", "link", "br", "img", "hr", "input"}
EVIL = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Collects what a page holds; refuses tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> in the wrong place"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def measurement_of(metric: str, plain: dict[str, Any]) -> Measurement:
    weights = plain.get("weights")
    return Measurement(metric, tuple(plain["values"]), None if weights is None else tuple(weights))


KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "engine's scores": {"evaluates": False},
    "selection split only": {"evaluates": False, "reports": False},
    "going on": {"ends": False, "n_trials": 20},
    "nothing tried": {"ends": False, "n_trials": 0},
    "all failed": {"ends": False, "n_trials": 9, "failing": 1.0},
    "one trial": {"ends": False, "n_trials": 1, "rungs": (5,), "failing": 0.0},
    "cutting only": {"variants": (), "n_trials": 30},
    "one task": {"tasks": {"mmlu": "acc"}, "n_trials": 30},
    "two tasks": {"tasks": {"a": "acc", "b": "word_perplexity"}, "n_trials": 30},
    "80 layers": {
        "n_layers": 80,
        "remove": 20,
        "variants": tuple(f"v{i}" for i in range(8)),
        "n_trials": 25,
    },
}


def page_of(shared_run: MakeRun, kind: str) -> Page:
    folder = shared_run(kind, **KINDS[kind])
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_makes_a_page_that_parses_and_stands_alone(
    shared_run: MakeRun, kind: str
) -> None:
    text = (shared_run(kind, **KINDS[kind]) / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "base"}
    assert "//" not in "".join(re.findall(r"url\([^)]*\)|@import[^;]*", text))
    assert "None" not in page.text
    assert "nan" not in page.text.lower().split()
    assert "{{" not in page.text


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_and_tables_speak_to_who_cannot_see_them(shared_run: MakeRun, kind: str) -> None:
    page = page_of(shared_run, kind)
    names = [tag for tag, _ in page.tags]
    pictures = [i for i, (tag, a) in enumerate(page.tags) if tag == "svg" and a.get("role")]
    for index in pictures:
        assert names[index + 1 : index + 3] == ["title", "desc"]
    hidden = [a for tag, a in page.tags if tag == "svg" and a.get("role") is None]
    assert all(attributes.get("aria-hidden") == "true" for attributes in hidden)
    assert all(a.get("scope") in ("col", "row") for tag, a in page.tags if tag == "th")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_numbers_are_those_worked_out_from_the_examples(make_run: MakeRun) -> None:
    folder = make_run(n_trials=40)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    models = {model["name"]: model["scores"] for model in evaluation["models"]}
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    kept = []
    for task, metric in (("capitals", "acc"), ("stories", "acc"), ("python", "bits_per_byte")):
        values = {}
        for name in ("base", "math", "code", "common", "result"):
            measured = models[name][task][metric]
            values[name] = aggregate(metric, measured["values"], measured.get("weights"))
            assert decimal(values[name]) in text
        kept.append(retention(values["result"], values["base"], metric))
        assert f"keeps {percent(kept[-1])}" in text
    assert f"The result keeps {percent(sum(kept) / 3)} of the base's score" in text
    pairs = [
        tuple(measurement_of(metric, models[name][task][metric]) for name in pair)
        for task, metric in (("capitals", "acc"), ("stories", "acc"), ("python", "bits_per_byte"))
        for pair in [("result", "base")]
    ]
    average = average_retention(pairs, n_resamples=2000)  # type: ignore[arg-type]
    assert average is not None
    assert f"95% interval {percent(average.low)} to {percent(average.high)}" in text
    alone = retention_interval(*pairs[0], n_resamples=2000)
    assert alone is not None
    assert f"{percent(alone.low)} to {percent(alone.high)}" in text


def test_the_share_above_chance_stands_beside_the_share_of_the_score(make_run: MakeRun) -> None:
    folder = make_run(n_trials=5)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    models = {model["name"]: model["scores"] for model in evaluation["models"]}
    value = {
        (name, task): aggregate("acc", models[name][task]["acc"]["values"])
        for name in models
        for task in ("capitals", "stories")
    }
    page = Page(write_report(folder).read_text(encoding="utf-8")).text
    above = {key: score - 0.25 for key, score in value.items()}
    for task in ("capitals", "stories"):
        share = above["result", task] / above["base", task]
        assert f"{percent(share)} above chance" in page
    both = [sum(above[name, task] for task in ("capitals", "stories")) for name in models]
    pooled = dict(zip(models, both, strict=True))
    assert f"({percent(pooled['result'] / pooled['base'])} of what the base scores above" in page


def test_a_record_without_chances_makes_the_page_without_them(make_run: MakeRun) -> None:
    folder = make_run(n_trials=5)
    path = folder / "record.jsonl"
    header, *rest = path.read_text(encoding="utf-8").splitlines()
    older = json.loads(header)
    for facts in older["tasks"].values():
        del facts["chance"]
    path.write_text("\n".join([json.dumps(older), *rest]) + "\n", encoding="utf-8")
    page = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "keeps" in page
    assert "above chance" not in page


def test_parameters_are_counted_layer_by_layer(shared_run: MakeRun) -> None:
    text = page_of(shared_run, "whole").text
    base = 28_311_552 + 1000 + 3_540_096 * 30
    share = 7 * 3_540_096 / base
    assert "134.5M → 109.7M" in text
    assert f"{share:.1%} removed" in text


def test_the_best_line_and_every_trial_are_drawn(make_run: MakeRun) -> None:
    run = read_run(make_run(n_trials=60))
    drawn = search_chart(run)
    assert drawn is not None
    assert run.objective is not None
    spent = 0
    for trial, point in zip(run.trials, drawn.points, strict=True):
        spent += trial.evaluation.layer_tokens
        assert point.layer_tokens == spent
        assert (point.loss is None) == (trial.scores is None)
        if trial.scores is not None:
            assert point.loss == run.objective.scalar(trial.scores)
    for panel in drawn.panels:
        assert panel.svg.count("<circle") == len(run.complete) + 1  # and the ring
        assert panel.svg.count('class="cross"') == len(run.failed)
        assert panel.svg.count('class="best"') == 1


def test_hostile_names_are_shown_as_text(make_run: MakeRun) -> None:
    folder = make_run(n_trials=25, failing=0.3, tasks={EVIL: "acc", "b": "acc"})
    record = (folder / "record.jsonl").read_text(encoding="utf-8")
    evil = json.dumps(EVIL)[1:-1]
    for plain in ("SmolLM2-135M-Instruct", "out of memory", "swap of 3f2a", "Some CPU", "Q4_1"):
        record = record.replace(plain, evil)
    (folder / "record.jsonl").write_text(record, encoding="utf-8")
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    evaluation["models"].append(evaluation["models"][1] | {"name": EVIL})
    evaluation["backend"] = EVIL
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert text.count("<script>") == 1
    assert "alert(1)" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_only_the_page_s_own_script_may_run(shared_run: MakeRun) -> None:
    page = page_of(shared_run, "whole")
    policy = next(
        a["content"] or "" for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy
    assert "script-src 'unsafe-inline'" not in policy


@pytest.mark.slow
def test_the_page_says_which_examples_its_scores_come_from(shared_run: MakeRun) -> None:
    told = {
        kind: page_of(shared_run, kind).text
        for kind in ("whole", "engine's scores", "selection split only", "going on")
    }
    for kind in ("whole", "engine's scores"):
        assert "examples that neither the search nor the choice saw" in told[kind]
    assert "lm-eval hf" in told["whole"]
    assert "by the search's own engine" in told["engine's scores"]
    assert "picked for doing well on them" in told["selection split only"]
    assert "the very examples that candidates were selected on" in told["going on"]
    assert "This study has not ended: 20 trials so far" in told["going on"]


def test_an_evaluation_on_seen_examples_is_not_passed_off_as_unseen(make_run: MakeRun) -> None:
    folder = make_run(n_trials=5)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    evaluation["split"] = "selection"
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "picked for doing well on them" in text
    assert "examples that neither the search nor the choice saw" not in text


def test_failures_are_listed_with_their_reasons_and_never_scored(shared_run: MakeRun) -> None:
    text = page_of(shared_run, "all failed").text
    assert "All of 9 candidates failed" in text
    assert "out of memory: 2.1 GiB asked for" in text
    assert "keeps" not in text


def test_a_report_goes_where_it_is_asked_to_and_replaces_the_old(
    make_run: MakeRun, tmp_path: Path
) -> None:
    folder, out = make_run(n_trials=3), tmp_path / "deep er" / "page.html"
    assert write_report(folder, out) == out
    before = out.read_text(encoding="utf-8")
    assert write_report(folder, out) == out
    assert out.read_text(encoding="utf-8") == before
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    assert not (folder / "report.html").exists()


def test_a_place_that_cannot_be_written_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(n_trials=3)
    with pytest.raises(UserError, match="is a folder"):
        write_report(folder, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        write_report(folder, tmp_path / "file" / "report.html")


def test_models_measured_on_other_examples_are_refused(make_run: MakeRun) -> None:
    folder = make_run(n_trials=5)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    evaluation["models"][1]["scores"]["capitals"]["acc"]["values"].pop()
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    with pytest.raises(RecordError, match=r"'capitals', 'math' and 'base'.*49 and 50"):
        write_report(folder)


@pytest.mark.slow
def test_two_thousand_trials_still_make_a_page_that_opens(make_run: MakeRun) -> None:
    path = write_report(make_run(n_trials=2000, n_layers=6, remove=2, rungs=(2, 4)))
    assert path.stat().st_size < 3_000_000


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A run whose entries were changed in place."""
    path = folder / "record.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_a_ladder_says_of_each_depth_what_its_guard_found(tmp_path: Path) -> None:
    guards = {3: "passed over because their greedy text is dead: trial 1: loops", 5: None}
    runs = {}
    for depth, guard in guards.items():
        run = write_run(tmp_path / f"remove-{depth}", Sketch(n_trials=3, remove=depth))
        runs[depth] = changed(
            run, lambda line, g=guard: line.update({"guard": g} if line["kind"] == "chosen" else {})
        )
    assert ladder_facts(tmp_path, runs)["guards"] == [(3, guards[3])]
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert f"3 layers cut, the guard: {guards[3]}." in text
    assert "5 layers cut, the guard" not in text


def test_the_commands_of_a_depth_and_of_baselines_are_theirs(make_run: MakeRun) -> None:
    ladder, folder = {"remove": [3, 5]}, make_run(n_trials=3)
    changed(folder, lambda line: line.get("config", {}).update(ladder))
    commands = [command for command, _ in repeating_steps(read_run(folder))]
    assert commands[0] == f"gptailor search tailor.yaml --out {folder.parent}"
    assert commands[2] == f"gptailor evaluate model --run {folder}"
    options = {"names": ["sleb", "mka"], "member": "math", "seed": 3}
    options["options"] = {"sleb": {"n_tokens": 4096}}
    search = {"remove": 7, "search": {"name": "baseline", "options": options}}
    changed(folder, lambda line: line.get("config", {}).update(search))
    run = read_run(folder)
    asked = "sleb,mka tailor.yaml --member math --seed 3 --option sleb.n_tokens=4096"
    assert repeating_steps(run)[0][0] == f"gptailor baseline {asked} --out {folder}"
    assert "search" not in repeating_config(run.header.config)
    target = {"remove": 7, "target": {"memory": "1GB"}}
    assert repeating_config(target) == "target:\n  memory: 1GB\n"


def test_before_a_choice_nothing_is_exported(shared_run: MakeRun) -> None:
    run = read_run(shared_run("going on", **KINDS["going on"]))
    assert [command.split()[1] for command, _ in repeating_steps(run)] == ["search", "report"]


@pytest.mark.parametrize(
    ("chat", "own", "expected"),
    [
        ({}, {}, ChatUse()),
        (
            {"chat_template": True, "system_instruction": "Be brief."},
            {},
            ChatUse(
                "All questions and texts went through the tokenizer's chat template, with the "
                "system instruction “Be brief”",
                "",
                "Be brief.",
            ),
        ),
        (
            {},
            {"chat_template": "rag"},
            ChatUse(
                "Sample texts were plain text; questions of a "
                "went through the tokenizer's chat template rag",
                "rag",
            ),
        ),
        (
            {"system_instruction": "Be brief."},
            {"chat_template": False},
            ChatUse("All questions and texts came after the instruction “Be brief”"),
        ),
        (
            {"chat_template": True},
            {"chat_template": False},
            ChatUse(
                "Sample texts went through the tokenizer's chat template; "
                "questions of a were plain text",
            ),
        ),
    ],
)
def test_the_page_says_how_questions_were_put(
    make_run: MakeRun, chat: dict[str, Any], own: dict[str, Any], expected: ChatUse
) -> None:
    folder = make_run(n_trials=2, tasks={"a": "acc"})

    def asked(line: dict[str, Any]) -> None:
        if line["kind"] == "header":
            line["config"] |= {"chat": chat, "tasks": [{"name": "a", "metric": "acc", **own}]}

    run = read_run(changed(folder, asked))
    assert chat_use(run.header) == expected
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert ("chat template" in text or "instruction" in text.split(" To repeat it ")[0]) == bool(
        expected.about
    )
    assert f"{expected.about}." in text


def test_a_system_message_that_a_template_refused_is_not_claimed(make_run: MakeRun) -> None:
    note = "task 'a': the chat template takes no system message; it is left out"
    chat = {"chat_template": True, "system_instruction": "Be brief."}

    def asked(line: dict[str, Any]) -> None:
        if line["kind"] == "header":
            line["config"]["chat"] = chat
            line["tasks"]["a"]["notes"] = [note]

    run = read_run(changed(make_run(n_trials=2, tasks={"a": "acc"}), asked))
    assert chat_use(run.header).system is None
