"""Open tasks in lm-eval: its own, and those of local task files.

lm-eval is imported inside functions: it is slow, and most of the program does without it.
"""

import contextlib
import difflib
import functools
import io
import logging
import random  # noqa: TID251  # only to save, seed and restore the global state
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError, unknown
from gptailor.tasks.lm_eval.building import (
    BUILD_ERRORS,
    LmEvalTask,
    one_line,
    why_not_made,
)
from gptailor.tasks.lm_eval.local_files import LocalTasks, is_path, read_local_tasks

__all__ = [
    "LoadedTask",
    "as_lm_eval_runs",
    "choose_split",
    "open_task",
    "open_test_task",
    "set_fewshot",
]

_LOGGERS = ("lm_eval", "datasets", "transformers", "accelerate", "huggingface_hub")
_RANDOM_SEED, _NUMPY_SEED = 0, 1234  # lm-eval's own defaults


@contextlib.contextmanager
def as_lm_eval_runs() -> Iterator[None]:
    """Silence output, logs and warnings; seed the global generators; restore all at the end."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        random.seed(_RANDOM_SEED)
        np.random.seed(_NUMPY_SEED)  # noqa: NPY002
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclass(frozen=True)
class LoadedTask:
    """A task or group as lm-eval made it, with one split chosen; mappings are by subtask."""

    name: str
    subtasks: Mapping[str, LmEvalTask]  # one where it is no group
    labels: Mapping[str, str]  # for messages: the name, and the file where it has one
    equal_subtasks: frozenset[str]  # metrics for which every subtask counts the same
    splits: Mapping[str, str]  # the one chosen
    shots: Mapping[str, str | None]  # the split that few-shot examples come from, if any
    notes: tuple[str, ...]  # for the user


def open_task(spec: TaskSpec) -> LoadedTask:
    """Let lm-eval make the task or group that is searched on."""
    return _open(spec.name, spec.split, spec.num_fewshot)


def open_test_task(spec: TaskSpec) -> LoadedTask | None:
    """Let lm-eval make what the test examples come from, where it is another task or split."""
    if spec.test_task is None and spec.test_split is None:
        return None
    return _open(spec.test_task or spec.name, spec.test_split, spec.num_fewshot)


def _open(name: str, split: str | None, num_fewshot: int | None) -> LoadedTask:
    """Let lm-eval make a task or group, choose its split and its few-shot examples."""
    from gptailor.tasks.lm_eval.sandbox import SandboxedTask

    files = None
    if is_path(name):
        files = read_local_tasks(Path(name).expanduser(), SandboxedTask)
    own_name = name if files is None else files.name
    loaded = _make(own_name, files)
    labels = {subtask: _label(subtask, files) for subtask in loaded["tasks"]}
    shots: dict[str, str | None] = {}
    splits: dict[str, str] = {}
    notes: list[str] = []
    for subtask, task in loaded["tasks"].items():
        _refuse_unlike(labels[subtask], task)
        try:
            shots[subtask], added = set_fewshot(subtask, task, num_fewshot)
            splits[subtask] = choose_split(labels[subtask], task, split)
        except BUILD_ERRORS as error:
            raise TaskError(why_not_made(labels[subtask], error)) from None
        notes += added
    group = loaded["groups"].get(own_name)
    lists = [] if group is None else group.aggregate_metric_list or []
    equal = {entry.metric for entry in lists if not entry.weight_by_size}
    names = [entry.metric for entry in lists]
    if names and ("acc" if "acc" in names else names[0]) in equal:
        equal |= {"gold_bits_per_byte", "choice_logprob", "divergence"}
    if len(splits) > 1 and not lists:
        notes.append(
            f"group {own_name!r} does not say how its {len(splits)} tasks add up; they are "
            "weighted by their numbers of examples"
        )
    return LoadedTask(
        own_name, loaded["tasks"], labels, frozenset(equal), splits, shots, tuple(notes)
    )


def _label(subtask: str, files: LocalTasks | None) -> str:
    """What to call a task in a message: by its file, too, where it is the user's own."""
    if files is None:
        return f"task {subtask!r}"
    return f"{files.places.get(subtask, files.places[files.name])}: task {subtask!r}"


def _make(name: str, files: LocalTasks | None) -> Any:
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DatasetsError

    from gptailor.tasks.lm_eval.sandbox import FirstExampleError

    manager = _shipped(name) if files is None else _local(files)
    try:
        return manager.load([name])
    except FirstExampleError as error:
        raise TaskError(f"{_label(error.task, files)}, {error}") from None
    except EmptyDatasetError as error:
        raise TaskError(f"{_label(name, files)}: data_dir: {error}") from None
    except OSError as error:
        raise TaskError(
            f"{_label(name, files)}: its data are not on this machine and can't be fetched "
            f"({one_line(error)}); load the task once where there is a network, so that the "
            "datasets cache has it, or write a YAML file of your own over a JSONL file"
        ) from None
    except (*BUILD_ERRORS, DatasetsError) as error:
        raise TaskError(why_not_made(_label(name, files), error)) from None


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
    return manager


def _local(tasks: LocalTasks) -> Any:
    """An index that holds a local task or group, and what it refers to."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import TaskIndex

    manager = TaskManager(include_defaults=False)
    for name in tasks.foreign:
        manager.task_index.update(_shipped(name).task_index)
    for name, config in tasks.configs.items():
        # a config with a class would be taken for a task even where it is a group
        plain = {key: config[key] for key in config if key != "class"}
        manager.task_index.pop(name, None)  # the user's own goes before lm-eval's
        TaskIndex.process_cfg(plain, tasks.places.get(name), manager.task_index)
        manager.task_index[name].cfg = config
        manager.task_index[name].yaml_path = None  # use our config, not the file
    return manager


def _refuse_unlike(label: str, task: Any) -> None:
    from lm_eval.api.task import ConfigurableTask

    if not isinstance(task, ConfigurableTask):
        raise TaskError(f"{label} is a Python class without a config, which is not supported")
    steps = [step["function"] for one in task.config.filter_list or () for step in one["filter"]]
    if task.OUTPUT_TYPE != "generate_until" and steps not in ([], ["take_first"]):
        raise TaskError(
            f"{label}: filter_list: acts on text that a model writes, and none is asked for; leave "
            "it out"
        )
    if task.config.repeats != 1:
        raise TaskError(
            f"{label} asks {task.config.repeats} times for each answer; answers are generated "
            "greedily, so once: use a task with repeats: 1"
        )
    if task.config.unsafe_code or task.config.doc_to_image or task.config.doc_to_audio:
        raise TaskError(f"{label} runs code, or shows images or sound: not supported")


def choose_split(label: str, task: LmEvalTask, wanted: str | None) -> str:
    """Make a split the one that lm-eval evaluates; return its name in the data.

    `wanted` is a split of the data, or ``train``, ``validation``, ``test`` for what the task calls
    so; None for the task's validation split, else its test, else its training split.
    """
    roles = {
        "validation": task.config.validation_split,
        "test": task.config.test_split,
        "train": task.config.training_split,
    }
    known = list(task.dataset)
    split = wanted
    if wanted is None:
        split = next((role for role in roles.values() if role is not None), None)
    elif wanted not in known:
        split = roles.get(wanted)
    if split not in known:
        raise TaskError(f"{label}: " + unknown("split", split or wanted, known))
    task.set_config("test_split", split)
    task.features = list(task.eval_docs.features)
    return str(split)


def set_fewshot(name: str, task: LmEvalTask, wanted: int | None) -> tuple[str | None, list[str]]:
    """Set the number of few-shot examples as lm-eval would; return their split and notes.

    The split is None where there are no examples, or the task lists them.
    """
    notes = []
    if task.config.num_fewshot == 0 and wanted:
        notes.append(f"task {name!r}: its own num_fewshot of 0 is kept, as lm-eval keeps it")
    elif wanted is not None or task.config.num_fewshot is None:
        task.set_config("num_fewshot", wanted or 0)
    shots = task.fewshot_cfg
    if not task.config.num_fewshot or (shots.split is None and shots.samples is not None):
        return None, notes
    if shots.split is None:
        own = (task.config.training_split, task.config.validation_split, task.config.test_split)
        # set, so that lm-eval leaves the question itself out of its own examples
        shots.split = next(split for split in own if split is not None)
    return str(shots.split), notes
