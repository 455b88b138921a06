"""The door to lm-eval: its tasks become ours, and a finished model is scored by it.

Requests are built by lm-eval's own task objects and tokenised as its Hugging Face backend does
it, so a model's scores here are lm-eval's own, example by example. lm-eval is imported inside
functions: it is slow, and most of the program does without it.
Knows nothing of tailorings or searches.
"""

import copy
import dataclasses
import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptailor.core.metrics import METRICS
from gptailor.core.trial import Measurement, Scores
from gptailor.errors import TaskError
from gptailor.tasks.encoding import Encoder
from gptailor.tasks.lm_eval import local_files
from gptailor.tasks.lm_eval.building import (
    BUILD_ERRORS,
    FEWSHOT_SEED,
    OUTPUT_TYPES,
    choose_split,
    set_fewshot,
    why_not_made,
)
from gptailor.tasks.lm_eval.error_origin import describe_error, one_line, tried_first
from gptailor.tasks.lm_eval.loaded_task import (
    LoadedTask,
    all_documents,
    build_task,
    by_leaf,
    refuse_leak,
)
from gptailor.tasks.lm_eval.runtime import as_lm_eval_runs
from gptailor.tasks.lm_eval.sandbox import in_sandbox, sandbox_like
from gptailor.tasks.lm_eval.task_file import Known
from gptailor.tasks.request import TaskSpec, TaskSplits, check_request
from gptailor.tasks.splits import divide, limited
from gptailor.tasks.task import Response, plain_numbers

__all__ = ["TaskSpec", "TaskSplits", "evaluate_model", "load_tasks"]


def load_tasks(
    requests: Sequence[TaskSpec],
    tokenizer: Any,
    *,
    max_length: int,
    seed: int,
    shares: tuple[float, float, float],
    n_tokens: int | None = None,
) -> dict[str, TaskSplits]:
    """Load tasks, divide them into parts, and tokenise every request once.

    Args:
        requests: What the user asks for.
        tokenizer: The base's Hugging Face tokenizer.
        max_length: Tokens that a model is fed at once; longer contexts lose their beginning.
        seed: Decides the parts and the order within them.
        shares: Of the search, selection and test split; where the test split comes from another
            split or task, the first two divide the split searched.
        n_tokens: Rows of the model's embedding; what the tokenizer gives is not held against
            them where None.

    Returns:
        One entry a request, in order, by the task's own name.

    Raises:
        TaskError: With the problems of all requests, a sentence each.
    """
    encoder = Encoder.of(tokenizer, max_length, n_tokens)
    loaded: dict[str, TaskSplits] = {}
    problems: list[str] = []
    for request in requests:
        try:
            with as_lm_eval_runs(), in_sandbox():
                parts = _load(request, encoder, seed, shares)
        except TaskError as error:
            problems += [
                local_files.with_file(request.name, sentence) for sentence in error.problems
            ]
            continue
        if parts.search.name in loaded:
            problems.append(f"task {parts.search.name!r} is asked for twice; name it once")
        loaded[parts.search.name] = parts
    if problems:
        raise TaskError(problems)
    return loaded


def evaluate_model(
    model: Any,
    tasks: Mapping[str, TaskSplits],
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    dtype: str = "auto",
    batch_size: int = 8,
) -> Scores:
    """Score a finished model on the test splits, through lm-eval from end to end.

    lm-eval's own model class, requests, batches and metrics are used; ours (`gold_bits_per_byte`,
    `choice_logprob`) are computed from the log-likelihoods that it returns. The global random
    states are left as they were found.

    Args:
        model: A folder or hub id, or a live Hugging Face model.
        tasks: As `load_tasks` gave them.
        tokenizer: Needed beside a live model; the folder's own where None.
        max_length: Tokens fed at once; the model's own limit where None.
        dtype: Of a model that is loaded: ``auto``, ``float32``, ``bfloat16``, ...
        batch_size: Sequences in one forward.

    Returns:
        One number an example, in the order of each task's test split.

    Raises:
        TaskError: lm-eval can't load the model or a task.
    """
    import torch

    with torch.random.fork_rng(), as_lm_eval_runs(), in_sandbox():
        backend = _backend(model, tokenizer, max_length, dtype, batch_size)
        return Scores({name: _evaluate(backend, parts) for name, parts in tasks.items()})


def _backend(
    model: Any, tokenizer: Any, max_length: int | None, dtype: str, batch_size: int
) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    device = "cuda" if torch.cuda.is_available() else "cpu"  # lm-eval's own default is cuda
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "max_length": max_length,
        "device": device,
    }
    if tokenizer is not None:
        options["tokenizer"] = copy.deepcopy(tokenizer)  # lm-eval may add a pad token
    if not isinstance(model, str | Path):
        return HFLM(pretrained=model, **options)
    try:
        return HFLM(pretrained=str(model), dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise TaskError(f"{model}: lm-eval can't load it: {str(error).splitlines()[0]}") from None


def _evaluate(backend: Any, parts: TaskSplits) -> dict[str, Measurement]:
    from lm_eval.evaluator import evaluate

    request = parts.request
    opened = _open_test(request) or _open(request.name, request.split, request.num_fewshot)
    leaves = {leaf: opened.leaves[leaf] for leaf in parts.test_docs}
    for task in leaves.values():
        task.set_fewshot_seed(FEWSHOT_SEED)
    results = evaluate(
        lm=backend,
        task_dict={"tasks": leaves, "groups": {}, "group_map": {}},
        samples={leaf: list(indices) for leaf, indices in parts.test_docs.items()},
        bootstrap_iters=0,
        log_samples=True,
    )
    samples: dict[tuple[str, int], Mapping[str, Any]] = {}
    for leaf, logged in results["samples"].items():
        for sample in logged:
            samples.setdefault((leaf, int(sample["doc_id"])), sample)
    test = parts.test
    numbers = []
    for example, origin in zip(test.examples, test.origins, strict=True):
        theirs = plain_numbers({m: samples[origin].get(m) for m in ("acc", "acc_norm")})
        numbers.append(example.score(_responses(samples[origin])) | theirs)
    n = test.n_examples
    return {
        metric: Measurement(metric, tuple(one[metric] for one in numbers), test.weights(metric, n))
        for metric in test.metrics
        if metric != "divergence"
    }


def _responses(sample: Mapping[str, Any]) -> list[Response]:
    found = sample["filtered_resps"]
    return [
        (float(one[0]), bool(one[1])) if isinstance(one, tuple | list) else (float(one), False)
        for one in found
    ]


def _load(
    request: TaskSpec, encoder: Encoder, seed: int, shares: tuple[float, float, float]
) -> TaskSplits:
    check_request(request)
    opened = _open(request.name, request.split, request.num_fewshot)
    apart = _open_test(request)
    if apart is not None and request.test_task is None and apart.splits == opened.splits:
        apart = None
    if request.test_task is None:
        refuse_leak(opened, apart or opened)
    parts = limited(
        opened.name,
        divide(
            opened.name,
            all_documents(opened),
            test=None if apart is None else all_documents(apart),
            shares=shares,
            seed=seed,
        ),
        request.limit,
        request.test_limit,
    )
    source = apart or opened
    build = functools.partial(
        build_task,
        encoder=encoder,
        divergence=request.member is not None,
    )
    search, selection = build(opened, parts.search), build(opened, parts.selection)
    test = build(source, parts.test)
    metrics = tuple(metric for metric in search.metrics if metric in test.metrics)
    if request.metric not in metrics:
        raise TaskError(
            f"task {opened.name!r} can't tell {request.metric!r}; it can tell: "
            + ", ".join(metrics)
        )
    return TaskSplits(
        search=search,
        selection=selection,
        test=test,
        test_docs=by_leaf(parts.test),
        notes=(*opened.notes, *_perplexity_notes(opened, request.metric), *parts.notes),
        request=request,
    )


def _open_test(request: TaskSpec) -> LoadedTask | None:
    """The task that is reported on, where it is another one or another split."""
    if request.test_task is None and request.test_split is None:
        return None
    return _open(request.test_task or request.name, request.test_split, request.num_fewshot)


def _open(name: str, split: str | None, num_fewshot: int | None) -> LoadedTask:
    """Let lm-eval make a task or group, choose its split and its few-shot examples."""
    files = (
        local_files.read_task_files(Path(name).expanduser()) if local_files.is_path(name) else None
    )
    own_name = name if files is None else files.name
    manager = _shipped(name) if files is None else _local(files)
    loaded = _make(own_name, manager, files)
    labels = {leaf: _label(leaf, files) for leaf in loaded["tasks"]}
    shots: dict[str, str | None] = {}
    splits: dict[str, str] = {}
    notes: list[str] = []
    for leaf, task in loaded["tasks"].items():
        _refuse_unlike(labels[leaf], task)
        try:
            shots[leaf], told = set_fewshot(leaf, task, num_fewshot)
            splits[leaf] = choose_split(labels[leaf], task, split)
        except BUILD_ERRORS as error:
            raise TaskError(
                f"{labels[leaf]}: lm-eval can't build it: {describe_error(error)}"
            ) from None
        notes += told
    group = loaded["groups"].get(own_name)
    lists = [] if group is None else group.aggregate_metric_list or []
    equal = {entry.metric for entry in lists if not entry.weight_by_size}
    if lists and (lists[0].metric in equal if "acc" not in _names(lists) else "acc" in equal):
        equal |= {"gold_bits_per_byte", "choice_logprob", "divergence"}
    if len(splits) > 1 and not lists:
        notes.append(
            f"group {own_name!r} does not say how its {len(splits)} tasks add up; they are "
            "weighted by their numbers of examples"
        )
    return LoadedTask(
        own_name, loaded["tasks"], labels, frozenset(equal), splits, shots, tuple(notes)
    )


def _names(lists: Iterable[Any]) -> set[str]:
    return {entry.metric for entry in lists}


def _label(leaf: str, files: local_files.TaskFiles | None) -> str:
    """What to call a task in a message: by its file, too, where it is the user's own."""
    if files is None:
        return f"task {leaf!r}"
    return f"{files.places.get(leaf, files.places[files.name])}: task {leaf!r}"


def _make(name: str, manager: Any, files: local_files.TaskFiles | None) -> Any:
    from datasets.exceptions import DatasetsError

    try:
        return manager.load([name])
    except (*BUILD_ERRORS, DatasetsError) as error:
        tried = tried_first(error)
        leaf = name if tried is None else str(tried[0].config.task)
        if tried is None and isinstance(error, OSError):
            raise TaskError(
                f"{_label(leaf, files)}: its data are not on this machine and can't be fetched "
                f"({one_line(error)}); load the task once where there is a network, so that the "
                "datasets cache has it, or write a YAML file of your own over a JSONL file"
            ) from None
        raise TaskError(why_not_made(_label(leaf, files), error)) from None


@functools.cache
def _manager() -> Any:
    """Index lm-eval's own tasks: ten seconds, so once, and only when asked for."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _shipped(name: str) -> Any:
    manager = _manager()
    entry = manager.task_index.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, manager.all_tasks, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise TaskError(
            f"unknown task {name!r}; {hint}a task of your own is named by the path of its YAML "
            "file, lm-eval's are listed by `lm-eval ls tasks`"
        )
    output_type = (entry.cfg or {}).get("output_type", OUTPUT_TYPES[0])
    if output_type not in OUTPUT_TYPES:
        raise TaskError(_unlike(f"task {name!r}", output_type))
    return manager


def _local(files: local_files.TaskFiles) -> Any:
    """An index that holds a local task or group, and what it refers to."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import TaskIndex

    manager = TaskManager(include_defaults=False)
    used, foreign = local_files.references(files)
    if foreign:
        for other in foreign:
            _shipped(other)
        manager.task_index.update(_manager().task_index)
    known = _known()
    problems: list[str] = []
    for name in used:
        path = files.places[name]
        try:
            config = local_files.prepared(files.configs[name], path, known=known)
        except TaskError as error:
            problems += error.problems
            continue
        TaskIndex.process_cfg(config, path, manager.task_index)
        manager.task_index[name].cfg = config
        manager.task_index[name].yaml_path = None  # lm-eval takes our config, not the file
    if problems:
        raise TaskError(problems)
    return manager


def _known() -> Known:
    from lm_eval import utils
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
    from lm_eval.api.samplers import SAMPLER_REGISTRY
    from lm_eval.config.group import GroupConfig
    from lm_eval.config.task import FewshotConfig, TaskConfig

    keys, group_keys, fewshot_keys = (
        [one.name for one in dataclasses.fields(kind)]
        for kind in (TaskConfig, GroupConfig, FewshotConfig)
    )
    return Known(
        keys=[key for key in keys if key != "custom_dataset"],
        group_keys=group_keys,
        fewshot_keys=fewshot_keys,
        metrics=list(METRIC_REGISTRY),
        aggregations=list(AGGREGATION_REGISTRY),
        samplers=list(SAMPLER_REGISTRY),
        sandbox=sandbox_like(utils.env),
    )


def _refuse_unlike(label: str, task: Any) -> None:
    from lm_eval.api.task import ConfigurableTask

    if task.OUTPUT_TYPE not in OUTPUT_TYPES:
        raise TaskError(_unlike(label, task.OUTPUT_TYPE))
    if not isinstance(task, ConfigurableTask):
        raise TaskError(f"{label} is a Python class without a config, which is not supported")
    if task.config.unsafe_code or task.config.doc_to_image or task.config.doc_to_audio:
        raise TaskError(f"{label} runs code, or shows images or sound: not supported")


def _unlike(label: str, output_type: object) -> str:
    return (
        f"{label} has the output type {output_type}; only {', '.join(OUTPUT_TYPES)} can be "
        "searched on, since they need no generated text"
    )


def _perplexity_notes(opened: LoadedTask, metric: str) -> list[str]:
    if len(opened.leaves) > 1 and METRICS[metric].transform == "exp":
        return [
            f"group {opened.name!r}: its {metric} is the perplexity of the mean, where "
            "lm-eval takes the mean of its tasks' perplexities"
        ]
    return []
