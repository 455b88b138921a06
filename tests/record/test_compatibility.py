"""What changed since a record began is told by its name; what may change is let pass."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptailor.errors import ConfigError, RecordError
from gptailor.record.compatibility import check_header
from gptailor.record.entries import Header
from gptailor.record.journal import Journal

WHERE = Path("runs/mine/record.jsonl")
SIZES: dict[str, Any] = {"search": 12, "selection": 4, "test": 4, "notes": []}
HEADER: dict[str, Any] = {
    "created": "2026-01-02T03:04:05+0000",
    "machine": {},
    "seed": 0,
    "n_kept": 4,
    "goals": [{"task": "boolq", "metric": "acc", "weight": 1.0}],
    "config": {
        "family": {
            "base": {"path": "/m/base", "strength": 1.0, "base": None, "revision": None},
            "variants": {
                "math": {"path": "/m/math", "strength": 1.0, "base": None, "revision": None}
            },
            "dtype": "float32",
        },
        "remove": 2,
        "merge": ["task_arithmetic"],
        "keep": [],
        "tasks": [
            {"name": "boolq", "metric": "acc", "weight": 1.0, "limit": None},
            {"name": "piqa", "metric": "acc", "weight": 1.0, "limit": None},
        ],
        "examples": {"search": 0.6, "selection": 0.2, "test": 0.2},
        "search": {"name": "evolution", "options": {}},
        "workers": {"name": "local", "options": {}},
        "budget": {"max_trials": 30, "timeout_s": None, "n_examples": [4, 12], "finalists": 8},
        "engine": {"device": "auto", "threads": 1, "cache_bytes": 1, "max_length": None},
        "seed": 0,
    },
    "versions": {"torch": "2.9.0", "transformers": "5.20.0"},
    "family": {
        "members": ["base", "math"],
        "paths": {},
        "n_layers": 6,
        "parameters": 9,
        "layer_parameters": [1] * 6,
        "nbytes": 9,
        "notes": [],
        "digests": {"base": "b0", "math": "a0"},
        "model": {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 1e4}},
    },
    "rungs": [4, 12],
    "tasks": {name: {**SIZES, "digest": "d0"} for name in ("boolq", "piqa")},
}


def put(plain: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with one thing put in its place; steps are keys or numbers."""
    changed = copy.deepcopy(plain)
    *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    item: Any = changed
    for step in way:
        item = item[step]
    item[last] = value
    return changed


def check(now: dict[str, Any], recorded: dict[str, Any] = HEADER) -> None:
    check_header(Header.model_validate(recorded), Header.model_validate(now), WHERE)


def problems(now: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        check(now)
    return error.value.problems


def test_the_same_header_goes_on() -> None:
    check(copy.deepcopy(HEADER))


def test_texts_and_repair_must_be_as_they_were_where_the_record_tells_them() -> None:
    new = put(put(HEADER, "config.repair", {"name": "refit"}), "config.calibration", {"seed": 1})
    check(new)
    recorded = put(
        put(HEADER, "config.repair", {"name": "none"}), "config.calibration", {"seed": 0}
    )
    with pytest.raises(ConfigError) as error:
        check(new, recorded)
    assert [p.split(" ")[1] for p in error.value.problems] == ["repair.name", "calibration.seed"]
    check({**HEADER, "calibration": "c1"})
    with pytest.raises(ConfigError, match="the calibration texts changed"):
        check({**HEADER, "calibration": "c1"}, {**HEADER, "calibration": "c0"})


@pytest.mark.parametrize("change", [{"higher_is_better": False}, {"transform": "exp"}])
def test_a_metric_of_ones_own_must_work_as_it_did(change: dict[str, Any]) -> None:
    facts = {"higher_is_better": True, "meaning": "nats", "transform": "identity"}
    before = {**HEADER, "metrics": {"mine:margin": facts}}
    check({**before, "metrics": {"mine:margin": facts | {"meaning": "nats per token"}}}, before)
    with pytest.raises(ConfigError, match="the metric 'mine:margin' was another"):
        check({**before, "metrics": {"mine:margin": facts | change}}, before)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("config.budget.max_trials", 60),
        ("config.budget.timeout_s", 60.0),
        ("config.budget.finalists", 2),
        ("config.workers", {"name": "local", "options": {"group_size": 4}}),
        ("config.engine.threads", 2),
        ("config.engine.device", "cpu"),
        ("config.engine.cache_bytes", 2),
        ("config.engine.member_bytes", 2**20),
        ("config.search.options", {"population": 4, "tie_z": 0.5}),
    ],
)
def test_what_may_change_and_a_default_that_is_now_said_go_on(place: str, value: Any) -> None:
    check(put(HEADER, place, value))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("config.seed", 1, "seed was 0 when this record began and is now 1"),
        ("config.remove", 3, "remove was 2 when this record began and is now 3"),
        ("config.family.base.path", "/m/other", "family.base.path was /m/base"),
        ("config.family.variants.math.strength", 0.5, "family.variants.math.strength was 1.0"),
        ("config.family.variants.code", {"path": "/m/c"}, "family.variants.code was absent"),
        ("config.family.dtype", "bfloat16", "family.dtype was float32"),
        ("config.merge", ["ties"], "merge[0] was task_arithmetic"),
        ("config.keep", [0], "keep was [] when this record began and is now [0]"),
        ("config.tasks.1.name", "winogrande", "tasks[1].name was piqa"),
        ("config.tasks.0.metric", "acc_norm", "tasks[0].metric was acc"),
        ("config.tasks.0.weight", 2.0, "tasks[0].weight was 1.0"),
        ("config.tasks", [{"name": "piqa"}], "tasks was [boolq, piqa]"),
        ("config.examples.search", 0.5, "examples.search was 0.6"),
        ("config.search.name", "random", "search.name was evolution"),
        ("config.search.options", {"population": 8}, "search.options.population was 4"),
        ("config.search.options", {"populace": 8}, "search.options.populace was absent"),
        ("config.engine.max_length", 512, "engine.max_length was None"),
        ("family.digests.math", "a1", "the weights of member 'math' changed"),
        ("family.model.rms_norm_eps", 1e-5, "rms_norm_eps of the members' config.json was 1e-06"),
        ("family.model.rope_parameters.rope_theta", 2e4, "rope_parameters.rope_theta of the"),
        ("family.model.hidden_act", "gelu", "hidden_act of the members' config.json was absent"),
        ("tasks.piqa.digest", "p1", "the examples of task 'piqa' changed"),
        (
            "rungs",
            [6, 12],
            "budget.n_examples was [4, 12] when this record began and",
        ),
        ("versions.torch", "2.13.0", "torch was 2.9.0 when this record began and is now 2.13.0"),
        ("versions", {"torch": "2.9.0"}, "transformers was 5.20.0 when this record began and is"),
    ],
)
def test_a_change_of_what_is_searched_is_refused_by_its_name(
    place: str, value: Any, told: str
) -> None:
    (sentence,) = problems(put(HEADER, place, value))
    assert sentence.startswith(f"{WHERE}: ")
    assert told in sentence
    assert "name a new folder" in sentence or "search again into a new folder" in sentence


def test_all_changes_are_told_at_once() -> None:
    now = put(put(HEADER, "config.seed", 1), "versions.torch", "2.13.0")
    now = put(now, "family.digests.base", "b1")
    assert len(problems(now)) == 3


def test_other_examples_and_another_number_of_them_are_both_told() -> None:
    now = put(put(HEADER, "config.seed", 1), "config.budget.n_examples", [4, 11])
    assert [error.split(": ")[1].split(" was ")[0] for error in problems(now)] == [
        "seed",
        "budget.n_examples",
    ]


def test_a_header_that_tells_no_model_is_gone_on_with() -> None:
    old = copy.deepcopy(HEADER)
    del old["family"]["model"]
    check(HEADER, recorded=old)


def test_digests_that_differ_because_the_config_does_are_not_told_twice() -> None:
    now = put(put(HEADER, "config.examples.search", 0.5), "tasks.piqa.digest", "p1")
    (sentence,) = problems(now)
    assert "examples.search" in sentence


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        (lambda header: header.pop("config"), "config"),
        (lambda header: header["config"].pop("engine"), "config.engine"),
        (lambda header: header["config"]["family"].update(dtype=None), "config.family.dtype"),
        (lambda header: header.update(versions=[]), "versions"),
        (lambda header: header["family"].pop("digests"), "family.digests"),
        (lambda header: header.update(rungs=4), "rungs"),
        (lambda header: header["tasks"].update(piqa=7), "tasks.piqa"),
        (lambda header: header["tasks"]["piqa"].clear(), "tasks.piqa.search"),
    ],
)
def test_a_header_that_lacks_what_must_be_compared_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], key: str
) -> None:
    broken = {"kind": "header", "format": "gptailor-record/1", **copy.deepcopy(HEADER)}
    spoil(broken)
    (tmp_path / "record.jsonl").write_text(json.dumps(broken) + "\n", encoding="utf-8")
    with pytest.raises(RecordError, match=rf"line 1: {key}: .*name a new folder"):
        Journal(tmp_path)
