"""TaskSpec: a task as the user asks for it, in the config or from Python."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from gptailor.core.frozen import Frozen, is_recorded, usable_path
from gptailor.core.metrics import METRICS
from gptailor.errors import ConfigError

__all__ = ["TaskSpec"]


class TaskSpec(Frozen):
    """What is measured, on which examples."""

    name: Annotated[
        str, Field(min_length=1, description="A task or group of lm-eval, or a YAML file's path.")
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
        str | None, Field(description="The task that the test examples come from, if another.")
    ] = None
    num_fewshot: Annotated[
        int | None, Field(ge=0, le=64, description="Worked examples before each question.")
    ] = None
    limit: Annotated[int | None, Field(gt=0, description="Search examples used at most.")] = None
    test_limit: Annotated[int | None, Field(gt=0, description="Test examples used at most.")] = None
    member: Annotated[
        str | None, Field(description="With metric divergence: the member it is measured from.")
    ] = None

    @field_validator("name", "test_task")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return usable_path(value)

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
