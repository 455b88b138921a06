"""Load the members and the tasks that a config names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from gptailor.config import Config
from gptailor.core.specs import GENERATION, TaskSpec
from gptailor.core.validation import sentences
from gptailor.engine.device import device_of
from gptailor.errors import ConfigError
from gptailor.family import Family, load_family
from gptailor.family.architecture import max_positions
from gptailor.family.dtypes import dtype_of
from gptailor.family.loading import MEMORY
from gptailor.tasks.calibration import Calibration, calibration_of_tasks, calibration_of_texts
from gptailor.tasks.lm_eval import load_tasks as lm_eval_tasks
from gptailor.tasks.splits import TaskSplits

__all__ = ["load_members", "load_tasks", "max_length_of", "open_calibration", "open_tasks"]

_MAX_LENGTH = 2048  # tokens, where neither the config nor the tokenizer says how many: lm-eval's


def load_members(config: Config, *, device: str | None = None) -> Family:
    """Load the family of a config; with ``engine.member_bytes`` it is left in files.

    A `device` is where the tensors are to be, if not where the config says.
    """
    if config.family.base.path.startswith(MEMORY):
        raise ConfigError(
            "the members of this run were in memory and are in no files: make them again, and give "
            "them with family=..."
        )
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    wanted = device_of(config.engine.device)
    mapped = config.engine.member_bytes is not None
    return load_family(
        config.family.base,
        config.family.variants,
        dtype=dtype_of(config.family.dtype, wanted),
        device="cpu" if mapped else device or wanted,
        mapped=mapped,
        tokenizer_from=config.family.tokenizer,
    )


def open_tasks(config: Config, family: Family) -> dict[str, TaskSplits]:
    """Load, divide and tokenise the tasks of a config, in its order; not that of generation."""
    shares, tasks = config.examples, [task for task in config.tasks if task.name != GENERATION]
    return load_tasks(
        [task.with_defaults(config.chat) for task in tasks],
        family,
        seed=config.seed,
        shares=(shares.search, shares.selection, shares.test),
        max_length=config.engine.max_length,
    )


def load_tasks(
    tasks: Sequence[TaskSpec | Mapping[str, Any]],
    family: Family,
    *,
    seed: int = 0,
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
    max_length: int | None = None,
) -> dict[str, TaskSplits]:
    """Load tasks, divide their examples into three splits, and tokenise them for a family.

    Args:
        tasks: Each a `TaskSpec`, or a mapping with its fields: ``{"name": "arc_easy", "metric":
            "acc"}``. A name is one of lm-eval's, or the path of a YAML file.
        family: Whose tokenizer reads them.
        seed: Decides which example is in which split.
        shares: Of the search, selection and test split.
        max_length: Most tokens fed at once; the model's own limit if absent.

    Returns:
        Task name to its splits.

    Raises:
        UserError: Every problem of every task, a sentence each.
    """
    specs = []
    for index, task in enumerate(tasks):
        try:
            specs.append(TaskSpec.model_validate(task))  # a TaskSpec as it is
        except ValidationError as error:
            raise ConfigError(sentences(f"tasks[{index}]", TaskSpec, error)) from None
    return lm_eval_tasks.load_tasks(
        specs,
        family.tokenizer,
        max_length=max_length_of(family, max_length),
        seed=seed,
        shares=shares,
        n_tokens=family.config.vocab_size,
    )


def max_length_of(family: Family, wanted: int | None) -> int:
    """Most tokens fed at once: the number wanted, or the model's own limit, as lm-eval finds it.

    Raises:
        ConfigError: More are wanted than the model was made for.
    """
    known = max_positions(family.config)
    if wanted is not None and known is not None and wanted > known:
        raise ConfigError(
            f"engine.max_length: is {wanted:,}, but the base was made for {known:,} tokens at "
            "most; give that or less, or leave it out"
        )
    of_tokenizer = int(family.tokenizer.model_max_length)  # 1e30 where it has none
    return wanted or known or (of_tokenizer if of_tokenizer < 2**31 else _MAX_LENGTH)


def open_calibration(
    config: Config, family: Family, tasks: Mapping[str, TaskSplits]
) -> Calibration:
    """Read the calibration texts of a config; the search examples where it names none.

    Texts that have selection or test examples of the tasks are left out.
    """
    wanted = config.calibration
    row = min(wanted.max_length, max_length_of(family, config.engine.max_length))
    limits = {"n_tokens": wanted.n_tokens, "max_length": row, "seed": wanted.seed}
    if wanted.texts is None:
        return calibration_of_tasks([splits.search for splits in tasks.values()], **limits)
    paths, n_known = [Path(text) for text in wanted.texts], int(family.config.vocab_size)
    held_out = [part for each in tasks.values() for part in (each.selection, each.test)]
    return calibration_of_texts(
        paths, family.tokenizer, n_known=n_known, held_out=held_out, **limits
    )
