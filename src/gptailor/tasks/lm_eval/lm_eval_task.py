"""What is used of lm-eval's task objects, as protocols: lm-eval itself has no types."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["FewshotConfig", "LmEvalConfig", "LmEvalRequest", "LmEvalTask"]


class LmEvalConfig(Protocol):
    """The keys of a task."""

    task: str
    dataset_path: str | None
    dataset_kwargs: Mapping[str, Any] | None
    training_split: str | None
    validation_split: str | None
    test_split: str | None
    num_fewshot: int | None
    process_docs: Callable[..., Any] | None
    process_results: Callable[..., Any] | str | None


class FewshotConfig(Protocol):
    """Where few-shot examples come from."""

    split: str | None
    samples: object


class LmEvalRequest(Protocol):
    """A request; its arguments are a context and a continuation, or a whole text."""

    args: tuple[Any, ...]
    idx: int


class LmEvalTask(Protocol):
    """A task object; methods that return Any return what the task's templates or code make."""

    OUTPUT_TYPE: str
    config: LmEvalConfig
    fewshot_cfg: FewshotConfig
    dataset: Mapping[str, Any]
    features: list[str]
    eval_docs: Any  # a `datasets.Dataset` or a list of documents
    multiple_input: int  # not 0: the choices are contexts, all with the same continuation
    doc_to_text: Callable[..., Any]
    doc_to_target: Callable[..., Any]
    doc_to_choice: Callable[..., Any]
    doc_to_prefix: Callable[..., str | None]
    fewshot_context: Callable[..., Any]
    construct_requests: Callable[..., Any]  # one `LmEvalRequest`, or a list
    process_results: Callable[..., Mapping[str, Any]]
    set_config: Callable[..., None]
    set_fewshot_seed: Callable[..., None]
    count_bytes: Callable[[str], int]
    count_words: Callable[[str], int]
