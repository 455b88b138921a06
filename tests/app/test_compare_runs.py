"""Models side by side, from what runs have recorded: nothing is loaded or scored here."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from intervals import paired_difference
from recorded_runs import Sketch, make_baselines, record_of, write_lines, write_run

from gptailor.app.compare_runs import compare
from gptailor.core.metrics import aggregate
from gptailor.core.score_table import MeanScore
from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError, RecordError, TailoringError
from gptailor.family.fitted import FittedWeights
from gptailor.record.ladder_folder import depth_folder, earlier_runs
from gptailor.record.run_record import read_run
from gptailor.report.comparison import Comparison, write_comparison

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("two runs")
    runs = [
        write_run(root / name, Sketch(n_trials=6, seed=seed))
        for seed, name in enumerate(("one", "two"))
    ]
    return runs[0], runs[1]


@pytest.fixture(scope="module")
def both(two_runs: tuple[Path, Path]) -> Comparison:
    return compare(two_runs, with_speed=False)


def changed(folder: Path, change: Callable[[Lines], object], **fields: Any) -> Path:
    lines = record_of(Sketch(n_trials=6, **fields))
    change(lines)
    write_lines(folder, lines)
    return folder


def test_members_and_results_stand_on_the_same_examples(
    two_runs: tuple[Path, Path], both: Comparison
) -> None:
    assert [model.name for model in both.models] == ["base", "math", "code", "common", "one", "two"]
    first, second = (read_run(run).test_scores for run in two_runs)
    assert both.against == both.table.best == "base"
    for name, scores in {"math": first["math"], "two": second["result"]}.items():
        row = both.table.row(name, "capitals")
        assert row is not None
        measured = scores.tasks["capitals"]["acc"]
        assert row.score.value == measured.value
        assert row.difference == paired_difference(measured, first["base"].tasks["capitals"]["acc"])
    assert [model.parameters for model in both.models][-1] == 109_734_760


def test_the_cost_of_a_run_is_that_of_its_trials_where_no_other_is_recorded(
    two_runs: tuple[Path, Path], both: Comparison
) -> None:
    run, model = read_run(two_runs[0]), both.models[4]
    assert model.layer_tokens == sum(trial.evaluation.layer_tokens for trial in run.trials)
    assert model.seconds == max(run.elapsed.values())
    assert both.models[0].layer_tokens is None


def test_a_depth_of_a_ladder_has_cost_what_the_searches_before_it_have(tmp_path: Path) -> None:
    runs = [
        write_run(depth_folder(tmp_path, depth), Sketch(n_trials=6, remove=depth, seed=depth))
        for depth in (2, 3, 4)
    ]
    assert [earlier_runs(run) for run in runs] == [[], runs[:1], runs[:2]]
    costs = [compare([run], with_speed=False).models[-1] for run in runs]
    alone = [
        compare([run.rename(tmp_path / f"run {n}")], with_speed=False).models[-1]
        for n, run in enumerate(runs)
    ]
    for what in ("layer_tokens", "seconds"):
        total = itertools.accumulate(getattr(each, what) for each in alone)
        assert [getattr(each, what) for each in costs] == pytest.approx(list(total))


def test_a_metric_of_all_tasks_is_averaged_over_them(
    two_runs: tuple[Path, Path], both: Comparison
) -> None:
    assert list(both.means) == ["gold_bits_per_byte"]  # acc is not measured on one of them
    tasks = read_run(two_runs[0]).test_scores["math"].tasks
    values = [metrics["gold_bits_per_byte"].value for metrics in tasks.values()]
    mean = both.means["gold_bits_per_byte"]["math"]
    assert isinstance(mean, MeanScore)
    assert mean.score.value == pytest.approx(sum(values) / 3)
    assert mean.score.low < mean.score.value < mean.score.high
    base = both.means["gold_bits_per_byte"]["base"]
    assert mean.difference.value == pytest.approx(mean.score.value - base.score.value)


def test_the_loss_is_the_objective_s_less_that_of_the_row_compared_with(
    two_runs: tuple[Path, Path],
) -> None:
    comparison = compare(two_runs, against="math", with_speed=False)
    scores = read_run(two_runs[0]).test_scores

    def loss(name: str) -> float:
        base, own = scores["base"].tasks, scores[name].tasks
        metrics = (("capitals", "acc", -1), ("stories", "acc", -1), ("python", "bits_per_byte", 1))
        gaps = [
            sign * (aggregate(m, own[t][m].values, own[t][m].weights) / base[t][m].value - 1)
            for t, m, sign in metrics
        ]
        return sum(gaps) / 3

    assert comparison.losses["one"].value == pytest.approx(loss("result") - loss("math"))
    assert comparison.losses["math"].value == 0
    assert comparison.against == "math"


def score_baselines(lines: Lines) -> None:
    """Turn all trials into baselines of math with scores on the test split, but the first."""
    tested = next(line for line in lines if line["kind"] == "test" and "number" in line)
    trials = [line for line in lines if line["kind"] == "trial"]
    lines[-1:] = [tested | {"number": trial["number"]} for trial in trials[1:]]
    make_baselines(lines, failure="out of memory", layer_tokens=9)


def test_each_baseline_of_a_run_is_a_row_and_a_failed_one_a_note(tmp_path: Path) -> None:
    run = changed(tmp_path / "run", score_baselines, failing=0.0)
    comparison = compare([run], with_speed=False)
    rows = {model.name: model for model in comparison.models[4:]}
    assert [*rows] == [*(f"cut {number} on math" for number in range(1, 6)), "twin on math"]
    assert {(model.layer_tokens, model.seconds) for model in rows.values()} == {(9, 2.5)}
    assert {model.parameters for model in rows.values()} == {109_734_700}
    assert rows["twin on math"].tailoring == rows["cut 3 on math"].tailoring
    assert comparison.notes == (
        f"laco on math ({run}): no such layer",
        f"cut 0 on math ({run}): out of memory",
    )
    with pytest.raises(ConfigError, match="has 6 rows; name one of them: cut 1 on math, cut 2"):
        compare([run], against=str(run), with_speed=False)
    one = compare([run], against="cut 2 on math", with_speed=False)
    assert one.against == "cut 2 on math"


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "the fitted weights {0} are not there; put {0}.safetensors back"),
     (b"damaged", "{0}.safetensors: can't be read")],
)  # fmt: skip
def test_a_file_without_its_fitted_weights_is_refused_though_its_scores_are_recorded(
    content: bytes | None, told: str, tmp_path: Path, run_command: Callable[..., Any]
) -> None:
    fitted = FittedWeights()
    digest = fitted.add({"mlp.down_proj.weight": torch.ones(2, 3)})

    def refit(lines: Lines) -> None:
        chosen = next(line for line in lines if line["kind"] == "chosen")
        tailoring = read_run(plain).result or read_run(plain).tailoring_of(chosen["number"])
        first, *rest = tailoring.layers
        repaired = replace(tailoring, layers=(first.with_repair(refit_to=2, fitted=digest), *rest))
        chosen["tailoring"] = repaired.to_plain()

    plain = write_run(tmp_path / "plain", Sketch(n_trials=6))
    run = changed(tmp_path / "run", refit)
    result = read_run(run).result
    assert result is not None
    file, weights = run / "best.yaml", run / "fitted" / f"{digest}.safetensors"
    result.save(file)
    fitted.save(result, run / "fitted")
    words = ("compare", run, "--tailoring", file, "--no-speed")
    code, _, err = run_command(*words)
    assert code == 0, err
    weights.unlink()
    if content is not None:
        weights.write_bytes(content)
    code, _, err = run_command(*words)
    assert code == 2
    assert f"{file}: layers[0]: " in err
    assert told.format(digest) in err


def test_a_repaired_result_is_compared_as_it_was_repaired(tmp_path: Path) -> None:
    def repair(lines: Lines) -> None:
        chosen = next(line for line in lines if line["kind"] == "chosen")
        asked = next(
            line["proposals"][0]
            for line in lines
            if line["kind"] == "asked" and line["proposals"][0]["number"] == chosen["number"]
        )
        tailoring = json.loads(json.dumps(asked["tailoring"]))
        tailoring["layers"][0] = {"source": "base:0", "gain": 0.5}
        chosen["tailoring"] = tailoring

    run = changed(tmp_path / "run", repair)
    record = read_run(run)
    model = compare([run], with_speed=False).models[-1]  # its recorded scores are found
    assert model.tailoring == record.result
    assert model.tailoring.layers[0].gain == 0.5


def test_runs_of_one_name_are_told_apart_and_a_run_given_twice_is_one_row(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / at / "run", Sketch(n_trials=6)) for at in ("a", "b")]
    again = runs[0] / ".." / ".." / "b" / "run"
    comparison = compare([*runs, runs[1], again], against=f"{again}/", with_speed=False)
    names = [model.name for model in comparison.models[4:]]
    assert names == [f"run ({run})" for run in runs]
    assert comparison.against == names[1]


def set_digest(lines: Lines) -> None:
    lines[0]["family"]["digests"]["math"] = "f" * 16


def set_examples(lines: Lines) -> None:
    lines[0]["tasks"]["stories"]["digest"] = "a-b-c"


def set_dtype(lines: Lines) -> None:
    lines[0]["config"]["family"]["dtype"] = "float16"
    lines[0]["family"]["digests"]["math"] = "f" * 16


def stop_among_baselines(lines: Lines) -> None:
    at = next(n for n, line in enumerate(lines) if line["kind"] == "finalist")
    asked = next(line["proposals"][0] for line in lines if line["kind"] == "asked")
    cost = {"seconds": 2.5, "layer_tokens": 7, "alone_layer_tokens": 9, "idle_parameters": 0}
    baseline = {"kind": "baseline", "name": "laco", "member": "math"} | cost
    lines[at:] = [baseline | {"tailoring": asked["tailoring"]}]


def test_what_can_not_be_compared_is_refused_with_a_sentence(
    two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    first = two_runs[0]
    family, examples, cases = tmp_path / "family", tmp_path / "examples", []
    sentence = r"family: has members that .*one does not have \(math\)"
    cases.append((changed(family, set_digest), sentence))
    sentence = r"other test examples than .* in the tasks stories"
    cases.append((changed(examples, set_examples), sentence))
    ends = write_run(tmp_path / "open", Sketch(n_trials=6, ends=False))
    cases.append((ends, "open: nothing was chosen yet"))
    other_dtype = changed(tmp_path / "dtype", set_dtype)
    cases.append((other_dtype, "its dtype is float16, that of .*one bfloat16; compare runs of one"))
    baselines = changed(tmp_path / "baselines", stop_among_baselines)
    cases.append((baselines, "baselines: nothing was chosen yet"))
    for other, sentence in cases:
        with pytest.raises(RecordError, match=sentence):
            compare([first, other], with_speed=False)
    with pytest.raises(ConfigError, match=r"--against: .*'maths'.*'math'"):
        compare([first], against="maths", with_speed=False)
    with pytest.raises(ConfigError, match="split"):
        compare([first], split="search", with_speed=False)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        compare([first], config=tmp_path / "nowhere.yaml", with_speed=False)
    mine = tmp_path / "mine.yaml"
    Tailoring.whole("maths", 6).save(mine)
    with pytest.raises(TailoringError, match=r"mine.yaml: layers\[0\]: unknown member 'maths'"):
        compare([first], [mine], with_speed=False)


def test_runs_that_searched_on_other_examples_are_compared_on_equal_unseen_ones(
    tmp_path: Path,
) -> None:
    def set_all(search: str) -> Callable[[Lines], None]:
        def change(lines: Lines) -> None:
            for facts in lines[0]["tasks"].values():
                facts["digest"] = f"{search}-s-t"

        return change

    runs = [changed(tmp_path / name, set_all(name)) for name in ("few", "many")]
    assert len(compare(runs, with_speed=False).models) == 6


def test_a_run_of_one_member_alone_is_compared_under_the_name_of_its_weights(
    two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    header = json.loads((two_runs[0] / "record.jsonl").read_text().splitlines()[0])
    digests = header["family"]["digests"]

    def set_base(lines: Lines) -> None:
        lines[0]["family"]["digests"] = {"base": digests["math"]}

    alone = changed(tmp_path / "alone", set_base, variants=())
    model = compare([two_runs[0], alone], with_speed=False).models[-1]
    assert model.name == "alone"
    assert {source.member for spec in model.tailoring.layers for source in spec.sources} == {"math"}
    assert model.tailoring.head == Tailoring.whole("math", 1).head


def test_a_baseline_of_one_member_alone_is_named_by_the_weights_that_it_cuts(
    two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    header = json.loads((two_runs[0] / "record.jsonl").read_text().splitlines()[0])

    def make_alone(lines: Lines) -> None:
        score_baselines(lines)
        text = json.dumps(lines).replace(" on math", " on base")
        lines[:] = json.loads(text.replace('"member": "math"', '"member": "base"'))
        lines[0]["family"]["digests"] = {"base": header["family"]["digests"]["math"]}

    alone = changed(tmp_path / "alone", make_alone, variants=(), failing=0.0)
    comparison = compare([two_runs[0], alone], with_speed=False)
    assert [model.name for model in comparison.models[5:]] == [
        *(f"cut {number} on math" for number in range(1, 6)),
        "twin on math",
    ]
    assert f"laco on math ({alone}): no such layer" in comparison.notes


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


def test_the_page_stands_alone_and_shows_names_as_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "<script>alert(1)</script>", Sketch(n_trials=6))
    path = write_comparison(compare([run], with_speed=False), tmp_path / "compare.html")
    text = path.read_text(encoding="utf-8")
    assert not {"script", "link", "img", "iframe"} & set(Tags(text).tags)
    assert "&lt;script&gt;alert(1)" in text
    assert "default-src 'none'" in text
    (tmp_path / "other.html").write_text("mine", encoding="utf-8")
    with pytest.raises(RecordError, match="no report of ours"):
        write_comparison(compare([run], with_speed=False), tmp_path / "other.html")


def test_the_command_prints_tables_or_json(
    two_runs: tuple[Path, Path], run_command: Callable[..., tuple[int, str, str]]
) -> None:
    code, text, told = run_command("compare", *two_runs, "--no-speed", "--against", "two")
    assert code == 0, told
    assert "differences from two, on the test split" in text
    assert (two_runs[0] / "compare.html").exists()
    code, text, told = run_command("compare", *two_runs, "--no-speed", "--json")
    assert code == 0, told
    plain = json.loads(text)
    assert plain["against"] == plain["best_member"] == "base"
    assert [model["name"] for model in plain["models"]][-2:] == ["one", "two"]
    task = plain["models"][-1]["tasks"][0]
    assert task["chance"] == pytest.approx(0.25)
    assert task["of_base"]["above_chance"] < task["of_base"]["kept"]
    assert plain["models"][0]["speed"] is None
