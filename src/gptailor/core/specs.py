"""MemberSpec and TaskSpec: a member and a task as a config or a Python program names them."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gptailor.core.metrics import METRICS
from gptailor.core.validation import Frozen, is_recorded, usable_path
from gptailor.errors import ConfigError

__all__ = ["BASELINE", "CONTINUED", "GENERATION", "ChatSpec", "MemberSpec", "TaskSpec"]

BASELINE = "baseline"  # the searcher's name in the config of a run of baselines
GENERATION = "generation"  # the task of a member's own greedy texts
CONTINUED = ("divergence", "critical_divergence", "flip_rate", "critical_flip_rate")  # its metrics

_Path = Annotated[str, AfterValidator(usable_path)]

_NO_NAMES = ("yes", "no", "on", "off", "y", "n", "true", "false")  # in YAML 1.1 not text


def _template(value: object) -> object:
    """Refuse what is no template's name, in one sentence for both types."""
    if value is not None and not isinstance(value, bool | str):
        raise ValueError(f"must be true, false or the name of a template, not {value!r:.60}")
    if isinstance(value, str) and value.lower() in _NO_NAMES:
        raise ValueError(f"must be true, false or the name of a template; {value!r} is a word here")
    return value


_ChatTemplate = Annotated[
    bool | str | None,
    BeforeValidator(_template),
    Field(description="true: questions go through the chat template; or a template's name."),
]
_SystemInstruction = Annotated[
    str | None, Field(description="What a system message, or else the prompt, begins with.")
]
_Multiturn = Annotated[
    bool | None,
    Field(description="Worked examples as turns of a chat; true where there is a chat template."),
]


# what lm-eval's files and command line, and earlier versions, call a key of a task
_OTHER_WORDS = {
    **{"task": "name", "tasks": "name", "metrics": "metric", "metric_list": "metric"},
    **{"validation_split": "split", "training_split": "split", "fewshot": "num_fewshot"},
    **{"apply_chat_template": "chat_template", "weights": "weight", "samples": "limit"},
    **{"report_split": "test_split", "report_task": "test_task", "report_limit": "test_limit"},
}


class MemberSpec(Frozen):
    """Where one member's weights come from; in a config, a text alone is the path."""

    path: Annotated[
        str,
        Field(
            min_length=1,
            description="Hub id, folder, LoRA adapter, GGUF file, or package://package/file.gguf.",
        ),
        AfterValidator(usable_path),
    ]
    strength: Annotated[
        float, Field(ge=-10, le=10, description="Factor on an adapter's weight change.")
    ] = 1.0
    base: Annotated[
        _Path | None, Field(description="The adapter's own base, if it is not the family's.")
    ] = None
    revision: Annotated[str | None, Field(description="A hub revision.")] = None
    read: Annotated[
        Literal["adapter", "model"] | None,
        Field(description="Of a folder that holds both: the adapter, or the whole model."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        if isinstance(value, Mapping) and "adapter" in value:  # {adapter: path, strength: 0.5}
            if "path" in value:
                raise ValueError("has both 'adapter' and 'path'; one is another word for the other")
            given = {"path" if key == "adapter" else key: item for key, item in value.items()}
            return {"read": "adapter"} | given
        return {"path": value} if isinstance(value, str) else value


class ChatSpec(Frozen):
    """How questions are put to a chat model, where a task does not say it itself."""

    chat_template: _ChatTemplate = None
    system_instruction: _SystemInstruction = None
    fewshot_as_multiturn: _Multiturn = None


class TaskSpec(Frozen):
    """What is measured, on which examples."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            description="A task or group of lm-eval, generation, or the path of a YAML or JSONL "
            "file.",
        ),
        AfterValidator(usable_path),
    ]
    metric: Annotated[
        str, Field(description="A metric built in, of a plug-in, or module:attribute.")
    ]
    weight: Annotated[float, Field(gt=0, le=1e6, description="Relative to the other tasks.")] = 1.0
    split: Annotated[
        str | None, Field(description="The data split of the search and selection examples.")
    ] = None
    test_split: Annotated[
        str | None, Field(description="The data split of the test examples, if another.")
    ] = None
    test_task: Annotated[
        _Path | None, Field(description="The task that the test examples come from, if another.")
    ] = None
    num_fewshot: Annotated[
        int | None, Field(ge=0, le=64, description="Worked examples before each question.")
    ] = None
    limit: Annotated[int | None, Field(gt=0, description="Search examples used at most.")] = None
    test_limit: Annotated[int | None, Field(gt=0, description="Test examples used at most.")] = None
    member: Annotated[
        str | None,
        Field(
            description="With metric divergence: the member it is measured from, or auto. With the "
            "task generation: the member whose texts the model's are compared with, or base."
        ),
    ] = None
    chat_template: _ChatTemplate = None
    system_instruction: _SystemInstruction = None
    fewshot_as_multiturn: _Multiturn = None

    def with_defaults(self, chat: ChatSpec) -> "TaskSpec":
        """This task, with what it does not say about chat taken from `chat`."""
        said = self.model_dump()
        defaults = {key: value for key, value in chat.model_dump().items() if said[key] is None}
        return self.model_copy(update=defaults)

    @model_validator(mode="before")
    @classmethod
    def _our_words(cls, value: object) -> object:
        if isinstance(value, Mapping):
            other = [key for key in value if key in _OTHER_WORDS]
            if other:
                raise ValueError(
                    "\n".join(
                        f"there is no {key!r} here; write {_OTHER_WORDS[key]}" for key in other
                    )
                )
        return value

    @model_validator(mode="before")
    @classmethod
    def _of_the_base(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("name") == GENERATION:
            return {**value, "member": value.get("member") or "base"}
        return value

    @model_validator(mode="after")
    def _of_a_member(self, info: ValidationInfo) -> "TaskSpec":
        if self.name != GENERATION:
            if self.member and self.metric != "divergence" and not is_recorded(info):
                raise ValueError(f"member says nothing with the metric {self.metric}; remove it")
            return self
        if self.metric not in CONTINUED:
            raise ValueError(f"the task generation has the metrics {', '.join(CONTINUED)}")
        if self.member == "auto":
            raise ValueError("the task generation needs a member by name, not auto")
        said = {key for key, item in self.model_dump().items() if item is not None}
        if more := sorted(said - {"name", "metric", "weight", "member"}):
            raise ValueError(f"the task generation has its own texts; remove {', '.join(more)}")
        return self

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str, info: ValidationInfo) -> str:
        if is_recorded(info):
            return value
        try:
            METRICS.load(value)
        except ConfigError as error:
            raise ValueError("\n".join(error.problems)) from None
        return value
