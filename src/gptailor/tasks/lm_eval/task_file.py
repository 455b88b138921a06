"""What a local task file may say: plain data and templates, and nothing that names code.

lm-eval would call functions, load metrics and prompts by their paths, and let `datasets` pick any
reader; a file of the user's own may ask for none of that. Every error of a file is found before
lm-eval sees it. Knows the layout of lm-eval's YAML, but not lm-eval.
"""

import importlib.util
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError

from gptailor.errors import unknown
from gptailor.tasks.lm_eval.json_data import json_files

__all__ = ["TEMPLATES", "Known", "group_problems", "task_problems"]

# keys that lm-eval renders; their values may be what stands beside them, too
TEMPLATES: Mapping[str, tuple[type, ...]] = {
    "doc_to_text": (str, int),
    "doc_to_target": (str, int, list),
    "doc_to_choice": (str, list, dict),
    "description": (str,),
    "gen_prefix": (str,),
    "doc_to_decontamination_query": (str,),
}
_TEXTS = ("target_delimiter", "fewshot_delimiter", "output_type")
_SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
# what lm-eval takes functions for, or loads by a path
_CODE = ("custom_dataset", "process_docs", "process_results", "use_prompt", "class", "unsafe_code")
_MEDIA = ("doc_to_image", "doc_to_audio")
_NEED_FILES = frozenset({"json", "csv", "text", "parquet"})  # else the current folder is searched
_READERS = _NEED_FILES | {"arrow"}
_OPTIONS = frozenset(
    [
        *("data_files", "data_dir", "revision", "name", "field", "trust_remote_code"),
        *("sep", "delimiter", "header", "names", "column_names", "quotechar", "quoting"),
        *("escapechar", "skiprows", "encoding", "keep_linebreaks", "sample_by", "columns"),
    ]
)
_ADDRESSES = ("https://", "hf://")


@dataclass(frozen=True, slots=True)
class Known:
    """What lm-eval knows.

    Args:
        keys: Of a task.
        group_keys: Of a group.
        fewshot_keys: Of a task's `fewshot_config`.
        metrics: By name.
        aggregations: By name.
        samplers: Ways to choose few-shot examples, by name.
        sandbox: Where templates are rendered.
    """

    keys: Collection[str]
    group_keys: Collection[str]
    fewshot_keys: Collection[str]
    metrics: Collection[str]
    aggregations: Collection[str]
    samplers: Collection[str]
    sandbox: Environment


def task_problems(config: Mapping[str, Any], known: Known) -> list[str]:
    """Every error of a task, each beginning with its key or what is wrong."""
    return [*_said_problems(config, known), *_data_problems(config)]


def group_problems(config: Mapping[str, Any], known: Known) -> list[str]:
    """Every error of a group, or of a task named in one, and of what it says for its tasks."""
    said = {key: value for key, value in config.items() if key not in known.group_keys}
    listed = config.get("aggregate_metric_list") or []
    listed = [listed] if isinstance(listed, Mapping) else listed
    problems = []
    if not isinstance(listed, list) or not all(
        isinstance(one, Mapping) and one.get("metric") in known.metrics for one in listed
    ):
        problems = [f"aggregate_metric_list is {listed!r}; write it as [{{metric: acc}}]"]
    return [*problems, *_said_problems(said, known), *_source_problems(said)]


def _said_problems(config: Mapping[str, Any], known: Known) -> list[str]:
    return [
        *_key_problems(config, known.keys),
        *_metric_problems(config.get("metric_list"), known),
        *_filter_problems(config.get("filter_list")),
        *_template_problems(config, known.sandbox),
        *_fewshot_problems(config, known),
        *_text_problems(config),
    ]


def _key_problems(config: Mapping[str, Any], keys: Collection[str]) -> Iterator[str]:
    for key, value in config.items():
        if key in _CODE:
            if value not in (None, False):
                yield (
                    f"{key} runs code: a task file of your own must be plain data; write it with "
                    "templates, or use a task that lm-eval ships"
                )
        elif key in _MEDIA:
            if value is not None:
                yield f"{key} shows images or sound to a model, which is not supported"
        elif key not in keys:
            yield unknown("key", str(key), sorted(keys))


def _metric_problems(listed: Any, known: Known) -> Iterator[str]:
    if listed is None:
        return
    if not isinstance(listed, list) or not all(
        isinstance(one, Mapping) and isinstance(one.get("metric"), str) for one in listed
    ):
        yield f"metric_list is {listed!r}; write it as [{{metric: acc}}]"
        return
    for number, one in enumerate(listed):
        if one["metric"] not in known.metrics:
            yield unknown("metric", one["metric"], sorted(known.metrics))
        if one.get("hf_evaluate"):
            yield (
                f"metric_list[{number}].hf_evaluate loads a metric as a script, which would be "
                "run; leave it out"
            )
        way = one.get("aggregation", "mean")
        if not isinstance(way, str) or way not in known.aggregations:
            told = unknown("aggregation", str(way), sorted(known.aggregations))
            yield f"metric_list[{number}].aggregation: {told}"


def _filter_problems(listed: Any) -> Iterator[str]:
    """Filters act on generated text, and none is asked for; the one that does nothing may stay."""
    if listed is None:
        return
    steps = [
        step.get("function") if isinstance(step, Mapping) else step
        for one in (listed if isinstance(listed, list) else [listed])
        for step in (one.get("filter") if isinstance(one, Mapping) else None) or [one]
    ]
    if steps != ["take_first"]:
        yield "filter_list acts on text that a model writes, and none is asked for; leave it out"


def _template_problems(config: Mapping[str, Any], sandbox: Environment) -> Iterator[str]:
    for key, kinds in TEMPLATES.items():
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, kinds) or isinstance(value, bool):
            yield f"{key} is {value!r}; it must be text, in quotes" + (
                " (a template, or a column's name)" if key.startswith("doc_to") else ""
            )
        elif isinstance(value, str):
            try:
                sandbox.from_string(value)
            except (TemplateError, SyntaxError, RecursionError, OverflowError) as error:
                told = str(error).splitlines()[0] if str(error) else type(error).__name__
                yield f"{key} is not a usable template: {told}"


def _fewshot_problems(config: Mapping[str, Any], known: Known) -> Iterator[str]:
    number = config.get("num_fewshot")
    if number is not None and (
        not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 64
    ):
        yield f"num_fewshot is {number!r}; it must be a whole number from 0 to 64"
    if config.get("repeats", 1) != 1:
        yield f"repeats is {config['repeats']!r}; each question is asked once, so leave it out"
    said = config.get("fewshot_config")
    if said is None:
        return
    if not isinstance(said, Mapping):
        yield f"fewshot_config is {said!r}; it must be a mapping"
        return
    sampler = said.get("sampler", "default")
    if not isinstance(sampler, str) or sampler not in known.samplers:
        told = unknown("sampler", str(sampler), sorted(known.samplers))
        yield f"fewshot_config.sampler: {told}"
    samples = said.get("samples")
    if samples is not None and not (
        isinstance(samples, list) and samples and all(isinstance(one, Mapping) for one in samples)
    ):
        yield "fewshot_config.samples must list examples, a mapping each"
    for error in (
        *_key_problems(said, known.fewshot_keys),
        *_template_problems(said, known.sandbox),
        *_text_problems(said),
    ):
        yield f"fewshot_config: {error}"


def _text_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for key in (*_TEXTS, "dataset_name", *_SPLITS):
        value = config.get(key)
        needed = key in _TEXTS and key in config
        if (needed or value is not None) and not isinstance(value, str):
            yield f"{key} is {value!r}; it must be text, in quotes"
    tags = config.get("tag") or []
    if not all(isinstance(tag, str) for tag in (tags if isinstance(tags, list) else [tags])):
        yield f"tag is {tags!r}; it must be text, or list some"


def _source_problems(config: Mapping[str, Any]) -> list[str]:
    """Problems of where the data come from, as far as it is said."""
    source, options = config.get("dataset_path"), config.get("dataset_kwargs")
    problems = []
    if isinstance(source, str) and _is_other_reader(source):
        problems.append(
            f"dataset_path is {source!r}; data are read as {', '.join(sorted(_READERS))}, or from "
            "a folder or a data set of the hub"
        )
    if not isinstance(options, Mapping):
        if options is not None:
            problems.append(f"dataset_kwargs is {options!r}; write {{data_files: {{test: FILE}}}}")
        return problems
    problems += [
        f"dataset_kwargs: {unknown('option', str(key), sorted(_OPTIONS))}"
        for key in options
        if key not in _OPTIONS
    ]
    if options.get("trust_remote_code"):
        problems.append(
            "dataset_kwargs.trust_remote_code would run code that comes with data; leave it out"
        )
    named = [*_flat(options.get("data_files")), options.get("data_dir")]
    problems += [
        f"dataset_kwargs: {one!r} is no address of data; name a file, or one of "
        + " or ".join(f"{address}..." for address in _ADDRESSES)
        for one in named
        if isinstance(one, str)
        and ("::" in one or ("://" in one and not one.startswith(_ADDRESSES)))
    ]
    return problems


def _is_other_reader(source: str) -> bool:
    """Whether `datasets` would read it with a reader of its own that is not one of ours."""
    if "://" in source or "::" in source or source.endswith(".py"):
        return True
    if source in _READERS or not source.isidentifier() or Path(source).exists():
        return False
    return importlib.util.find_spec(f"datasets.packaged_modules.{source}") is not None


def _data_problems(config: Mapping[str, Any]) -> list[str]:
    source, options = config.get("dataset_path"), config.get("dataset_kwargs")
    if not isinstance(source, str):
        return [f"dataset_path is {source!r}; give 'json' for a JSONL file of your own"]
    problems = _source_problems(config)
    if problems:
        return problems
    named = {role: config.get(role) for role in _SPLITS if config.get(role) is not None}
    if source in _NEED_FILES:
        found = (options or {}).get("data_files")
        if not _are_files(found):
            return [
                f"data_files is {found!r}; write dataset_kwargs: {{data_files: {{test: FILE}}}}"
            ]
    if not set(named) - {"fewshot_split"}:
        return ["it names no split: give test_split, validation_split or training_split"]
    files = json_files(config)
    return [
        f"{role}: " + unknown("split", str(split), files)
        for role, split in named.items()
        if files is not None and split not in files
    ]


def _are_files(files: Any) -> bool:
    flat = _flat(files)
    return bool(flat) and all(isinstance(path, str) and path for path in flat)


def _flat(files: Any) -> list[Any]:
    listed = list(files.values()) if isinstance(files, Mapping) else [files]
    return [path for one in listed for path in (one if isinstance(one, list) else [one])]
