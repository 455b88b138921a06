"""Few-shot examples of search and selection examples: never one that chooses or reports.

lm-eval draws them from a data split, often the one that is searched on. Its draws for test
examples are left as they are, so that scores there are lm-eval's own.
"""

import contextlib
from collections.abc import Iterable, Iterator

from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.building import BUILD_ERRORS, document_of, one_line
from gptailor.tasks.lm_eval.open_task import LoadedTask
from gptailor.tasks.splits import Document

__all__ = ["without"]


@contextlib.contextmanager
def without(held_out: Iterable[Document], opened: LoadedTask) -> Iterator[None]:
    """Let no few-shot example of a task be a held-out document, while its examples are built.

    Args:
        held_out: The documents; any split may have them, or others that read the same.
        opened: The task that is searched on.

    Raises:
        TaskError: Too few examples are left to draw from.
    """
    texts = {document.text for document in held_out}
    drawn_from = {}
    try:
        for subtask, source in opened.shots.items():
            if source is None:
                continue
            task, label = opened.subtasks[subtask], opened.labels[subtask]
            pool = list(task.sampler.fewshot_docs())
            try:
                shown = [document_of(subtask, task, n, doc).text for n, doc in enumerate(pool)]
            except (TaskError, *BUILD_ERRORS) as error:
                raise TaskError(f"{label}, split {source!r}: {one_line(error)}") from None
            left = [doc for doc, text in zip(pool, shown, strict=True) if text not in texts]
            # of the split that is searched on, lm-eval leaves out the question itself
            wanted = task.config.num_fewshot or 0
            wanted += source == opened.splits[subtask]
            if len(left) < min(wanted, len(pool)):
                raise TaskError(
                    f"{label}: its few-shot examples come from the split {source!r}, of which "
                    f"{len(left)} examples are kept neither for choosing nor for the test, and "
                    f"{wanted} are needed; give the task another fewshot_split, or a smaller "
                    "num_fewshot"
                )
            drawn_from[subtask] = pool
            task.sampler.replace_df(left)
        yield
    finally:
        for subtask, pool in drawn_from.items():
            opened.subtasks[subtask].sampler.replace_df(pool)
