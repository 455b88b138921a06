"""A search from Python: a family in memory, a searcher of one's own, and what a run offers."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gptailor as gt
from gptailor.app.run import run_search
from gptailor.app.settings import settings_of
from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError, FamilyError, RecordError
from gptailor.study import Progress

pytestmark = pytest.mark.slow

TASKS = Path(__file__).parents[2] / "examples" / "smollm2" / "tasks"
CONFIG: dict[str, Any] = {
    "remove": 2,
    "guard": False,
    "search": {"name": "random", "options": {"batch": 3}},
    "budget": {"max_trials": 6, "n_examples": [4, 12], "finalists": 2},
    "engine": {"threads": 1},
}


@pytest.fixture(scope="session")
def family(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> gt.Family:
    """A base and two variants that were never in a file."""

    def variant(seed: int) -> Any:
        model, generator = tiny_model("llama"), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model

    variants = {"math": variant(1), "code": variant(2)}
    return gt.family_of(tiny_model("llama"), variants, tiny_tokenizer)


@pytest.fixture(scope="session")
def tasks(family: gt.Family) -> Any:
    limits = {"split": "search", "limit": 30, "test_limit": 10}
    return gt.load_tasks(
        [{"name": str(TASKS / f"{n}.yaml"), "metric": "acc", **limits} for n in ("capitals",)],
        family,
    )


@pytest.fixture(scope="session")
def run(family: gt.Family, tasks: Any, tmp_path_factory: pytest.TempPathFactory) -> gt.Run:
    folder = tmp_path_factory.mktemp("from python") / "run"
    return gt.search(CONFIG, folder, family=family, tasks=tasks)


def test_a_run_has_its_trials_its_front_and_its_best(run: gt.Run) -> None:
    assert [trial.number for trial in run.trials] == list(range(6))
    assert run.best in run.trials
    assert run.front
    assert all(trial in run.trials for trial in run.front)
    assert set(run.scores) == {"base", "math", "code", "result"}
    assert len(run.best.tailoring.layers) == 4


def test_a_fault_behind_the_choice_is_told_with_where_the_choice_is(
    family: gt.Family, tasks: Any, tmp_path: Path
) -> None:
    def fail(progress: Progress) -> None:
        if progress.phase == "test":
            raise OSError("unforeseen")

    config = settings_of(CONFIG, family=family, tasks=tasks)
    given: dict[str, Any] = {"family": family, "tasks": tasks}
    told: list[str] = []
    with pytest.raises(OSError, match="unforeseen"):
        run_search(config, tmp_path, **given, on_message=told.append, on_progress=fail)
    best = tmp_path / "best.yaml"
    assert told[-1] == f"note: the choice is in {best}: gptailor export {tmp_path} -o DIR"
    assert gt.Run(tmp_path, family=family).tailoring == Tailoring.load(best)
    with pytest.raises(OSError, match="unforeseen"):
        run_search(config, tmp_path / "none", **given, on_message=told.append, on_progress=_stop)
    assert not told[-1].startswith("note: the choice")


def _stop(progress: Progress) -> None:
    raise OSError("unforeseen")


def test_the_record_says_that_the_members_came_from_memory(run: gt.Run) -> None:
    header = json.loads((run.folder / "record.jsonl").read_text().splitlines()[0])
    assert header["family"]["paths"]["math"] == "memory://math"
    assert header["config"]["family"]["base"]["path"] == "memory://base"
    assert header["config"]["engine"]["device"] == "cpu"


def test_a_finished_search_is_not_run_again(run: gt.Run, family: gt.Family, tasks: Any) -> None:
    before = (run.folder / "record.jsonl").read_bytes()
    again = gt.search(CONFIG, run.folder, family=family, tasks=tasks)
    assert again.best == run.best
    assert (run.folder / "record.jsonl").read_bytes() == before


def test_other_weights_in_memory_do_not_go_on_with_a_run(
    run: gt.Run, tiny_model: Callable[..., Any], tiny_tokenizer: Any, tasks: Any
) -> None:
    models = [tiny_model("llama", seed=seed) for seed in (1, 2, 3)]
    other = gt.family_of(models[0], {"math": models[1], "code": models[2]}, tiny_tokenizer)
    with pytest.raises(ConfigError, match="weights of member 'base' changed"):
        gt.search(CONFIG, run.folder, family=other, tasks=tasks)


def test_evaluate_scores_what_the_search_recorded(
    run: gt.Run, family: gt.Family, tasks: Any
) -> None:
    assert gt.evaluate(run.best.tailoring, family, tasks) == run.scores["result"]
    assert gt.evaluate("base", family, tasks) == run.scores["base"]
    few = gt.evaluate("math", family, tasks, split="search", n_examples=3)
    assert few.n_examples == 3


@pytest.mark.parametrize(
    ("candidate", "split", "message"),
    [
        ("mth", "test", "unknown member 'mth'; did you mean 'math'"),
        ("math", "tset", "unknown split 'tset'; did you mean 'test'"),
    ],
)
def test_a_misspelt_member_or_split_is_told(
    family: gt.Family, tasks: Any, candidate: str, split: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        gt.evaluate(candidate, family, tasks, split=split)


def test_a_family_in_memory_is_exported_and_must_be_given_again_later(
    run: gt.Run, family: gt.Family, tmp_path: Path
) -> None:
    folder = run.export(tmp_path / "model")
    assert (folder / "model.safetensors").is_file()
    opened = gt.Run(run.folder)
    with pytest.raises(ConfigError, match=r"were in memory .* give them with family=\.\.\."):
        opened.export(tmp_path / "again")
    assert opened.export(tmp_path / "again", trial=0, family=family).is_dir()


def test_a_record_imports_nothing_that_it_names(
    run: gt.Run, family: gt.Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    first, rest = (run.folder / "record.jsonl").read_text().split("\n", 1)
    header = json.loads(first)
    header["config"] |= {
        "search": {"name": "planted:code", "options": {}},
        "workers": {"name": "planted:code", "options": {}},
    }
    (tmp_path / "record.jsonl").write_text(json.dumps(header) + "\n" + rest)
    opened = gt.Run(tmp_path, family=family)
    assert opened.best == run.best
    opened.report()
    opened.export(tmp_path / "model")
    assert "planted" not in sys.modules


def test_a_report_is_written_where_it_is_wanted(run: gt.Run, tmp_path: Path) -> None:
    assert run.report() == run.folder / "report.html"
    assert run.report(tmp_path / "page.html").stat().st_size > 10_000


def test_a_dataframe_has_a_row_for_each_trial(run: gt.Run) -> None:
    pytest.importorskip("pandas")
    table = run.to_dataframe()
    assert list(table["number"]) == list(range(6))
    assert list(table.loc[table["chosen"], "number"]) == [run.best.number]
    assert run.best.scores is not None
    value = run.best.scores.value("capitals", "acc")
    assert table["capitals acc"][run.best.number] == value
    assert "base:" in " ".join(table["layers"])


def test_without_pandas_a_sentence_says_what_to_install(
    run: gt.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(gt.UserError, match="pip install pandas"):
        run.to_dataframe()


def test_progress_is_told_after_every_trial(family: gt.Family, tasks: Any, tmp_path: Path) -> None:
    seen = []
    gt.search(
        CONFIG | {"search": "random"},
        tmp_path / "run",
        family=family,
        tasks=tasks,
        on_progress=lambda progress: seen.append((progress.phase, progress.last)),
    )
    assert [phase for phase, _ in seen][-1] == "done"
    assert [trial.number for _, trial in seen if trial is not None] == list(range(6))


def test_a_run_that_has_not_ended_has_no_best(run: gt.Run, tmp_path: Path) -> None:
    lines = (run.folder / "record.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"kind":"chosen"' not in line]
    (tmp_path / "record.jsonl").write_text("".join(kept))
    opened = gt.Run(tmp_path)
    assert len(opened.trials) == 6
    with pytest.raises(RecordError, match="no candidate was chosen yet"):
        _ = opened.best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"remov": 2}, "config: remov: unknown key 'remov'; did you mean 'remove'"),
        ({"workers": {"name": "local", "options": {"n_workers": 2}}}, "these are in memory"),
        ({"engine": {"device": "cuda"}}, "engine.device: is cuda, but the models in memory"),
        ({"family": {"variants": {"mth": "x"}}}, "leave the section 'family' out"),
    ],
)
def test_what_does_not_go_with_a_family_in_memory_is_told(
    family: gt.Family, tasks: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        gt.search(CONFIG | change, tmp_path / "run", family=family, tasks=tasks)
    assert not (tmp_path / "run").exists()


def test_a_config_in_memory_needs_a_folder(family: gt.Family, tasks: Any) -> None:
    with pytest.raises(ConfigError, match="out: name the run's folder"):
        gt.search(CONFIG, family=family, tasks=tasks)


def test_the_program_on_the_page_about_python_runs(
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (TASKS.parents[2] / "docs/reference/python.md").read_text(encoding="utf-8")
    source = page.partition("```python\n")[2].partition("```")[0]
    task = {"name": str(TASKS / "capitals.yaml"), "split": "search", "limit": 30, "test_limit": 10}
    for shown, ours in (
        ('"name": "arc_easy"', str(task)[1:-1]),
        ('"arc_easy"', '"capitals"'),
        ('"remove": 7', '"remove": 2, "engine": {"threads": 1}'),
        ('"max_trials": 200, "n_examples": [10, 270]', '"max_trials": 18, "n_examples": [4, 12]'),
    ):
        assert shown in source
        source = source.replace(shown, ours)
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(source, "python.md", "exec"), names)
    monkeypatch.chdir(tmp_path)
    models = [tiny_model("llama", seed=seed) for seed in range(3)]
    assert (names["tailor"](*models, tiny_tokenizer) / "config.json").is_file()
    run = gt.Run("runs/mine")
    assert [trial.proposal.origin for trial in run.trials] == [*["drawn"] * 8, "best of eight"] * 2
    assert run.record.header.config["search"]["name"] == "shown:best_of_eight"


def test_a_searcher_that_is_no_generator_function_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="searcher: must be a name or a generator function"):
        gt.search(CONFIG, tmp_path / "run", searcher=len)


def test_a_misspelt_key_of_a_task_is_told(family: gt.Family) -> None:
    with pytest.raises(
        ConfigError, match=r"tasks\[0\]: metrik: unknown key 'metrik'; did you mean"
    ):
        gt.load_tasks([{"name": "arc_easy", "metrik": "acc"}], family)


def test_members_in_memory_that_do_not_fit_are_all_told(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    variants = {
        "qwen": tiny_model("qwen3"),
        "short": tiny_model("llama", num_hidden_layers=4),
        "base": tiny_model("llama"),
        "text": "a path",
    }
    with pytest.raises(FamilyError) as error:
        gt.family_of(tiny_model("llama"), variants, tiny_tokenizer)
    assert all(any(f"{name!r}" in told for told in error.value.problems) for name in variants)
    assert "'text' is a str; give a transformers model" in str(error.value)


def test_equal_tensors_of_members_in_memory_are_one(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    variant = tiny_model("llama")
    with torch.no_grad():
        variant.model.layers[2].mlp.up_proj.weight.add_(1.0)
    states = gt.family_of(tiny_model("llama"), {"math": variant}, tiny_tokenizer).states
    unlike = [name for name in states["base"] if states["base"][name] is not states["math"][name]]
    assert unlike == ["model.layers.2.mlp.up_proj.weight"]


def test_a_family_in_memory_equals_the_one_loaded_from_its_files(
    family: gt.Family, tiny_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = gt.load_family(gt.MemberSpec(path=str(tmp_path)), {}, dtype=torch.float32)
    assert loaded.digests["base"] == family.digests["base"]
    weight = family.states["base"]["model.embed_tokens.weight"]
    direct = gt.family_of(model, {}, tiny_tokenizer)
    ours = direct.states["base"]["model.embed_tokens.weight"]
    assert ours.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert torch.equal(ours, weight)
