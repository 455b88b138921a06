"""What is used of lm-eval's task objects, as protocols: lm-eval itself has no types."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

__all__ = ["FewshotConfig", "LmEvalConfig", "LmEvalRequest", "LmEvalTask"]

Doc = Mapping[str, Any]


class LmEvalConfig(Protocol):
    """The keys of a task that are read here."""

    task: str
    dataset_path: str | None
    dataset_kwargs: Mapping[str, Any] | None
    training_split: str | None
    validation_split: str | None
    test_split: str | None
    num_fewshot: int | None
    description: str
    process_docs: Callable[..., Any] | None
    process_results: Callable[..., Any] | str | None


class FewshotConfig(Protocol):
    """Where few-shot examples come from."""

    split: str | None
    samples: object


class LmEvalRequest(Protocol):
    """One request: ``args`` are the context and the continuation, or a whole text."""

    args: tuple[Any, ...]
    idx: int


class LmEvalTask(Protocol):
    """A task object of lm-eval."""

    OUTPUT_TYPE: str
    config: LmEvalConfig
    fewshot_cfg: FewshotConfig
    dataset: Mapping[str, Any]
    features: list[str]
    multiple_input: int  # not 0: the choices are contexts, all with the same continuation

    @property
    def eval_docs(self) -> Any:
        """The documents of the chosen split: a `datasets.Dataset` or a list."""
        ...

    def doc_to_text(self, doc: Doc) -> Any:
        """The context, or the index of the gold choice where the choices are contexts."""
        ...

    def doc_to_target(self, doc: Doc) -> Any:
        """The gold answer or answers, as text or index; or the text to predict."""
        ...

    def doc_to_choice(self, doc: Doc) -> Any:
        """The choices."""
        ...

    def doc_to_prefix(self, doc: Doc) -> str | None:
        """The beginning of every answer."""
        ...

    def fewshot_context(self, doc: Doc, num_fewshot: int, **options: Any) -> Any:
        """The whole context: description, few-shot examples, question."""
        ...

    def construct_requests(self, doc: Doc, ctx: Any, **options: Any) -> Any:
        """The requests of one document: one, or a list."""
        ...

    def process_results(self, doc: Doc, results: Sequence[Any]) -> Mapping[str, Any]:
        """Metrics of one document from its responses."""
        ...

    def set_config(self, key: str, value: Any) -> None:
        """Change a key."""
        ...

    def set_fewshot_seed(self, seed: int) -> None:
        """Seed the choice of few-shot examples."""
        ...

    def count_bytes(self, doc: str) -> int:
        """Bytes of a text."""
        ...

    def count_words(self, doc: str) -> int:
        """Words of a text."""
        ...
