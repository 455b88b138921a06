"""A task file that means harm: nothing it names is run, and it is refused with a sentence."""

import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2.exceptions import SecurityError

from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.lm_eval.sandbox import sandbox_like


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """The file that an exploit would make."""
    return tmp_path / "witness"


@pytest.fixture
def refused(
    tiny_tokenizer: Any, witness: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Load a task that must be refused without making the witness; what was told."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run(path: Path | str, **keys: Any) -> str:
        request = TaskSpec(name=str(path), metric="acc", **keys)
        with pytest.raises(TaskError) as caught:
            load_tasks([request], tiny_tokenizer, max_length=64, seed=0, shares=(0.5, 0.2, 0.3))
        assert not witness.exists()
        assert all("\n" not in sentence for sentence in caught.value.problems)
        return str(caught.value)

    return run


def payloads(witness: Path) -> list[str]:
    """Ways from a template to a shell that work in lm-eval's own environment, or might."""
    shell = f"touch {witness}"
    return [
        f"{{{{ cycler.__init__.__globals__.os.system('{shell}') }}}}",
        f"{{{{ lipsum.__globals__['os'].popen('{shell}').read() }}}}",
        f"{{{{ lipsum['__glo' ~ 'bals__']['os'].system('{shell}') }}}}",
        f"{{{{ (lipsum|attr('__globals__'))['os'].system('{shell}') }}}}",
        f"{{{{ self.__init__.__globals__.__builtins__.__import__('os').system('{shell}') }}}}",
        f"{{{{ self._TemplateReference__context.joiner.__init__.__globals__ }}}}{shell}",
        f"{{{{ joiner.__init__.__globals__['__builtins__']['open']('{witness}', 'w') }}}}",
        f"{{{{ ''.__class__.__mro__[1].__subclasses__()|map(attribute='__init__')|list }}}}{shell}",
        f"{{{{ ['{shell}']|map('attr', '__class__')|map(attribute='__mro__')|list }}}}",
        f"{{% set f = lipsum['__globals__'] %}}{{{{ f.os.system('{shell}') }}}}",
        f"{{{{ namespace.__init__.__globals__.os.system('{shell}') }}}}",
        f"{{{{ query.format.__self__.__class__.__base__.__subclasses__() }}}}{shell}",
        f"{{{{ '{{0.__class__.__base__.__subclasses__}}'.format(query) }}}}{shell}",
        f"{{{{ ('{{0.__class__}}{shell}'|attr('format'))(query) }}}}",
    ]


N_PAYLOADS = len(payloads(Path()))


def test_the_first_payload_does_harm_in_lm_evals_own_environment(witness: Path) -> None:
    from lm_eval.utils import apply_template

    apply_template(payloads(witness)[0], {"query": ""})
    assert witness.exists()


@pytest.mark.parametrize("number", range(N_PAYLOADS))
def test_no_template_gets_out(
    number: int, write_task: Any, questions: Any, refused: Any, witness: Path
) -> None:
    path = write_task("quiz", {"test": questions(10, 1)}, doc_to_text=payloads(witness)[number])
    told = refused(path)
    assert told.startswith(f"{path}: task 'quiz', example 1 (")
    assert "doc_to_text: a template may not do this: " in told


@pytest.mark.parametrize(
    "key", ["doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix"]
)
def test_every_template_of_a_file_is_rendered_in_the_sandbox(
    key: str, write_task: Any, questions: Any, refused: Any, witness: Path
) -> None:
    path = write_task("quiz", {"test": questions(10, 1)}, **{key: payloads(witness)[0]})
    told = refused(path)
    assert told.startswith(f"{path}: task 'quiz', example ")
    assert f"{key}: a template may not do this: access to attribute '__init__'" in told


@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix"])
def test_templates_of_worked_examples_are_rendered_in_the_sandbox(
    key: str, write_task: Any, questions: Any, refused: Any, witness: Path
) -> None:
    data = {"test": questions(10, 1), "train": questions(10, 31)}
    shots = {key: payloads(witness)[0]}
    keys = {"test_split": "test", "fewshot_split": "train", "num_fewshot": 1}
    told = refused(write_task("quiz", data, fewshot_config=shots, **keys))
    assert "a template may not do this" in told
    assert "example " in told


@pytest.mark.parametrize("inside", [True, False])
def test_templates_of_a_group_are_rendered_in_the_sandbox(
    inside: bool, write_task: Any, write_group: Any, questions: Any, refused: Any, witness: Path
) -> None:
    write_task("quiz", {"test": questions(10, 1)})
    evil = {"doc_to_text": payloads(witness)[0]}
    path = write_group(
        "g", [{"task": "quiz", **evil} if inside else "quiz"], **({} if inside else evil)
    )
    assert "doc_to_text: a template may not do this" in refused(path)


def test_templates_beside_the_first_example_are_rendered_in_the_sandbox(
    write_task: Any, questions: Any, refused: Any, witness: Path
) -> None:
    evil = "{% if '7:' in query %}" + payloads(witness)[0] + "{% endif %}{{query}}"
    path = write_task("quiz", {"test": questions(10, 1)}, doc_to_text=evil)
    told = refused(path)
    assert told.startswith(f"{path}: task 'quiz', example 7 (")
    assert "jsonl, line 7): doc_to_text: a template may not do this" in told


def test_a_finished_model_is_scored_in_the_sandbox(
    write_task: Any, questions: Any, tiny_tokenizer: Any, tiny_model: Any, witness: Path
) -> None:
    """The file may have changed since the search: lm-eval renders it anew."""
    path = write_task("quiz", {"test": questions(10, 1)})
    request = TaskSpec(name=str(path), metric="acc")
    parts = load_tasks([request], tiny_tokenizer, max_length=64, seed=0, shares=(0.5, 0.2, 0.3))
    config = yaml.safe_load(path.read_text()) | {"doc_to_text": payloads(witness)[0]}
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(TaskError, match="a template may not do this"):
        evaluate_model(tiny_model("llama"), parts, tokenizer=tiny_tokenizer, max_length=64)
    assert not witness.exists()


@pytest.fixture
def write(write_task: Any, write_group: Any) -> tuple[Any, Any]:
    return write_task, write_group


CODE: list[tuple[dict[str, Any], str]] = [
    ({"process_docs": "evil.f"}, "process_docs: runs code"),
    ({"process_results": "evil.f"}, "process_results: runs code"),
    ({"custom_dataset": "evil.f"}, "custom_dataset: runs code"),
    ({"use_prompt": "evil.yaml:f"}, "use_prompt: runs code"),
    ({"use_prompt": "promptsource:x"}, "use_prompt: runs code"),
    ({"class": "evil.Task"}, "class: runs code"),
    ({"unsafe_code": True}, "unsafe_code: runs code"),
    ({"doc_to_image": "query"}, ": shows images or sound"),
    ({"doc_to_audio": ["query"]}, ": shows images or sound"),
    ({"fewshot_config": {"process_docs": "evil.f"}}, "fewshot_config.process_docs: runs code"),
    ({"fewshot_config": {"sampler": "evil.S"}}, "fewshot_config.sampler: unknown sampler"),
    ({"fewshot_config": {"samples": "evil.f"}}, "fewshot_config.samples: must be a list"),
    ({"fewshot_config": "evil"}, "fewshot_config: must be a mapping"),
    ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "loads a metric as a script"),
    ({"metric_list": [{"metric": "evil.py"}]}, "unknown metric 'evil.py'"),
    ({"metric_list": [{"metric": "./evil"}]}, "unknown metric './evil'"),
    ({"metric_list": [{"metric": "acc", "aggregation": "evil.f"}]}, "unknown aggregation 'evil.f'"),
    (
        {"filter_list": [{"name": "x", "filter": [{"function": "custom", "filter_fn": "evil.f"}]}]},
        "filter_list[0].filter[0].function: unknown filter 'custom'",
    ),
    ({"filter_list": "evil"}, "filter_list: must be a list"),
    ({"dataset_path": "pandas"}, "dataset_path: data are read as arrow, csv"),
    ({"dataset_path": "sql"}, "not as 'sql'"),
    ({"dataset_path": "generator"}, "not as 'generator'"),
    ({"dataset_path": "webdataset"}, "not as 'webdataset'"),
    ({"dataset_path": "./evil.py"}, "data are read as"),
    ({"dataset_path": "ftp://host/x"}, "not as 'ftp://host/x'"),
    ({"dataset_kwargs": {"data_files": "a", "trust_remote_code": True}}, "would run code"),
    ({"dataset_kwargs": {"data_files": "a", "cache_dir": "/tmp"}}, "unknown option 'cache_dir'"),
    ({"dataset_kwargs": {"data_files": "a", "save_infos": True}}, "unknown option 'save_infos'"),
    ({"dataset_kwargs": {"data_files": "a", "storage_options": {}}}, "unknown option 'storage"),
    ({"dataset_kwargs": {"data_files": "reference://::x.json"}}, "is no address of data"),
    ({"dataset_kwargs": {"data_files": {"test": ["zip://a::b"]}}}, "is no address of data"),
    ({"dataset_kwargs": {"data_files": {"test": "ssh://h/a"}}}, "is no address of data"),
]


@pytest.mark.sampled(8)
# in a task, in a task written inside a group, for a whole group, for a task that a group names
@pytest.mark.parametrize(("keys", "sentence"), CODE, ids=[str(keys)[:60] for keys, _ in CODE])
@pytest.mark.parametrize("where", ["task", "inline", "group", "named"])
def test_what_names_code_is_refused_before_lm_eval_sees_it(
    keys: dict[str, Any], sentence: str, where: str, write: Any, questions: Any, refused: Any
) -> None:
    write_task, write_group = write
    path = write_task("quiz", {"test": questions(10, 1)}, **(keys if where == "task" else {}))
    if where == "inline":
        config = {**yaml.safe_load(path.read_text()), **keys, "task": "inside"}
        path = write_group("g", [config])
    elif where == "group":
        path = write_group("g", ["quiz"], **keys)
    elif where == "named":
        path = write_group("g", [{"task": "quiz", **keys}])
    told = refused(path)
    assert told.startswith(f"{path}: ")
    assert sentence in told


def test_a_metric_of_the_current_folder_is_not_run(
    write_task: Any, questions: Any, refused: Any, witness: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate.load("acc")` would run acc/acc.py of the folder that the program runs in."""
    path = write_task(
        "quiz", {"test": questions(10, 1)}, metric_list=[{"metric": "acc", "hf_evaluate": True}]
    )
    (path.parent / "acc").mkdir()
    (path.parent / "acc" / "acc.py").write_text(f"open({str(witness)!r}, 'w')\n")
    monkeypatch.chdir(path.parent)
    assert "loads a metric as a script" in refused(path)


def test_a_loading_script_beside_data_is_not_run(
    write_task: Any, questions: Any, refused: Any, witness: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_task(
        "quiz", {"test": questions(10, 1)}, dataset_path="./data", dataset_kwargs=None
    )
    (path.parent / "data").mkdir()
    (path.parent / "data" / "data.py").write_text(f"open({str(witness)!r}, 'w')\n")
    monkeypatch.chdir(path.parent)
    assert "scripts" in refused(path)


@pytest.mark.parametrize("reader", ["json", "csv", "text", "parquet", "arrow"])
def test_a_pickle_for_data_is_not_opened(
    reader: str, write_task: Any, questions: Any, refused: Any, witness: Path
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(witness), "w"))

    files = {"data_files": {"test": "evil.pkl"}}
    path = write_task("quiz", {}, dataset_path=reader, test_split="test", dataset_kwargs=files)
    (path.parent / "evil.pkl").write_bytes(pickle.dumps(Trap()))
    assert str(path.parent) in refused(path)


def test_a_function_in_a_file_that_is_included_is_not_run(
    write_task: Any, questions: Any, refused: Any, witness: Path
) -> None:
    path = write_task("quiz", {"test": questions(10, 1)}, include="common.yaml")
    (path.parent / "evil.py").write_text(f"open({str(witness)!r}, 'w')\ndef f(doc): return ''\n")
    (path.parent / "common.yaml").write_text("doc_to_text: !function evil.f\n")
    assert "common.yaml: calls Python code with !function" in refused(path)


def test_two_tasks_of_one_name_beside_a_group_are_refused(
    write_task: Any, write_group: Any, questions: Any, refused: Any
) -> None:
    path = write_task("quiz", {"test": questions(10, 1)})
    (path.parent / "zz.yaml").write_text(path.read_text())
    assert "'quiz' is in both" in refused(write_group("g", ["quiz"]))


# -- the sandbox itself


def test_the_sandbox_renders_as_lm_evals_own_environment_does() -> None:
    from lm_eval import utils

    sandbox = sandbox_like(utils.env)
    doc = {"query": "a  b\n", "choices": ["x", "y"], "gold": 1, "deep": {"a": [1, 2]}}
    for template in (
        "{{query}}\n",
        "{{query|regex_replace(' +', '_')}}",
        "{{choices[gold]}} {{deep.a[0]}} {{deep['a']|sum}}",
        "{% for one in choices %}{{loop.index}}. {{one}}\n{% endfor %}",
        "{{['A','B'][gold]}}{{query.strip().upper()}}{{'%s-%s' % (gold, 'x')}}{{'{}'.format(3)}}",
        "{{ '-' * 5 }}{{ 2 ** 8 }}{{ 3 * 4.5 }}",
        "{{range(3)|list}}{{choices|tojson}}{{query.split()|join(',')}}",
    ):
        ours = sandbox.from_string(template).render(**doc)
        assert ours == utils.env.from_string(template).render(**doc)


@pytest.mark.parametrize(
    "template",
    [
        *(
            "{{ 'a' * 10 ** 9 }}",
            "{{ 9 ** (9 ** 9) }}",
            "{{ [0] * 10 ** 8 }}",
            "{{ 10**9 * 'ab' }}",
        ),
        "{{ choices.append(1) }}",
        "{{ range(10 ** 7)|list }}",
    ],
)
def test_the_sandbox_has_limits(template: str) -> None:
    from lm_eval import utils

    with pytest.raises((SecurityError, OverflowError)):
        sandbox_like(utils.env).from_string(template).render(choices=[])


def test_lm_evals_own_environment_is_left_alone(
    write_task: Any, questions: Any, tiny_tokenizer: Any, witness: Path
) -> None:
    from lm_eval import utils

    theirs, render = utils.env, utils.apply_template
    path = write_task("quiz", {"test": questions(10, 1)})
    specs = [TaskSpec(name=str(path), metric="acc")]
    load_tasks(specs, tiny_tokenizer, max_length=64, seed=0, shares=(0.5, 0.2, 0.3))
    assert utils.env is theirs
    assert utils.apply_template is render
    assert not utils.env.sandboxed


def test_every_method_of_lm_eval_that_renders_is_overridden() -> None:
    """A version of lm-eval that renders a template somewhere else must not go unseen."""
    from lm_eval import utils
    from lm_eval.api import samplers
    from lm_eval.api.task import ConfigurableTask, Task

    from gptailor.tasks.lm_eval.sandbox import SandboxedTask

    refused = {"doc_to_image", "doc_to_audio", "doc_to_decontamination_query"}
    for kind in (Task, ConfigurableTask):
        for name, method in vars(kind).items():
            function = method.__func__ if isinstance(method, staticmethod) else method
            if inspect.isfunction(function) and "apply_template" in inspect.getsource(function):
                assert name in vars(SandboxedTask) or name in refused
    for module in (samplers, inspect.getmodule(ConfigurableTask)):
        assert ".from_string" not in inspect.getsource(module)
    assert "apply_template" not in inspect.getsource(samplers)
    assert utils.apply_template.__module__ == "lm_eval.utils"


def test_data_are_never_taken_for_templates(
    write_task: Any, questions: Any, tiny_tokenizer: Any, witness: Path
) -> None:
    rows = [
        one | {"query": f"{n} {payloads(witness)[0]}"} for n, one in enumerate(questions(10, 1))
    ]
    path = write_task("quiz", {"test": rows})
    request = TaskSpec(name=str(path), metric="acc")
    load_tasks([request], tiny_tokenizer, max_length=64, seed=0, shares=(0.5, 0.2, 0.3))
    assert not witness.exists()
    assert json.loads((path.parent / "quiz.test.jsonl").read_text().splitlines()[0])
