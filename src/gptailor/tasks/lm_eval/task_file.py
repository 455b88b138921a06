"""The keys of a local task file: plain data and templates, and nothing that names code.

lm-eval would call functions, load metrics and prompts by their paths, and let `datasets` choose any
reader; a file of the user's own may ask for none of that.
"""

import importlib.util
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import TemplateError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from gptailor.core.validation import Frozen, sentences
from gptailor.errors import TaskError, unknown
from gptailor.files.safe_read import refuse_pointer
from gptailor.tasks.lm_eval.json_data import json_files

__all__ = ["TaskFile", "check_task_file"]

_NEED_FILES = frozenset({"json", "csv", "text", "parquet"})  # else the current folder is searched
_READERS = _NEED_FILES | {"arrow"}
_OPTIONS = frozenset(
    [
        *("data_files", "data_dir", "revision", "name", "field", "trust_remote_code"),
        *("sep", "delimiter", "header", "names", "column_names", "quotechar", "quoting"),
        *("escapechar", "skiprows", "encoding", "keep_linebreaks", "sample_by", "columns"),
    ]
)
_FILTERS_LEFT_OUT = frozenset({"custom", "decontaminate"})  # one runs code, the other does nothing
_SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")


def _one_of(noun: Literal["metric", "aggregation", "sampler", "filter"], name: str) -> str:
    """Take a name that lm-eval has registered."""
    from lm_eval.api import registry, samplers, task  # noqa: F401  # the last registers filters

    registered = {
        "filter": registry.FILTER_REGISTRY.keys() - _FILTERS_LEFT_OUT,
        "metric": registry.METRIC_REGISTRY,
        "aggregation": registry.AGGREGATION_REGISTRY,
        "sampler": samplers.SAMPLER_REGISTRY,
    }[noun]
    if name not in registered:
        raise ValueError(unknown(noun, name, sorted(registered)))
    return name


def _tag(value: object) -> object:
    tags = value if isinstance(value, list) else [value]
    if not all(tag is None or isinstance(tag, str) for tag in tags):
        raise ValueError(f"must be text, or a list of texts, not {value!r}")
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return value


def _reader(value: str) -> str:
    """Refuse a reader of `datasets` that is not one of ours."""
    other = "://" in value or "::" in value or value.endswith(".py")
    if not other and value not in _READERS and value.isidentifier() and not Path(value).exists():
        other = importlib.util.find_spec(f"datasets.packaged_modules.{value}") is not None
    if other:
        raise ValueError(
            f"data are read as {', '.join(sorted(_READERS))}, or from a folder or a data set of "
            f"the hub, not as {value!r}"
        )
    return value


def _data_options(options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Take the options of `datasets.load_dataset` that read files as data, and no others."""
    chosen = options or {}
    known = sorted(_OPTIONS)
    problems = [unknown("option", str(key), known) for key in chosen if key not in _OPTIONS]
    if chosen.get("trust_remote_code"):
        problems.append("trust_remote_code would run code that comes with data; leave it out")
    problems += [
        f"{one!r} is no address of data; name a file, or one of https://... or hf://..."
        for one in (*_flat(chosen.get("data_files")), *_flat(chosen.get("data_dir")))
        if isinstance(one, str)
        and ("::" in one or ("://" in one and not one.startswith(("https://", "hf://"))))
    ]
    if problems:
        raise ValueError("\n".join(problems))
    return options


def _refused(reason: str) -> AfterValidator:
    """Refuse a key, unless its value is None or False."""

    def check(value: object) -> object:
        if value not in (None, False):
            raise ValueError(reason)
        return value

    return AfterValidator(check)


def _rendered(*kinds: type) -> AfterValidator:
    """Take what lm-eval renders: a template, or one of other kinds that may replace it."""

    def check(value: object) -> object:
        from gptailor.tasks.lm_eval.sandbox import compiled

        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ValueError(
                f"must be text, in quotes: a template or a column's name, not {value!r}"
            )
        if isinstance(value, str):
            try:
                compiled(value)
            except (TemplateError, SyntaxError, RecursionError, OverflowError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise ValueError(f"is not a usable template: {reason}") from None
        return value

    return AfterValidator(check)


_Code = Annotated[
    object,
    _refused(
        "runs code: a task file of your own must be plain data; write it with templates, or use a "
        "task that lm-eval ships"
    ),
]
_Media = Annotated[object, _refused("shows images or sound to a model, which is not supported")]
_Text = Annotated[object, _rendered(str, int)]
_Target = Annotated[object, _rendered(str, int, list)]
_Choices = Annotated[object, _rendered(str, list, dict)]
_Plain = Annotated[object, _rendered(str)]


class _Metric(BaseModel):
    """An entry of `metric_list` or `aggregate_metric_list`; other keys are arguments."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    metric: Annotated[str, AfterValidator(partial(_one_of, "metric"))]
    aggregation: Annotated[str, AfterValidator(partial(_one_of, "aggregation"))] = "mean"
    hf_evaluate: Annotated[
        object, _refused("loads a metric as a script, which would be run; leave it out")
    ] = None


class _Step(BaseModel):
    """One function of a filter; other keys are its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    function: Annotated[str, AfterValidator(partial(_one_of, "filter"))]
    regex_pattern: Annotated[str, AfterValidator(_pattern)] = ""


class _Filter(Frozen):
    """An entry of `filter_list`: what is done with a written text before it is judged."""

    name: Annotated[str, Field(min_length=1, pattern=r"^[^,]+$")]
    filter: Annotated[list[_Step], Field(min_length=1)]


class _Fewshot(Frozen):
    """`fewshot_config`: how few-shot examples are chosen and written."""

    sampler: Annotated[str, AfterValidator(partial(_one_of, "sampler"))] = "default"
    split: str | None = None
    process_docs: _Code = None
    fewshot_indices: list[int] | None = None
    samples: Annotated[list[dict[str, Any]] | None, Field(min_length=1)] = None
    doc_to_text: _Text = None
    doc_to_choice: _Choices = None
    doc_to_target: _Target = None
    gen_prefix: _Plain = None
    fewshot_delimiter: str = ""
    target_delimiter: str = ""


class TaskFile(Frozen):
    """A task, a group, or the keys that a group sets for its tasks."""

    task: object = None
    task_alias: object = None
    tag: Annotated[object, AfterValidator(_tag)] = None
    group: object = None
    group_alias: object = None
    aggregate_metric_list: Annotated[
        list[_Metric] | None,
        BeforeValidator(lambda value: [value] if isinstance(value, Mapping) else value),
    ] = None
    dataset_path: Annotated[str, AfterValidator(_reader)] = ""
    dataset_name: str | None = None
    dataset_kwargs: Annotated[dict[str, Any] | None, AfterValidator(_data_options)] = None
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    fewshot_split: str | None = None
    custom_dataset: _Code = None
    process_docs: _Code = None
    process_results: _Code = None
    use_prompt: _Code = None
    class_: Annotated[_Code, Field(alias="class")] = None
    unsafe_code: _Code = None
    doc_to_image: _Media = None
    doc_to_audio: _Media = None
    doc_to_text: _Text = None
    doc_to_target: _Target = None
    doc_to_choice: _Choices = None
    description: _Plain = None
    gen_prefix: _Plain = None
    doc_to_decontamination_query: _Plain = None
    should_decontaminate: object = None
    target_delimiter: str = ""
    fewshot_delimiter: str = ""
    fewshot_config: _Fewshot | None = None
    num_fewshot: Annotated[int | None, Field(ge=0, le=64)] = None
    metric_list: list[_Metric] | None = None
    output_type: str = ""
    generation_kwargs: dict[str, Any] | None = None
    repeats: Literal[1] = 1
    filter_list: list[_Filter] | None = None
    metadata: object = None


def check_task_file(where: str, config: Mapping[str, Any], *, whole: bool) -> None:
    """Raise TaskError with every problem of a config, each after `where` (the file and the task).

    A config that is not `whole` holds only keys that a group sets for its tasks.
    """
    problems, of_data = [], False
    try:
        TaskFile.model_validate(config)
    except ValidationError as error:
        problems = sentences(where, TaskFile, error)
        of_data = any(str(one["loc"][0]).startswith("dataset_") for one in error.errors())
    if whole and not of_data:
        problems += [f"{where}: {problem}" for problem in _data_problems(config)]
    if problems:
        raise TaskError(problems)


def _data_problems(config: Mapping[str, Any]) -> list[str]:
    """What a task lacks to have data and a split to evaluate."""
    source, options = config.get("dataset_path"), config.get("dataset_kwargs")
    if not source:
        return [f"dataset_path is {source!r}; give 'json' for a JSONL file of your own"]
    named = {role: config.get(role) for role in _SPLITS if config.get(role) is not None}
    given = options or {}
    found = given.get("data_files") or given.get("data_dir")  # `datasets` finds splits in a folder
    if source in _NEED_FILES and not all(isinstance(one, str) and one for one in _flat(found)):
        return [f"data_files is {found!r}; write dataset_kwargs: {{data_files: {{test: FILE}}}}"]
    _refuse_pointers([source, *_flat(found)])
    if not set(named) - {"fewshot_split"}:
        return ["it names no split: give test_split, validation_split or training_split"]
    files = json_files(source, options)
    return [
        f"{role}: " + unknown("split", str(split), files)
        for role, split in named.items()
        if files is not None and split not in files
    ]


def _refuse_pointers(paths: list[Any]) -> None:
    """Refuse pointers of Git LFS among files, and in folders, that a reader would call damaged."""
    for path in (Path(one) for one in paths if isinstance(one, str)):
        for file in sorted(path.rglob("*")) if path.is_absolute() and path.is_dir() else [path]:
            if file.is_file():
                refuse_pointer(file, TaskError)


def _flat(files: Any) -> list[Any]:
    listed = list(files.values()) if isinstance(files, Mapping) else [files]
    return [path for one in listed for path in (one if isinstance(one, list) else [one])]
